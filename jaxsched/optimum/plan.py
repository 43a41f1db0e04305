"""`best_schedule` and the bound beside it: both sides of the optimum, for many requests at once."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxsched.instance import Instance
from jaxsched.optimum.lane import (
    HindsightProblem,
    WholeNumbers,
    climb_paths,
    climb_prices,
    fluid_bound,
    problems_of,
)

SECOND = 1e9
"""Tokens placed, and costs looked at, in about a second."""

MOVES_OF_A_PLAN = SECOND / 10
"""The same for a lane of a table."""

MOST_MOVES, MOST_STEPS, MOST_PATH_STEPS = 1_000_000, 1_000, 300
"""Of annealing, of prices and of prices of paths for a lane, at most."""


@dataclasses.dataclass(frozen=True)
class BestSchedule:
    """A feasible schedule of each lane."""

    start: WholeNumbers  # rounds in which the requests start, of shape [..., n]; 0 for padding
    completion: WholeNumbers  # rounds in which they are complete, of shape [..., n]; -1 for padding
    total_latency: WholeNumbers  # of shape [...]


def best_schedule(instance: Instance, moves: int | None = None) -> BestSchedule:
    """A good schedule in hindsight: what some scheduler could have done, who knew everything.

    The best of a few orders of the requests, each at its earliest fit, improved by annealing over
    orders and over requests held back on purpose. The same on every machine; nothing is proved
    about it but that it is feasible, which is checked. For a backlog of n = 1,000 it is within a
    few per cent of `lower_bound`; for at most some 20 requests `optimal` does better.

    Args:
      instance: Instances in rounds, with request arrays of shape [..., n]; predictions are not
        looked at.
      moves: Of annealing for each lane, at least 0. By default what takes about a second a lane.

    Raises:
      TypeError, ValueError: As `check_instance`; for arrivals in seconds, and for wrong moves.
      ImportError: If numba cannot be imported.

    >>> import jaxsched as js
    >>> js.best_schedule(js.Instance(
    ...     prompt=[2, 1, 3, 1], output=[4, 6, 2, 3], lower=[1] * 4, upper=[9] * 4, memory=9
    ... )).total_latency
    np.int64(21)
    """
    if moves is not None and (isinstance(moves, bool) or moves != int(moves) or moves < 0):
        raise ValueError(f"moves is {moves!r}; expected a whole number, at least 0")
    return _schedule(instance, functools.partial(_planned, moves=moves))


def planned(instance: Instance) -> WholeNumbers:
    """Starts as of `best_schedule`, with a tenth of the work: for tables of many lanes."""
    return _schedule(instance, functools.partial(_planned, work=MOVES_OF_A_PLAN)).start


def bounds_of(instance: Instance) -> WholeNumbers:
    """What `jaxsched.bounds.lower_bound` returns."""
    found = _each(_bound, list(problems_of(instance)))
    return np.asarray(found, np.int64).reshape(instance.lanes)[()]


def _schedule(instance: Instance, find: Callable[[HindsightProblem], WholeNumbers]) -> BestSchedule:
    lanes, shape = list(problems_of(instance)), (*instance.lanes, instance.n)
    start = np.zeros((len(lanes), instance.n), np.int64)
    completion = np.full_like(start, -1)
    total = np.zeros(len(lanes), np.int64)
    for i, (lane, found) in enumerate(zip(lanes, _each(find, lanes), strict=True)):
        start[i, : lane.n] = found
        completion[i, : lane.n] = found + lane.output
        total[i] = lane.latency(found.sum())
    return BestSchedule(
        start.reshape(shape), completion.reshape(shape), total.reshape(instance.lanes)[()]
    )


def _each(find: Callable[[HindsightProblem], Any], lanes: list[HindsightProblem]) -> list[Any]:
    """Of every lane, some at a time: compiled code runs without Python's lock."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(max(1, min(cores or 1, len(lanes)))) as pool:
        return list(pool.map(find, lanes))


def _planned(
    lane: HindsightProblem, moves: int | None = None, work: float = SECOND
) -> WholeNumbers:
    if lane.n == 0:
        return np.zeros(0, np.int64)
    start = lane.first_schedule()
    if moves is None:
        moves = min(MOST_MOVES, int(work / (lane.output.sum() + 50 * lane.n)))
        # Fewer than that do more harm, while it is hot, than good.
        moves = moves if moves > 10 * lane.n else 0
    start = lane.improved(start, moves) if moves else start
    lane.refuse_overflow(start)
    return start


def _bound(lane: HindsightProblem) -> int:
    """The strongest bound that a second has time for."""
    if lane.n == 0:
        return 0
    start = lane.first_schedule()
    rounds = int((start + lane.output).max())
    steps = min(MOST_STEPS, int(SECOND / 4 / (lane.n * rounds)))
    # Without a row that binds, prices gain less than a per cent on those of the fluid.
    found = climb_prices(lane, start, steps if lane.crowded and steps >= 100 else 0)
    plain = max(found.bound(lane), fluid_bound(lane))
    steps = min(MOST_PATH_STEPS, int(SECOND / 8 / lane.path_states(rounds)))
    if not lane.crowded or steps < 100:
        return plain
    return max(plain, climb_paths(lane, found, lane.latency(int(start.sum())), steps).bound(lane))
