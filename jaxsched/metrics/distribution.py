"""Mean and percentiles of samples, exactly: sorted, never binned."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

PERCENTILES = (50, 90, 95, 99)


@dataclasses.dataclass(frozen=True)
class Distribution:
    """What is said of samples, such as the TTFT of a lane's requests; values are 0 if not valid.

    Attributes:
      count: Number of samples, int64 of shape [...].
      mean: Their mean, of shape [...].
      p50, p90, p95, p99: Percentiles by linear interpolation between order statistics (numpy's
        default, and vLLM's), each of shape [...].
    """

    count: Integers
    mean: Floats
    p50: Floats
    p90: Floats
    p95: Floats
    p99: Floats

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Where there is a sample, of shape [...]."""
        return self.count > 0


def of(values: Floats, mask: NDArray[np.bool_]) -> Distribution:
    """Of the values along the last axis that the mask picks, of shape [..., n] -> [...]."""
    count = np.sum(mask, axis=-1)
    ordered = np.sort(np.where(mask, values, np.inf), axis=-1)
    total = np.sum(np.where(mask, values, 0.0), axis=-1)

    def order_statistic(rank: Integers) -> Floats:
        return np.take_along_axis(ordered, rank[..., None], axis=-1)[..., 0]

    return _summary(count, total, order_statistic)


def of_weighted(values: Floats, weights: Integers) -> Distribution:
    """Of values that occur several times: both of shape [K], result of shape []."""
    order = np.argsort(values, kind="stable")
    ordered, last = values[order], np.cumsum(weights[order])
    count = np.asarray(last[-1] if len(last) else 0, np.int64)
    total = np.asarray(np.sum(values * weights))
    return _summary(count, total, lambda rank: ordered[np.searchsorted(last, rank, side="right")])


def _summary(
    count: Integers, total: Floats, order_statistic: Callable[[Integers], Floats]
) -> Distribution:
    valid = count > 0
    mean = np.where(valid, total / np.maximum(count, 1), 0.0)
    if not np.any(valid):
        return Distribution(count, *[np.zeros(np.shape(count))] * (1 + len(PERCENTILES)))
    quantiles = [_quantile(q / 100, count, order_statistic) for q in PERCENTILES]
    return Distribution(count, mean, *(np.where(valid, value, 0.0) for value in quantiles))


def _quantile(q: float, count: Integers, order_statistic: Callable[[Integers], Floats]) -> Floats:
    """As numpy computes it, to the last bit."""
    last = np.maximum(count - 1, 0)
    position = q * last
    below = np.floor(position).astype(np.int64)
    low, high = order_statistic(below), order_statistic(np.minimum(below + 1, last))
    share = position - below
    # Without a sample both are infinite, and the difference is not used.
    with np.errstate(invalid="ignore"):
        gap = high - low
        return np.where(share < 0.5, low + gap * share, high - gap * (1 - share))
