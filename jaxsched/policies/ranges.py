"""Between which values each operation of a program stays: which of them 32 bits hold.

Bounds are in float64, numbers or arrays of one shape. They are exact below 2^53, and beyond that
only whether 32 bits hold something is asked.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxsched.policies.program import Op, Program

Range = tuple[Any, Any]
"""Least and largest value."""

NARROW = 2.0**31 - 1
"""What 32 bits hold, in absolute value."""

WIDEST_RANGE = 2.0**63

FIELD_RANGES: dict[str, Range] = {
    "prompt": (1.0, 2.0**28),
    "output": (1.0, 2.0**28),
    "lower": (1.0, 2.0**31 - 2),
    "upper": (1.0, 2.0**31 - 2),
    "point": (0.0, 2.0**31 - 2),
    "arrival": (0.0, 2.0**30),
    "memory": (1.0, 2.0**28),
    "rank": (0.0, 2.0**31 - 2),
    "evictions": (0.0, 2.0**30),
    "estimate": (1.0, 2.0**31 - 2),
    "generated": (0.0, 2.0**28),
    "admitted": (0.0, 2.0**30),
}
"""Field of `View` -> what it may be in any instance; see the limits in `jaxsched.instance`."""


def ranges(program: Program, known: Callable[[Op], Range]) -> list[Range]:
    """The range of every operation.

    Args:
      program: The operations.
      known: "field" or "param" -> its range.
    """
    found: list[Range] = []
    for op in program.ops:
        if op.name in ("field", "param"):
            found.append(known(op))
        elif op.name == "const":
            found.append((float(op.data), float(op.data)))
        elif op.boolean:
            found.append((0.0, 1.0))
        else:
            found.append(_wrapped(_RULES[op.name](*(found[arg] for arg in op.args))))
    return found


def narrow(bounds: Range) -> Any:
    """Whether 32 bits hold all values of a range."""
    return (bounds[0] >= -NARROW) & (bounds[1] <= NARROW)


def widths(program: Program, limit: int) -> list[int]:
    """For every operation 32, if that holds its result whatever the instance, or 64.

    Args:
      program: The operations.
      limit: Largest absolute value of the policy's numbers.
    """
    return [32 if narrow(bounds) else 64 for bounds in widest(program, limit)]


@functools.lru_cache(maxsize=1024)
def widest(program: Program, limit: int) -> tuple[Range, ...]:
    """The range of every operation in any instance; arguments as of `widths`."""

    def known(op: Op) -> Range:
        return FIELD_RANGES[op.data] if op.name == "field" else (-float(limit), float(limit))

    return tuple(ranges(program, known))


def _corners(function: Callable[[Any, Any], Any]) -> Callable[[Range, Range], Range]:
    """Of a function that is monotone in each argument."""

    def rule(a: Range, b: Range) -> Range:
        values = [function(x, y) for x in a for y in b]
        least, most = values[0], values[0]
        for value in values[1:]:
            least, most = np.minimum(least, value), np.maximum(most, value)
        return least, most

    return rule


def _wrapped(bounds: Range) -> Range:
    """Anything, where 64 bits may not hold the result."""
    inside = (bounds[0] >= -WIDEST_RANGE) & (bounds[1] < WIDEST_RANGE)
    return np.where(inside, bounds[0], -WIDEST_RANGE), np.where(inside, bounds[1], WIDEST_RANGE)


def _divided(a: Range, b: Range) -> Range:
    """Of a quotient, rounded either way."""
    size = np.maximum(np.abs(a[0]), np.abs(a[1]))
    least, most = _corners(lambda x, y: np.floor(x / y))(a, (np.maximum(b[0], 1.0), b[1]))
    positive = b[0] >= 1
    return np.where(positive, least, -size), np.where(positive, most + 1.0, size)


def _remainder(a: Range, b: Range) -> Range:
    size = np.maximum(np.abs(b[0]), np.abs(b[1]))
    return np.where(a[0] >= 0, 0.0, -size), size


def _magnitude(a: Range) -> Range:
    low, high = np.abs(a[0]), np.abs(a[1])
    inside = (a[0] <= 0) & (a[1] >= 0)
    return np.where(inside, 0.0, np.minimum(low, high)), np.maximum(low, high)


def _bits(a: Any) -> Any:
    """The number whose bits are all ones up to the highest of `a`, which is at least 0."""
    return 2.0 ** np.ceil(np.log2(np.maximum(a, 0.0) + 1.0)) - 1.0


def _bitwise(a: Range, b: Range) -> Range:
    size = _bits(np.maximum(_magnitude(a)[1], _magnitude(b)[1]))
    return np.where((a[0] >= 0) & (b[0] >= 0), 0.0, -size - 1.0), size


def _and(a: Range, b: Range) -> Range:
    low, size = _bitwise(a, b)
    either = (a[0] >= 0) | (b[0] >= 0)
    least = np.where(a[0] >= 0, np.where(b[0] >= 0, np.minimum(a[1], b[1]), a[1]), b[1])
    return np.where(either, 0.0, low), np.where(either, least, size)


def _log2(a: Range, bits: Range) -> Range:
    def log(value: Any) -> Any:
        return np.ceil((np.log2(np.maximum(value, 1.0)) + 0.1) * 2.0 ** bits[1])

    return (0.0 * a[0], log(a[1]))


_RULES: dict[str, Callable[..., Range]] = {
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "neg": lambda a: (-a[1], -a[0]),
    "mul": _corners(operator.mul),
    "max": lambda a, b: (np.maximum(a[0], b[0]), np.maximum(a[1], b[1])),
    "min": lambda a, b: (np.minimum(a[0], b[0]), np.minimum(a[1], b[1])),
    "abs": _magnitude,
    "sign": lambda a: (np.sign(a[0]), np.sign(a[1])),
    "div": _divided,
    "floordiv": _divided,
    "rem": _remainder,
    "and": _and,
    "or": _bitwise,
    "xor": _bitwise,
    "not": lambda a: (-a[1] - 1.0, -a[0] - 1.0),
    "select": lambda _, no, yes: (np.minimum(no[0], yes[0]), np.maximum(no[1], yes[1])),
    "shl": _corners(lambda x, y: x * 2.0 ** np.clip(y, 0, 63)),
    "shr": _corners(lambda x, y: np.floor(x / 2.0 ** np.clip(y, 0, 63))),
    "clz": lambda a: (0.0 * a[0], 0.0 * a[0] + 64.0),
    "log2": _log2,
    "int": lambda a: (0.0, 1.0),
    "wrap32": lambda a: (
        np.where(narrow(a), a[0], -(2.0**31)),
        np.where(narrow(a), a[1], 2.0**31 - 1),
    ),
}
"""Operation -> the range of its result from those of its arguments."""
