"""Texts that name a clock: a preset, its coefficients, or a file of them."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from typing import Any

from jaxsched import toml
from jaxsched.clocks import presets
from jaxsched.clocks.formula import Clock, Energy, check_clock

FORMS = ("fixed=SECONDS,per_request=SECONDS,…", "FILE.toml")
"""How a clock without a name is written: its coefficients, or a file of them."""

COEFFICIENTS = tuple(field.name for field in dataclasses.fields(Clock))


def clock(text: str) -> Clock:
    """Reads the text that names a clock.

    A preset such as "llama2_70b_2xa100"; coefficients in seconds such as
    "fixed=0.02,per_request=1e-4" (those of `Clock`); or a file of them, "FILE.toml".

    Raises:
      ValueError: If there is no such clock; the text says what was expected.
      OSError: If the file cannot be read.
    """
    if isinstance(text, str) and "=" in text:
        pairs = [part.partition("=") for part in text.split(",")]
        table = {name.strip(): _number(text, number) for name, _, number in pairs}
        if len(table) < len(pairs):
            raise ValueError(f"clock {text!r}: a coefficient is there twice; expected it once")
        return _of(table, f"clock {text!r}")
    if (path := clock_file(text)) is not None:
        return read_clock(path)
    if not isinstance(text, str) or text not in presets.PRESETS:
        known = (*presets.PRESETS, *FORMS)
        raise ValueError(toml.unknown(repr(text), str(text), known, "clock"))
    return presets.PRESETS[text].clock


def energy(text: str) -> Energy | None:
    """The energy that goes with the clock of this text; None if none was published."""
    clock(text)  # refuses what is no clock
    preset = presets.PRESETS.get(text)
    return None if preset is None or preset.energy is None else preset.energy.energy


def clock_file(text: str) -> str | None:
    """The file that the text of a clock names; None if it names none."""
    return text if isinstance(text, str) and text.endswith(".toml") else None


def read_clock(path: str | os.PathLike[str]) -> Clock:
    """Reads a clock from a TOML file of its coefficients.

    Raises:
      ValueError: If it is no such file; the text names it.
      OSError: If it cannot be read.
    """
    with open(path, "rb") as file, toml.naming(path), toml.naming("not valid TOML"):
        table = tomllib.load(file)
    return _of(table, str(path))


def clock_text(law: Clock, remarks: Mapping[str, str]) -> str:
    """A clock as `read_clock` reads it, with remarks as comments."""
    lines = [f"# {name}: {text}" for name, text in remarks.items()]
    values = ((name, getattr(law, name)) for name in COEFFICIENTS)
    return "\n".join([*lines, *(f"{name} = {value!r}" for name, value in values if value)]) + "\n"


def _number(text: str, number: str) -> float:
    try:
        value = float(number)
    except ValueError:
        raise ValueError(f"clock {text!r}: {number!r} is not a number") from None
    return int(value) if value.is_integer() else value


def _of(table: Mapping[str, Any], where: str) -> Clock:
    with toml.naming(where):
        for name in table:
            toml.one_of("coefficient", name, COEFFICIENTS)
        try:
            made = Clock(**table)
            check_clock(made, 1)
        except TypeError as error:
            raise ValueError(str(error)) from None
    return made
