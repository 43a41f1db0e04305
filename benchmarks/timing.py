"""Side by side and interleaved: every contender runs once, then every contender once more."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from jaxsched import Instance, Result, policy, simulate

TURN = 0.02
"""Seconds that a turn takes at least: shorter runs are run several times and averaged."""


def processor_turns(
    runs: Mapping[str, Callable[[], object]], repeats: int
) -> dict[str, NDArray[np.float64]]:
    """Processor seconds of contenders in turns, [repeats] of each, after a turn that compiles.

    The machine is now faster and now slower; the ratios of a turn hardly notice.
    """
    took: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            begun = time.process_time()
            run()
            took[name].append(time.process_time() - begun)
    return {name: np.array(times[1:]) for name, times in took.items()}


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds that a run of a contender took.

    Attributes:
      first: Its first run, which compiles.
      median: Of its later turns; runs of less than `TURN` share one.
      low: The least of them.
      high: The largest of them.
      repeats: How many turns there were.
    """

    first: float
    median: float
    low: float
    high: float
    repeats: int


def interleave(
    runs: Mapping[str, Callable[[], Any]], repeats: int, seconds: float
) -> dict[str, Timing]:
    """Times contenders in turns.

    Args:
      runs: Contenders by name; each call runs once and waits for the result.
      repeats: Most repeats after the first run.
      seconds: No further repeat, after three, once a contender has used so much.
    """
    first = {name: _turn(run, 0.0) for name, run in runs.items()}
    later: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(repeats):
        if i >= min(3, repeats) and max(sum(times) for times in later.values()) > seconds:
            break
        for name, run in runs.items():
            later[name].append(_turn(run, TURN))
    return {
        name: Timing(first[name], statistics.median(times), min(times), max(times), len(times))
        for name, times in later.items()
    }


def simulation(instance: Instance, name: str, engine: str) -> Callable[[], Result]:
    """A run of one engine, from numpy arrays to a finished result."""
    chosen = policy(name)
    return lambda: jax.block_until_ready(simulate(instance, chosen, engine=engine))


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Keeps the calling thread, and threads that it starts, on one core (Linux)."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def on_one_core(run: Callable[[], Any]) -> Callable[[], Any]:
    """The same run on one core."""

    def call() -> Any:
        with one_core():
            return run()

    return call


def _turn(run: Callable[[], Any], least: float) -> float:
    """Seconds of a run, the mean of as many as take at least so long."""
    begun = time.perf_counter()
    count, passed = 0, 0.0
    while count == 0 or passed < least:
        run()
        count, passed = count + 1, time.perf_counter() - begun
    return passed / count
