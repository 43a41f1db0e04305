"""Checks of the numbers that callers give to workloads."""

from __future__ import annotations

import numbers
from typing import Any


def whole(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int.

    Raises:
      TypeError: If it is no integer; floats such as 2.0 and booleans are none.
      ValueError: If it is less than `least`.
    """
    expected = f"expected a whole number of at least {least}"
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} is {value!r}; {expected}")
    if value < least:
        raise ValueError(f"{name} is {value}; {expected}")
    return int(value)


def number(name: str, value: Any) -> None:
    """Refuses what is no real number; booleans are none.

    Raises:
      TypeError: naming the value.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {value!r}; expected a number")
