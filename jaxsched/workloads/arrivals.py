"""Arrivals of the requests, in rounds or in seconds.

An arrival source is a function (key, shape) -> arrivals of shape [..., n], non-decreasing along the
last axis: int32 rounds, or float64 seconds for simulations under a clock. The key is one key, or
one per lane (shape [...]).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np

from jaxsched.instance import MAX_ROUND
from jaxsched.workloads import draws
from jaxsched.workloads.checks import positive, whole

ArrivalSource = Callable[[jax.Array, tuple[int, ...]], np.ndarray]
"""(key, shape [..., n]) -> arrivals of that shape: int32 rounds or float64 seconds."""


def backlog() -> ArrivalSource:
    """Every request is there from round 0."""
    return lambda key, shape: np.zeros(shape, np.int32)


def poisson(rate: float) -> ArrivalSource:
    """A Poisson process of `rate` requests per round; those of the time [t, t + 1) arrive in t.

    a_i = floor(E_0 + … + E_i) with independent exponential E of mean 1 / rate.

    Args:
      rate: Requests per round, more than 0.
    """
    times = poisson_seconds(rate)
    return lambda key, shape: _rounds(np.floor(times(key, shape)))


def poisson_seconds(rate: float) -> ArrivalSource:
    """A Poisson process of `rate` requests per second, in seconds.

    a_i = E_0 + … + E_i with independent exponential E of mean 1 / rate. With the same key another
    rate gives the same arrivals, stretched.

    Args:
      rate: Requests per second, more than 0.
    """
    positive("rate", rate)
    return lambda key, shape: np.cumsum(-np.log(draws.uniforms(key, shape)), axis=-1) / rate


def bursts(size: int, gap: float) -> ArrivalSource:
    """Bursts of `size` requests in one round, the first in round 0.

    The times between bursts are independent and exponential with mean `gap`; burst b arrives in
    the round floor(E_1 + … + E_b).

    Args:
      size: Requests in a burst, at least 1; the last burst of a lane may be cut off by n.
      gap: Mean number of rounds between bursts, more than 0.
    """
    positive("gap", gap)
    size = whole("size", size)

    def source(key: jax.Array, shape: tuple[int, ...]) -> np.ndarray:
        count = -(-shape[-1] // size)
        gaps = -np.log(draws.uniforms(key, (*shape[:-1], count))) * gap
        gaps[..., 0] = 0.0
        starts = _rounds(np.floor(np.cumsum(gaps, axis=-1)))
        return np.repeat(starts, size, axis=-1)[..., : shape[-1]]

    return source


def from_trace(
    seconds: Sequence[float] | np.ndarray, rounds_per_second: float, *, random_start: bool = False
) -> ArrivalSource:
    """The arrivals of a trace, n requests in a row; the first of them arrives in round 0.

    a_i = ceil((seconds_i - seconds_first) · rounds_per_second): a request is known in the first
    round that starts at or after its arrival. Products within 1e-6 of a whole number count as it.

    Args:
      seconds: As in `trace_seconds`.
      rounds_per_second: Rounds in a second, more than 0.
      random_start: As in `trace_seconds`.
    """
    positive("rounds_per_second", rounds_per_second)
    times = trace_seconds(seconds, random_start=random_start)
    return lambda key, shape: to_rounds(times(key, shape), rounds_per_second)


def trace_seconds(
    seconds: Sequence[float] | np.ndarray, speed: float = 1.0, *, random_start: bool = False
) -> ArrivalSource:
    """The arrivals of a trace in seconds, n requests in a row, the first of them at 0.

    a_i = (seconds_i - seconds_first) / speed.

    Args:
      seconds: Arrival times in seconds, non-decreasing, of shape [K] with K at least n.
      speed: Factor on the rate of arrivals, more than 0.
      random_start: Whether each lane starts at a random request of the trace (one of those with
        n - 1 after it) instead of the first.
    """
    positive("speed", speed)
    times = np.asarray(seconds, np.float64)
    if times.ndim != 1 or not np.all(np.isfinite(times)) or np.any(np.diff(times) < 0):
        raise ValueError("seconds: expected finite, non-decreasing times of shape [K]")

    def source(key: jax.Array, shape: tuple[int, ...]) -> np.ndarray:
        spare = len(times) - shape[-1]
        if spare < 0:
            raise ValueError(f"n is {shape[-1]}; expected at most {len(times)}, as the trace has")
        start = np.zeros((*shape[:-1], 1), np.int64)
        if random_start:
            start = draws.below(draws.uniforms(key, start.shape), spare + 1)
        window = times[start + np.arange(shape[-1])]
        return (window - window[..., :1]) / speed

    return source


def to_rounds(seconds: np.ndarray, rounds_per_second: float) -> np.ndarray:
    """ceil(seconds · rounds_per_second) as int32 rounds, forgiving 1e-6 of rounding error."""
    positive("rounds_per_second", rounds_per_second)
    return _rounds(np.maximum(0.0, np.ceil(seconds * rounds_per_second - 1e-6)))


def _rounds(values: np.ndarray) -> np.ndarray:
    if np.max(values) > MAX_ROUND:
        last = f"the last arrival is in round {np.max(values):.0f}"
        raise ValueError(f"{last}; expected at most {MAX_ROUND}")
    return values.astype(np.int32)
