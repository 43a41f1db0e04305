"""`optimal`: a schedule of least total latency in hindsight, and a proof that it is one."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxsched.instance import Instance
from jaxsched.optimum import branch
from jaxsched.optimum.lane import (
    HindsightProblem,
    PathPrices,
    Prices,
    WholeNumbers,
    climb_paths,
    climb_prices,
    problems_of,
)
from jaxsched.optimum.packings import FAR
from jaxsched.optimum.paths import NEAR, QUICK, THOROUGH

MOST_REQUESTS = 62
"""Requests that a branch and bound takes; with more of them only bounds are found."""

MOST_STATES = 2**25
"""Of paths; with more of them, a few GB of tables, only bounds are found."""

NODES_AT_A_TIME = 2**19
"""Nodes between two looks at the time."""

NODES_BEFORE = 2**19, 2**23
"""Nodes of the searches before there are packings: with few requests those cost more."""

MEMO = 2**20
"""States that are remembered, at most; a power of two."""

STEPS = 1500
"""Steps of prices before a search."""

ANNEALINGS = ((4, 2_000), (8, 4_000))
"""Annealings before a search that is a try and before those that may take long, and moves of each
for every request. A search takes far less where the best schedule is there at its start."""

FIRST_CLIMB, MORE_CLIMBS = (250, QUICK), ((500, THOROUGH),) * 2
"""Steps and pace of the climbs of prices of paths before a search that is a try and before those
that may take long. After each climb starts are ruled out. Found by trial."""

CLIMB_THROUGH_PACKINGS, AIMS = (150, NEAR), (0.35, 0.5, 0.65, 0.8, 0.9, 1.0)
"""The same for paths through packings, before every search below an aim; and the aims: parts of the
way from the bound to the best schedule known. Found by trial."""

OnProgress = Callable[[int, int, int, int], Any]
"""Called as (lane, nodes, best total, lower bound) about once a second."""


@dataclasses.dataclass(frozen=True)
class Optimum:
    """What `optimal` found, of lane shape [...]."""

    completion: WholeNumbers  # rounds of a feasible schedule, of shape [..., n]; -1 for padding
    total_latency: WholeNumbers  # its total latency, of shape [...]
    lower_bound: WholeNumbers  # proved: no schedule has less, of shape [...]
    nodes: WholeNumbers  # of the branch and bound, of shape [...]

    @property
    def proved(self) -> NDArray[np.bool_]:
        """Whether the schedule is proved to be the best, of shape [...]."""
        return np.asarray(self.lower_bound == self.total_latency)

    @property
    def gap(self) -> NDArray[np.float64]:
        """By how much the schedule may exceed the optimum, as a part of it, of shape [...]."""
        return np.asarray(self.total_latency / np.maximum(self.lower_bound, 1) - 1.0)


def optimal(
    instance: Instance, time_limit: float = 60.0, on_progress: OnProgress = lambda *_: None
) -> Optimum:
    """The least total latency that any scheduler could have had, who knew everything.

    Minimises the sum of completion minus arrival over all schedules that keep to the memory
    (the integer program of arXiv 2502.07115, section 3, with arrivals). Evictions are no use in
    hindsight: a run that is lost only takes memory. See docs/optimum.md for the method, the proof
    of each step, and what sizes can be solved.

    `proved` rests on whole numbers alone: the prices behind the bounds are integers, and what the
    search leaves out is compared as integers. The schedule is replayed by `jaxsched.reference`.

    Args:
      instance: Instances in rounds, with request arrays of shape [..., n]; predictions are not
        looked at. Beyond 62 requests, or where memory is in the thousands, nothing is searched,
        only bounded.
      time_limit: Seconds of processor time for one lane, above 0, looked at about once a
        second of searching; prices are found to the end, some seconds for small memories.
        What is found then depends on the machine, but what is proved does not. Ctrl-C stops as
        ever.
      on_progress: Called as (lane, nodes, best total, lower bound) about once a second.

    Raises:
      TypeError, ValueError: As `check_instance`; for arrivals in seconds, and for a time limit that
        is not above 0.
      ImportError: If numba cannot be imported.

    >>> import jaxsched as js
    >>> found = js.optimal(js.Instance(
    ...     prompt=[2, 1, 3, 1], output=[4, 6, 2, 3], lower=[1] * 4, upper=[9] * 4, memory=9))
    >>> int(found.total_latency), bool(found.proved)
    (21, True)
    """
    if not time_limit > 0:
        raise ValueError(f"time_limit is {time_limit}; expected more than 0 seconds")
    shape, n = instance.lanes, instance.n
    found = [
        _solve(lane, time_limit, lambda *state, i=i: on_progress(i, *state))
        for i, lane in enumerate(problems_of(instance))
    ]
    completion = np.full((len(found), n), -1, np.int64)
    for row, one in zip(completion, found, strict=True):
        row[: len(one.completion)] = one.completion
    numbers = (
        np.asarray([getattr(one, name) for one in found], np.int64).reshape(shape)
        for name in ("total_latency", "lower_bound", "nodes")
    )
    return Optimum(completion.reshape(*shape, n), *numbers)


def _solve(
    lane: HindsightProblem, time_limit: float, on_progress: Callable[[int, int, int], Any]
) -> Optimum:
    """One lane."""
    began = time.thread_time()

    def late() -> bool:
        return time.thread_time() - began > time_limit

    if lane.n == 0:
        nothing = np.zeros(0, np.int64)
        return _one(nothing, 0, 0, 0)
    start = _annealed(lane, lane.first_schedule(), *ANNEALINGS[0])
    plain = climb_prices(lane, start, STEPS)
    total = lane.latency(start.sum())
    lower, nodes = min(plain.bound(lane), total), 0
    rounds = len(plain.memory) + lane.more_rounds
    searched = lane.n <= MOST_REQUESTS and lane.path_states(rounds) <= MOST_STATES

    def search(prices: PathPrices, aim: int, most: float = math.inf) -> None:
        """For a schedule of less than `aim`: both sides are better after it."""
        nonlocal start, total, lower, nodes
        looking = Search(lane, prices, start, aim)
        while True:
            looking.go_on(NODES_AT_A_TIME)
            start = looking.start
            total = lane.latency(start.sum())
            on_progress(nodes + looking.nodes, total, min(lower, total))
            if looking.done or looking.nodes >= most or late():
                break
        nodes += looking.nodes
        lower = min(aim, total) if looking.done else min(lower, total)

    if lower < total and searched:
        found, lower = _climbed(lane, plain, total, lower, FIRST_CLIMB)
        search(found, total, NODES_BEFORE[0])
        if lower < total and not late():
            start, total, found, lower = _closer(lane, start, found, lower)
            search(found, total, NODES_BEFORE[1])
        first, prices = lower, found
        for part in AIMS:
            if lower == total or late():
                break
            aim = first + math.ceil(part * (total - first))
            if aim <= lower:
                continue
            near = found.without_worse(lane, aim)
            lower = max(lower, min(near.bound(lane), aim))
            if lower == aim:
                continue
            near = near.through_packings(lane, aim, prices.moves)
            prices = dataclasses.replace(
                prices, allowed=near.allowed, moves=near.moves, live=near.live
            )
            prices, lower = _climbed(
                lane, prices.without_worse(lane, aim), aim, lower, CLIMB_THROUGH_PACKINGS
            )
            if lower < aim:
                search(prices, aim)
    return _one(lane.checked(start), total, lower, nodes)


def _closer(
    lane: HindsightProblem, start: WholeNumbers, found: PathPrices, lower: int
) -> tuple[WholeNumbers, int, PathPrices, int]:
    """Both sides for a search that may take long: a schedule, its total, prices and their bound."""
    start = _annealed(lane, start, *ANNEALINGS[1])
    total = lane.latency(start.sum())
    found = found.without_worse(lane, total)
    for climb in MORE_CLIMBS:
        found, lower = _climbed(lane, found, total, lower, climb)
    return start, total, found, lower


def _climbed(
    lane: HindsightProblem,
    found: Prices | PathPrices,
    total: int,
    lower: int,
    climb: tuple[int, tuple[float, int, float]],
) -> tuple[PathPrices, int]:
    """Better prices of paths, less what they rule out, and the bound that is known then.

    Bounds without all starts hold for schedules that are better than the best known: no matter.
    """
    better = climb_paths(lane, found, total, *climb).without_worse(lane, total)
    return better, min(max(lower, better.bound(lane)), total)


def _annealed(lane: HindsightProblem, start: WholeNumbers, times: int, moves: int) -> WholeNumbers:
    """The best of so many annealings, each from the same schedule."""
    found = [lane.improved(start, moves * lane.n, seed) for seed in range(times)]
    return min(found, key=np.sum)


def _one(completion: WholeNumbers, *numbers: int) -> Optimum:
    total, lower, nodes = (np.asarray(number, np.int64) for number in numbers)
    return Optimum(completion, total, lower, nodes)


class Search:
    """The state of a branch and bound (see `branch`) for schedules of less than `aim`."""

    def __init__(
        self, lane: HindsightProblem, found: PathPrices, start: WholeNumbers, aim: int
    ) -> None:
        self.lane, self.prices = lane, found
        # In the order of volumes, so that small requests are tried first.
        self._order = np.lexsort((lane.prompt, lane.volume))
        self._fields = [
            np.ascontiguousarray(x[self._order])
            for x in (lane.prompt, lane.output, lane.arrival, found.alpha, found.beta)
        ]
        self._best = start[self._order]
        self._split = found.for_search(lane, aim)
        self._kind = np.searchsorted(np.unique(lane.prompt), self._fields[0])
        self._begin = np.ascontiguousarray(self._split.begin[:, self._order])
        self._end = self._split.end[self._order]
        self._table, self._least = self._costs()
        self._numbers = np.zeros(branch.COUNTERS, np.int64)
        self._numbers[branch.BOUND] = self._split.constant + self._least[0].sum()
        # Nothing is to be tried where somebody has no start left.
        self._numbers[branch.DONE] = np.any(self._least[0] >= FAR)
        self._numbers[branch.LEFT] = (1 << lane.n) - 1
        self._numbers[branch.BEST] = aim
        rounds = self._table.shape[0]
        width = max(rounds, len(found.memory)) + int(lane.output.max()) + 1
        self._use = [np.zeros(width, np.int64) for _ in range(2)]
        self._start = np.zeros(lane.n, np.int64)
        self._frames = np.zeros((rounds + lane.n + 1, 5), np.int64)
        self._memo = np.zeros((min(4**lane.n, MEMO), branch.WORDS), np.int64)
        self._state = np.zeros(branch.ENDS, np.int64)
        self._rest = np.zeros((2, len(self._split.moves.add)), np.int64)
        self._twin = _twins(*self._fields[:3])

    @property
    def done(self) -> bool:
        """Whether nothing is left to be tried."""
        return bool(self._numbers[branch.DONE])

    @property
    def nodes(self) -> int:
        """How many there were."""
        return int(self._numbers[branch.NODES])

    @property
    def start(self) -> WholeNumbers:
        """Starts of the best schedule so far."""
        found = np.empty_like(self._best)
        found[self._order] = self._best
        return found

    def go_on(self, nodes: int) -> None:
        """Tries so many nodes more."""
        if self.done:
            return
        prompt, output, arrival, alpha, beta = self._fields
        split = self._split
        branch.search(
            self._numbers, prompt, output, arrival, self.lane.memory, alpha, beta,
            self.prices.unit, self._table, self._least, self.prices.memory, self.prices.number,
            self.prices.row, self._kind, self._begin, self._end, split.late, split.moves, split.at,
            split.state, split.to_go, *self._use, self._start, self._best, self._frames, self._memo,
            self._state, self._twin, *self._rest, nodes,
        )  # fmt: skip

    def _costs(self) -> tuple[WholeNumbers, WholeNumbers]:
        """Of every request the cost of its starts, and the least from there on.

        That ends the table: from the last price on, every round costs more than the one before.
        """
        table = self._split.start[self._order]
        last = np.flatnonzero((table < FAR).any(axis=0)).max(initial=0)
        table = table[:, : last + 2]
        least = np.minimum.accumulate(table[:, ::-1], axis=1)[:, ::-1]
        # By round first: the search asks for all requests in one round.
        return np.ascontiguousarray(table.T), np.ascontiguousarray(least.T)


def _twins(prompt: WholeNumbers, output: WholeNumbers, arrival: WholeNumbers) -> WholeNumbers:
    """Of each request the last one before it that is the same in everything; -1 if none is."""
    seen: dict[tuple[int, int, int], int] = {}
    twins = []
    for i, same in enumerate(zip(prompt.tolist(), output.tolist(), arrival.tolist(), strict=True)):
        twins.append(seen.get(same, -1))
        seen[same] = i
    return np.asarray(twins, np.int64)
