"""What each request of a simulation saw, in seconds, and mean and percentiles of such samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from jaxsched.clocks import TICKS_PER_SECOND, to_ticks
from jaxsched.instance import Instance
from jaxsched.result import Result

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
    """Of the values along the last axis that the mask picks, exactly: [..., n] -> [...]."""
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
    valid, last = count > 0, np.maximum(count - 1, 0)
    if not np.any(valid):
        return Distribution(count, *[np.zeros(np.shape(count))] * (1 + len(PERCENTILES)))

    def quantile(q: float) -> Floats:
        """As numpy computes it, to the last bit."""
        position = q * last
        below = np.floor(position).astype(np.int64)
        low, high = order_statistic(below), order_statistic(np.minimum(below + 1, last))
        share = position - below
        # Without a sample both are infinite, and the difference is not used.
        with np.errstate(invalid="ignore"):
            gap = high - low
            return np.where(share < 0.5, low + gap * share, high - gap * (1 - share))

    values = [total / np.maximum(count, 1), *(quantile(q / 100) for q in PERCENTILES)]
    return Distribution(count, *(np.where(valid, value, 0.0) for value in values))


@dataclasses.dataclass(frozen=True)
class Requests:
    """What each request saw, in seconds; every array has shape [..., n], 0 where not finished.

    Attributes:
      ttft: Time to first token.
      tpot: Time per output token after the first; 0 for an output of one.
      e2el: End-to-end latency.
      queueing: Wait for the first admission.
      finished: Requests that completed; padding did not.
      several: Those of them with more than one output token.
    """

    ttft: Floats
    tpot: Floats
    e2el: Floats
    queueing: Floats
    finished: NDArray[np.bool_]
    several: NDArray[np.bool_]

    def only(self, counted: NDArray[np.bool_]) -> Requests:
        """Without the requests that the mask, of shape [..., n], leaves out."""
        finished, several = self.finished & counted, self.several & counted
        return dataclasses.replace(self, finished=finished, several=several)


def requests(instance: Instance, result: Result) -> Requests:
    """The times of every request, from exact picoseconds.

    Raises:
      ValueError: If the result has no times, or the arrivals are not those that were simulated.
    """
    if result.times is None:
        raise ValueError("times: the result has none; expected simulate(…, clock=…)")
    output = np.asarray(instance.output, np.int64)
    finished = np.asarray(result.completion) >= 0
    several = finished & (output > 1)
    admitted, first, last = np.moveaxis(result.ticks, -1, 0)
    arrival = arrival_ticks(instance)
    if np.any(finished & (admitted < arrival)):
        raise ValueError(
            "instance: a request arrives after its admission; expected the arrivals that were "
            "simulated (through jit they may have been float32)"
        )

    def seconds(ticks: Integers, mask: NDArray[np.bool_]) -> Floats:
        return np.where(mask, ticks, 0) / TICKS_PER_SECOND

    return Requests(
        ttft=seconds(first - arrival, finished),
        tpot=seconds(last - first, several) / np.maximum(output - 1, 1),
        e2el=seconds(last - arrival, finished),
        queueing=seconds(admitted - arrival, finished),
        finished=finished,
        several=several,
    )


def arrival_ticks(instance: Instance) -> Integers:
    """Arrivals in picoseconds, of shape [..., n]; 0 for a backlog."""
    if instance.arrival is None:
        return np.zeros(np.shape(instance.prompt), np.int64)
    return to_ticks(instance.arrival)
