"""Split conformal calibration, one bound at a time, and its online form for a scheduler.

A bound is a quantile of the network moved by a number, on a scale on which errors are about as
large everywhere. With n calibration rows the number is the ceil((n + 1) c)-th smallest error, so
that a new row keeps the bound with a probability of at least c: Romano, Patterson and Candès, arXiv
1905.03222, with a correction for each side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Scale(NamedTuple):
    """A scale of lengths and the way back."""

    to: Callable[[Floats], Floats]
    back: Callable[[Floats], Floats]


SCALE_NAMES: dict[str, Scale] = {
    "tokens": Scale(lambda x: x, lambda x: x),
    "sqrt": Scale(np.sqrt, lambda x: np.maximum(x, 0) ** 2),
    "log": Scale(lambda x: np.log(np.maximum(x, 1.0)), lambda x: np.exp(np.minimum(x, 21))),
}
"""Scales on which bounds are moved."""

KAPLAN_STEPS = 200
SCALE_GRID = np.arange(1, KAPLAN_STEPS) / KAPLAN_STEPS
"""Coverages of one bound that are calibrated: 0.005 … 0.995; others take the next one up."""


def index(coverage: float) -> int:
    """Place in the grid of the least coverage that is at least this one.

    Raises:
      ValueError: If it is not above 0 and at most 0.995.
    """
    if not 0 < coverage <= SCALE_GRID[-1] + 1e-9:
        raise ValueError(
            f"level of a bound: got {coverage}; expected above 0, at most {SCALE_GRID[-1]}"
        )
    return max(0, math.ceil(coverage * KAPLAN_STEPS - 1e-6) - 1)


def offset(errors: Floats, coverage: float) -> float:
    """How far a bound is to be moved: the ceil((n + 1) c)-th smallest error.

    Where there are too few rows for that, the largest.
    """
    n = len(errors)
    rank = min(n, math.ceil((n + 1) * coverage - 1e-9))
    return float(np.partition(errors, rank - 1)[rank - 1])


def offsets(lower: Floats, upper: Floats, truth: Floats) -> tuple[Floats, Floats]:
    """Moves of lower and of upper bounds for each coverage of `SCALE_GRID`.

    Args:
      lower: Lower bounds on the scale, before calibration, [R, 199].
      upper: Upper bounds likewise.
      truth: True lengths on the scale, [R].
    """
    pairs = ((lower - truth[:, None]).T, (truth[:, None] - upper).T)
    down, up = (
        np.array([offset(e, c) for e, c in zip(errors, SCALE_GRID, strict=True)])
        for errors in pairs
    )
    return down, up


def censored_offsets(
    lower: Floats, upper: Floats, truth: Floats, finished: NDArray[np.bool_],
    before: tuple[Floats, Floats],
) -> tuple[Floats, Floats]:  # fmt: skip
    """As `offsets`, where only some requests are finished.

    Of the others `truth` is what they have generated so far, and they are at least that long: the
    law of the errors is that of Kaplan and Meier (1958). Where nothing finished says how long
    the longest are, an upper bound is moved as far as anything seen, or as `before` if that is
    more.
    """
    down, up = before[0].copy(), before[1].copy()
    for j, coverage in enumerate(SCALE_GRID):
        # P(error of the lower bound > x) is asked of the small lengths, which are known.
        down[j] = -censored_quantile(truth - lower[:, j], finished, 1 - coverage, below=True)
        errors = truth - upper[:, j]
        found = censored_quantile(errors, finished, coverage)
        up[j] = found if math.isfinite(found) else max(errors.max(), before[1][j])
    return down, up


def censored_quantile(
    values: Floats, finished: NDArray[np.bool_], level: float, below: bool = False
) -> float:
    """Quantile of right-censored values after Kaplan and Meier; inf where they do not say.

    The smallest value up to which the share is at least `level`; with `below` the largest up to
    which it is at most that.
    """
    order = np.lexsort((~finished, values))  # at a tie the finished one comes first
    left = len(values) - np.arange(len(values))
    # One more at risk: the next one counts too, as with split conformal bounds.
    alive = np.cumprod(1 - finished[order] / (left + 1))
    if below:
        within = int(np.sum(1 - alive <= level + 1e-12))
        return float(values[order[max(0, within - 1)]])
    reached = np.flatnonzero(1 - alive >= level - 1e-12)
    return float(values[order[reached[0]]]) if len(reached) else math.inf
