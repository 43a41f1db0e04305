"""What each request of a simulation saw, in seconds, and mean and percentiles of such samples."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

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
      max: The largest.
    """

    count: Integers
    mean: Floats
    p50: Floats
    p90: Floats
    p95: Floats
    p99: Floats
    max: Floats

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Where there is a sample, of shape [...]."""
        return self.count > 0


def of(values: NDArray[Any], mask: NDArray[np.bool_]) -> Distribution:
    """Of the values along the last axis that the mask picks, exactly: [..., n] -> [...]."""
    count = np.sum(mask, axis=-1)
    last = np.inf if values.dtype.kind == "f" else np.iinfo(values.dtype).max
    ordered = np.sort(np.where(mask, values, last), axis=-1)
    total = np.sum(np.where(mask, values, 0.0), axis=-1)

    def order_statistic(rank: Integers) -> Floats:
        return np.take_along_axis(ordered, rank[..., None], axis=-1)[..., 0].astype(np.float64)

    return _summary(count, total, order_statistic)


@dataclasses.dataclass(frozen=True)
class Progressions:
    """Many whole numbers, such as gaps in picoseconds; every array has shape [K].

    Each entry stands for `first`, `first + step`, `first + 2 step`, … (`length` numbers), and each
    of those occurs `weight` times.
    """

    first: Integers
    step: Integers  # at least 0
    length: Integers  # at least 1
    weight: Integers  # at least 1

    @property
    def last(self) -> Integers:
        """The largest number of each entry."""
        return self.first + (self.length - 1) * self.step

    def between(self, low: int, high: int) -> tuple[Integers, Integers, int]:
        """The numbers from low to high with their weights, and how many are less than low."""
        last = self.last
        whole = np.sum((self.length * self.weight)[last < low])
        some = (self.first <= high) & (last >= low)
        first, step, length, weight = (x[some] for x in self.columns)
        # Numbers that are all the same are one, however many: under a clock without a term for the
        # cache most gaps are.
        still, divisor = step == 0, np.maximum(step, 1)
        begin = np.where(still, 0, np.maximum(0, -(-(low - first) // divisor)))
        end = np.where(still, 1, np.minimum(length, (high - first) // divisor + 1))
        weight = np.where(still, weight * length, weight)
        inside = np.maximum(0, end - begin)
        which = np.repeat(np.arange(len(first)), inside)
        place = np.arange(len(which)) - np.repeat(np.cumsum(inside) - inside, inside)
        values = first[which] + (begin[which] + place) * step[which]
        return values, weight[which], int(whole + np.sum(begin * weight))

    @property
    def columns(self) -> tuple[Integers, ...]:
        """The arrays."""
        return self.first, self.step, self.length, self.weight

    def sample(self, size: int) -> Integers:
        """So many of the numbers, in equal steps through all of them, in ascending order."""
        upto = np.cumsum(self.length * self.weight)
        place = np.linspace(0, upto[-1] - 1, size).astype(np.int64)
        which = np.searchsorted(upto, place, side="right")
        within = place - (upto - self.length * self.weight)[which]
        return np.sort(self.first[which] + within // self.weight[which] * self.step[which])


NOTHING = Progressions(*[np.zeros(0, np.int64)] * 4)

SAMPLE_SIZE = 2**14
"""Numbers that say where a percentile lies; the rest is counted or, near it, sorted."""


def of_progressions(numbers: Progressions, unit: int) -> Distribution:
    """Of all the numbers over `unit`, exactly, though few are ever written out; of shape []."""
    each = numbers.length * numbers.weight
    count = np.asarray(np.sum(each))
    sums = numbers.length * (
        numbers.first / unit + (numbers.length - 1) * (numbers.step / unit) / 2
    )
    total = np.asarray(np.sum(sums * numbers.weight))
    sample = numbers.sample(SAMPLE_SIZE) if count > 0 else np.zeros(0, np.int64)

    def order_statistic(rank: Integers) -> Floats:
        middle, margin = int(rank / count * (SAMPLE_SIZE - 1)), 4 * math.isqrt(SAMPLE_SIZE)
        while True:  # once, unless the sample is far from the truth
            below, above = middle - margin, middle + margin
            low = numbers.first.min() if below < 0 else sample[below]
            high = numbers.last.max() if above >= SAMPLE_SIZE else sample[above]
            values, weights, less = numbers.between(low, high)
            if less <= rank < less + np.sum(weights):
                break
            margin *= 4
        order = np.argsort(values, kind="stable")
        place = np.searchsorted(np.cumsum(weights[order]), rank - less, side="right")
        return np.asarray(values[order][place] / unit)

    return _summary(count, total, order_statistic)


def _summary(
    count: Integers, total: Floats, order_statistic: Callable[[Integers], Floats]
) -> Distribution:
    valid, last = count > 0, np.maximum(count - 1, 0)
    if not np.any(valid):
        return Distribution(count, *[np.zeros(np.shape(count))] * (2 + len(PERCENTILES)))

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

    values = [
        total / np.maximum(count, 1),
        *(quantile(q / 100) for q in PERCENTILES),
        order_statistic(last),
    ]
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
