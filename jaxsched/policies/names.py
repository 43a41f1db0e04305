"""Policies by name."""

from __future__ import annotations

import functools
from collections.abc import Callable

from jaxsched.policies.interface import Policy
from jaxsched.policies.paper import a_max, a_min, fcfs, h_sf, mc_sf, svf


def _published(name: str, *arguments: str) -> Policy:
    """A policy of `jaxsched.policies.published`."""
    from jaxsched.policies import published as schedulers  # noqa: PLC0415 - it builds on this file

    return getattr(schedulers, name)(*arguments)


def _tuned(source: str) -> Policy:
    """A rule of `jaxsched.policies.files`."""
    from jaxsched.policies import files as tuned  # noqa: PLC0415 - it builds on this file

    return tuned.load_policy(source)


SHIPPED: dict[str, Callable[[], Policy]] = {
    "h_sf": h_sf,
    "a_max": a_max,
    "a_min": a_min,
    "a_min:on_eviction": functools.partial(a_min, "on_eviction"),
    "a_min:every_round": functools.partial(a_min, "every_round"),
    "mc_sf": mc_sf,
    "fcfs": fcfs,
    "svf:output": functools.partial(svf, "output"),
    "svf:point": functools.partial(svf, "point"),
    "svf:lower": functools.partial(svf, "lower"),
    "svf:upper": functools.partial(svf, "upper"),
    "sorted_f:output": functools.partial(_published, "sorted_f", "output"),
    "sorted_f:point": functools.partial(_published, "sorted_f", "point"),
    "sorted_f:lower": functools.partial(_published, "sorted_f", "lower"),
    "sorted_f:upper": functools.partial(_published, "sorted_f", "upper"),
    "gsa_spec": functools.partial(_published, "gsa_spec"),
}
"""Names that `policy` understands; `NUMBERED` has those with a number."""

NUMBERED: dict[str, Callable[[float], Policy]] = {
    "fcfs:watermark": fcfs,
    "gsa_spec:patience": functools.partial(_published, "gsa_spec"),
}


def policy(name: str) -> Policy:
    """Looks a shipped policy up by name, such as "a_min" (its default reading) or "svf:lower".

    A number may follow those in `NUMBERED`, such as "fcfs:watermark=0.01". Tuned rules are
    "tuned:NAME", one that is shipped, and "tuned:FILE", your own (see `jaxsched.policies.files`).

    Raises:
      ValueError: If there is no such policy; the text lists the right names.
      OSError: If the file of a tuned rule cannot be read.
    """
    if isinstance(name, str):
        if name in SHIPPED:
            return SHIPPED[name]()
        if name.startswith("tuned:"):
            return _tuned(name.removeprefix("tuned:"))
        plain, equals, number = name.partition("=")
        if equals and plain in NUMBERED:
            return NUMBERED[plain](_number(name, number))
    numbered = (f"{plain}=NUMBER" for plain in NUMBERED)
    names = ", ".join([*SHIPPED, *numbered, "tuned:NAME", "tuned:FILE"])
    raise ValueError(f"policy {name!r} is unknown; expected one of {names}")


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"policy {name!r}: {text!r} is not a number") from None
