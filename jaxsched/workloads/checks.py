"""Checks of the numbers that callers give to workloads."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np


def whole(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int of at least `least`; floats such as 2.0 and booleans are a TypeError."""
    expected = f"expected a whole number of at least {least}"
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} is {value!r}; {expected}")
    if value < least:
        raise ValueError(f"{name} is {value}; {expected}")
    return int(value)


def number(name: str, value: Any) -> None:
    """Refuses what is no real number; booleans are none."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {value!r}; expected a number")


def positive(name: str, value: Any) -> None:
    """Refuses what is no finite number of more than 0."""
    number(name, value)
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is {value}; expected a finite number of more than 0")


def probability(name: str, value: Any, least: int = 0) -> None:
    """Refuses what is no number from `least` (-1 for a correlation) to 1."""
    number(name, value)
    if not least <= value <= 1:
        raise ValueError(f"{name} is {value}; expected {least} to 1")


def integers(name: str, values: Any) -> np.ndarray:
    """`values` as an array, which must be of integers."""
    array = np.asarray(values)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name}: got dtype {array.dtype}; expected integers")
    return array
