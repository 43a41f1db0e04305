"""Numbers as readers see them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

NumberForm = str | Callable[[float], Any]
"""How a number is written: a format such as ".3f", or a function."""


def shown(value: float, form: NumberForm) -> Any:
    """The number in this form; a dash where there is none."""
    if math.isnan(value):
        return "–"
    return format(value, form) if isinstance(form, str) else form(value)


def with_half(mean: float, half: float, form: NumberForm) -> str:
    """A mean and half its interval in one form, such as 1,093 ± 120; the mean alone without one.

    From 10 on a half has two significant digits, if the mean is a whole number.
    """
    text = shown(mean, form)
    if math.isnan(mean) or math.isnan(half):
        return text
    if half >= 10 and "." not in text:
        return f"{text} ± {round(half, 1 - math.floor(math.log10(half))):,.0f}"
    return f"{text} ± {shown(half, form)}"


def percent(value: float) -> str:
    """A share as whole percent."""
    return f"{value:.0%}"


def count(value: float) -> str:
    """Whole numbers up to six digits, then four digits and a unit."""
    for factor, unit in ((1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.4g} {unit}"
    return f"{value:,.0f}"


def rounds(value: float) -> str:
    """Rounds, with one decimal below 100."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def seconds(value: float) -> str:
    """Three significant digits, and no decimals from 100 on."""
    if value >= 100:
        return f"{value:,.0f}"
    if value <= 0:
        return "0"
    return f"{value:.{min(4, max(0, 2 - math.floor(math.log10(value))))}f}"


def said_rounds(value: float) -> str:
    """Rounds with their unit."""
    return f"{rounds(value)} rounds"


def said_seconds(value: float) -> str:
    """Seconds with their unit."""
    return f"{seconds(value)} s"


def plain(value: float) -> str:
    """A number as it is, with commas: what axes show instead of powers of ten."""
    return f"{value:,g}"


def duration(value: float) -> str:
    """Seconds as people say them: 0.4 s, 12 s, 3 min, 5.2 h, 3.1 days."""
    for limit, unit, name in ((60, 1, "s"), (3600, 60, "min"), (48 * 3600, 3600, "h")):
        if value < limit:
            number = value / unit
            return f"{number:.1f} {name}" if number < 10 else f"{number:.0f} {name}"
    return f"{value / 86400:.1f} days"


def size(value: float) -> str:
    """Bytes as people say them: 640 MB, 1.3 GB."""
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


UNIT_FORMS: dict[str, NumberForm] = {
    "s": seconds,
    "whole s": "{:,.0f} s".format,
    "1/s": ".3f",
    "tokens": ",.0f",
    "tokens/s": ",.0f",
    "share": percent,
    "percent": lambda value: f"{math.floor(10 * value) / 10:.1f} %",  # 99.96 does not reach 100
    "J": count,
    "J/token": ".2f",
    "": count,
}
"""How the values of a unit are written, by the units of `jaxsched.metrics.METRICS`."""
