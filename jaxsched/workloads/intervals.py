"""Predicted intervals [lower, upper] of the output lengths.

An interval source is a function (key, output) -> (lower, upper) of int32 arrays of the shape
[..., n] of `output`. The key is one key, or one per lane (shape [...]); `draws.uniforms` takes
either, and makes what a lane gets independent of the other lanes.
"""

from __future__ import annotations

import fractions
import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from numpy.typing import ArrayLike

from jaxsched.instance import MAX_LENGTH
from jaxsched.workloads import checks, draws
from jaxsched.workloads.checks import integers, number, whole

IntervalSource = Callable[[jax.Array, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(key, output of shape [..., n]) -> (lower, upper), int32 of the same shape."""

MAX_DENOMINATOR = 10**6
"""Relative widths are read as fractions with at most this denominator: rounding is exact."""

OPEN_ENDED = "open_ended=True counts longer ones to the last class"
"""What to do about outputs beyond the last class, as errors say it."""


def one_for_all(lower: int, upper: int) -> IntervalSource:
    """The same interval [lower, upper] for every request, whether or not the truth lies in it."""
    if not whole("lower", lower) <= whole("upper", upper) <= MAX_LENGTH:
        given = f"interval is [{lower}, {upper}]"
        raise ValueError(f"{given}; expected 1 <= lower <= upper <= {MAX_LENGTH}")

    @_of_arrays
    def source(key: jax.Array, output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.full(output.shape, lower, np.int32), np.full(output.shape, upper, np.int32)

    return source


def classes(
    edges: Sequence[int] | None = None,
    *,
    width: int | None = None,
    count: int | None = None,
    open_ended: bool = False,
) -> IntervalSource:
    """The class of the true length: class j is the lengths edges[j] … edges[j + 1] - 1.

    Args:
      edges: Strictly increasing, at least 0, of shape [K + 1] for K classes.
      width: Instead of edges: classes [1, width], [width + 1, 2 width], … of equal width,
      count: and how many of them.
      open_ended: Whether an output beyond the last class gets the last class (whose upper bound
        it then exceeds). Otherwise such an output is refused.

    Returns:
      A source that raises ValueError, naming lane and request, for an output of no class.
    """
    table = _edges(edges, width, count)
    return _of_arrays(lambda key, output: _bounds(table, _class_of(table, output, open_ended)))


def relative(x: float) -> IntervalSource:
    """[(1 - x) o, (1 + x) o] around the truth o, rounded outwards.

    lower = max(1, floor((1 - x) o)), upper = ceil((1 + x) o). x is read as the fraction it stands
    for (0.1 is 1/10), so that (1 + 0.1) · 10 is 11 and not 12. x = 0 predicts exactly.

    Args:
      x: Relative half-width, at least 0 and less than 1.
    """
    part = _fraction("x", x)
    if not 0 <= part < 1:
        raise ValueError(f"x is {x}; expected at least 0 and less than 1")

    @_of_arrays
    def source(key: jax.Array, output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        o, num, den = output.astype(np.int64), part.numerator, part.denominator
        return _checked(np.maximum(1, (den - num) * o // den), -((-(den + num) * o) // den))

    return source


def random_around(*, width: int | None = None, x: float | None = None) -> IntervalSource:
    """An interval of given width, placed at random so that the truth o lies in it.

    lower = o - D, upper = lower + W with D uniform in 0 … min(W, o - 1).

    Args:
      width: W = upper - lower in tokens, the same for all; or
      x: W = ceil(2 x o), at least 0: as wide as `relative(x)`, rounding apart.
    """
    if (width is None) == (x is None):
        raise ValueError(f"width is {width}, x is {x}; expected one of the two")
    part = _fraction("x", 0 if x is None else x)
    if part < 0 or (width is not None and whole("width", width, 0) > MAX_LENGTH):
        raise ValueError(
            f"width is {width}, x is {x}; expected x of at least 0, width up to {MAX_LENGTH}"
        )

    @_of_arrays
    def source(key: jax.Array, output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        o = output.astype(np.int64)
        span = np.int64(width) if x is None else -(-2 * part.numerator * o // part.denominator)
        offset = draws.below(draws.uniforms(key, output.shape), np.minimum(span, o - 1) + 1)
        return _checked(o - offset, o - offset + span)

    return source


def wrong(base: IntervalSource, probability: float) -> IntervalSource:
    """The intervals of `base`, but with the given probability one that misses the truth o.

    A wrong interval keeps the width W = upper - lower and lies, by a fair coin, above
    ([o + 1 + D, o + 1 + D + W]) or below ([o - 1 - D - W, o - 1 - D]) the truth, with the gap D
    uniform in 0 … W. Below, D goes as far as o - 2 and the lower bound is at least 1; an output of
    1 has no room below and is always missed from above.

    Args:
      base: The source to disturb.
      probability: Probability of a wrong interval, 0 to 1.
    """
    checks.probability("probability", probability)

    @_of_arrays
    def source(key: jax.Array, output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lower, upper = base(draws.purpose(draws.for_lanes(key, output.shape[:-1]), 0), output)
        missed, coin, gap = (draws.uniforms(key, output.shape, j) for j in (1, 2, 3))
        low, high = _beside(lower, upper, output, coin, gap)
        move = missed < probability
        return _checked(np.where(move, low, lower), np.where(move, high, upper))

    return source


def from_classes(edges: Sequence[int], predicted: np.ndarray) -> IntervalSource:
    """Real predictions: class edges and the predicted class of each request, right or wrong.

    Args:
      edges: Class edges as in `classes`, of shape [K + 1]; give the last class a finite edge.
      predicted: Predicted classes 0 … K - 1, of shape [n] or [..., n].

    Returns:
      A source for outputs of the shape of `predicted`, or with more lanes in front.
    """
    table, chosen = _edges(edges), integers("predicted", predicted)
    last = len(table) - 2
    _refuse((chosen < 0) | (chosen > last), "predicted class", chosen, f"0 to {last}")

    @_of_arrays
    def source(key: jax.Array, output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if output.shape[-chosen.ndim :] != chosen.shape:
            raise ValueError(
                f"predicted: got shape {list(chosen.shape)} for outputs of shape "
                f"{list(output.shape)}; expected a class for each request"
            )
        return _bounds(table, np.broadcast_to(chosen, output.shape))

    return source


def confusion(edges: Sequence[int], counts: np.ndarray) -> IntervalSource:
    """Predicted classes drawn given the true class: P(j | i) = counts[i, j] / sum_j counts[i, j].

    Args:
      edges: Class edges as in `classes`, of shape [K + 1]; outputs beyond the last edge are of
        the last class.
      counts: How often class j was predicted for class i, of shape [K, K].
    """
    table, rows = _edges(edges), np.asarray(counts, np.float64)
    size = len(table) - 1
    if rows.shape != (size, size) or np.min(rows) < 0 or not np.all(rows.sum(axis=1) > 0):
        raise ValueError(f"counts: expected shape {[size, size]}, no negatives, no row of zeros")
    cumulative = np.cumsum(rows, axis=1) / rows.sum(axis=1, keepdims=True)

    @_of_arrays
    def source(key: jax.Array, output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        true = _class_of(table, output, open_ended=True)
        uniform = draws.uniforms(key, output.shape)
        drawn = np.zeros(output.shape, np.int64)
        for j in range(size - 1):
            drawn += uniform > cumulative[true, j]
        return _bounds(table, drawn)

    return source


def _of_arrays(source: IntervalSource) -> IntervalSource:
    """The source, for outputs in anything `numpy.asarray` takes."""

    @functools.wraps(source)
    def checked(key: jax.Array, output: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        return source(key, integers("output", output))

    return checked


def _edges(
    edges: Sequence[int] | None, width: int | None = None, count: int | None = None
) -> np.ndarray:
    if (edges is None) == (width is None) or (width is None) != (count is None):
        given = f"edges = {edges}, width = {width}, count = {count}"
        raise ValueError(f"{given}; expected either edges, or width and count")
    if edges is None:
        edges = [1 + whole("width", width) * j for j in range(whole("count", count) + 1)]
    table = np.asarray(edges)
    if table.ndim != 1 or len(table) < 2 or not np.issubdtype(table.dtype, np.integer):
        raise ValueError(f"edges = {edges}; expected at least two integers")
    # An edge of 1 after one of 0 would bound an empty class: lengths start at 1.
    if table[0] < 0 or np.any(np.diff(np.maximum(table, 1)) <= 0) or table[-1] > MAX_LENGTH + 1:
        raise ValueError(f"edges = {edges}; expected increasing, at least 0, no class empty")
    return table.astype(np.int64)


def _class_of(table: np.ndarray, output: np.ndarray, open_ended: bool) -> np.ndarray:
    index = np.searchsorted(table, output, side="right") - 1
    if open_ended:
        index = np.minimum(index, len(table) - 2)
    last = table[-1]
    expected = f"a length in a class, {max(1, table[0])} to {last - 1}"
    bad = (index < 0) | (index > len(table) - 2)
    _refuse(bad, "output", output, expected, lambda x: f" ({OPEN_ENDED})" if x >= last else "")
    return index


def _bounds(table: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _checked(np.maximum(1, table[index]), table[index + 1] - 1)


def _beside(
    lower: np.ndarray, upper: np.ndarray, output: np.ndarray, coin: np.ndarray, gap: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The interval moved off the truth, above or below it."""
    o, width = output.astype(np.int64), upper.astype(np.int64) - lower
    under = (coin < 0.5) & (o >= 2)
    room = np.where(under, np.minimum(width, np.maximum(o - 2, 0)), width)
    distance = 1 + draws.below(gap, room + 1)
    high = np.where(under, o - distance, o + distance + width)
    return np.maximum(1, high - width), high


def _checked(lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _refuse(upper > MAX_LENGTH, "upper", upper, f"at most {MAX_LENGTH}")
    return lower.astype(np.int32), upper.astype(np.int32)


def _fraction(name: str, value: float) -> fractions.Fraction:
    number(name, value)
    if not np.isfinite(value):
        raise ValueError(f"{name} is {value}; expected a finite number")
    return fractions.Fraction(repr(float(value))).limit_denominator(MAX_DENOMINATOR)


def _refuse(
    bad: np.ndarray, name: str, values: np.ndarray, expected: str,
    advice: Callable[[int], str] = lambda value: "",
) -> None:  # fmt: skip
    """Names the first request, of [..., n], that is bad."""
    if not bad.any():
        return
    *lane, request = np.argwhere(bad)[0].tolist()
    place = f"lane {'/'.join(map(str, lane))}, " * bool(lane) + f"request {request}"
    value = values[*lane, request]
    raise ValueError(f"{place}: {name} is {value}; expected {expected}{advice(value)}")
