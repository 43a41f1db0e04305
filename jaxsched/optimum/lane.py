"""One instance as plain arrays, its schedules and the prices that bound them, before any search."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from jaxsched.bounds import MOST_ROUNDS
from jaxsched.engines import reference
from jaxsched.instance import Instance, check_instance, in_seconds
from jaxsched.optimum import anneal, paths, prices, profile
from jaxsched.policies import h_sf

WholeNumbers = NDArray[np.int64]

WIDEST_PRICE = 2.0**56
"""Integers that stand for costs stay below."""

ORDER_WEIGHTS = (1.0, 0.7, 0.5, 0.35)
"""Orders that a search starts from: by prompt · output + weight · output² / 2, a volume where the
weight is 1. Less than that is better for the largest backlogs, by about a per cent."""


RULED_OUT_AGAIN = 3
"""How often starts are ruled out with the same prices, since each time fewer are left."""

LONGER = 1.5
"""So many times the longest output prices of paths go on after the schedule that is known."""


@dataclasses.dataclass(frozen=True)
class HindsightProblem:
    """The requests of one instance, without padding."""

    prompt: WholeNumbers
    output: WholeNumbers
    arrival: WholeNumbers
    memory: int

    @property
    def n(self) -> int:
        """How many there are."""
        return len(self.prompt)

    @property
    def volume(self) -> WholeNumbers:
        """Memory-time of each request."""
        return self.prompt * self.output + self.output * (self.output + 1) // 2

    @property
    def crowded(self) -> bool:
        """Whether some requests cannot run side by side for some time, so that a row may bind."""
        return bool(np.any(_best_row(self)[1]))

    @property
    def more_rounds(self) -> int:
        """Rounds that prices of paths go on after those without."""
        return int(LONGER * self.output.max())

    def path_states(self, rounds: int) -> int:
        """States of paths in so many rounds."""
        return rounds * len(paths.floor_of(self.prompt, self.memory)) * (self.memory + 1)

    def latency(self, starts: int) -> int:
        """The total latency of a schedule with this sum of starts."""
        return int(starts + self.output.sum() - self.arrival.sum())

    def room(self, known: WholeNumbers) -> NDArray[np.int32]:
        """Memory in use in every round that a schedule of earliest fits can reach: none."""
        rounds = int(anneal.room_for(self.prompt, self.output, known))
        return np.zeros(rounds, np.int32)

    def in_order(self, order: WholeNumbers, known: WholeNumbers | None = None) -> WholeNumbers:
        """Starts of the requests in this order, each at its earliest fit."""
        known = self.arrival if known is None else known
        start = np.zeros(self.n, np.int64)
        arrays = (self.prompt, self.output, known)
        profile.place(self.room(known), self.memory, *arrays, order, start)
        return start

    def first_schedule(self) -> WholeNumbers:
        """The starts of the best of a few orders."""
        s, o = self.prompt.astype(np.float64), self.output
        keys = [s * o + weight * o * o / 2 for weight in ORDER_WEIGHTS] + [s * 0 + o]
        found = [self.in_order(np.lexsort((self.volume, key))) for key in keys]
        if self.arrival.any():
            found += [self.in_order(np.lexsort((key, self.arrival))) for key in keys[:2]]
        return min(found, key=np.sum)

    def improved(self, start: WholeNumbers, moves: int, seed: int = 0) -> WholeNumbers:
        """Starts no later in the sum, after so many moves of annealing."""
        order, known = np.argsort(start, kind="stable"), self.arrival.copy()
        found = np.zeros(self.n, np.int64)
        arrays = (self.prompt, self.output, self.arrival)
        anneal.anneal(*arrays, self.memory, order, known, moves, seed, found)
        return found if found.sum() < start.sum() else start

    def refuse_overflow(self, start: WholeNumbers) -> None:
        """RuntimeError if the schedule does not keep to memory and arrivals: an error of ours."""
        use = np.zeros(int((start + self.output).max()) + 1, np.int64)
        for s, o, p in zip(self.prompt, self.output, start, strict=True):
            use[p : p + o] += np.arange(s + 1, s + o + 1)
        if use.max() > self.memory or np.any(start < self.arrival):
            raise RuntimeError("a schedule that was thought to be feasible is not")

    def checked(self, start: WholeNumbers) -> WholeNumbers:
        """Completion times of the schedule, replayed by the reference.

        A request that arrives when it is to start, its length known, is admitted there if and only
        if everything fits to the end. RuntimeError if that is not what happens: an error of ours.
        """
        if np.any(start < self.arrival):
            raise RuntimeError("a request starts before it arrives")
        requests = [
            reference.Request(s, o, o, o, p)
            for s, o, p in zip(
                *map(np.ndarray.tolist, (self.prompt, self.output, start)), strict=True
            )
        ]
        outcome = reference.simulate(requests, self.memory, h_sf())
        completion = np.asarray(outcome.completion, np.int64)
        if outcome.evictions or np.any(completion != start + self.output):
            raise RuntimeError("the reference refuses a schedule that was thought to be feasible")
        return completion


@dataclasses.dataclass(frozen=True)
class Prices:
    """Whole prices of memory and of a unary row in rounds 0 … H - 1, in units of 1 / `unit`."""

    memory: WholeNumbers  # lambda
    row: WholeNumbers  # mu
    alpha: WholeNumbers  # the row's offsets of each request
    beta: WholeNumbers
    unit: int

    def value(self, lane: HindsightProblem) -> int:
        """The bound on the total latency, times `unit`: exact."""
        rounds = len(self.memory)
        cost = np.zeros(max(rounds, int(lane.arrival.max())) + 2, np.int64)
        best, start = np.zeros(lane.n, np.int64), np.zeros(lane.n, np.int64)
        value = prices.best_starts(
            lane.prompt, lane.output, lane.arrival, lane.memory, self.alpha, self.beta, self.unit,
            self.memory, self.row, best, cost, start,
        )  # fmt: skip
        return int(value)

    def bound(self, lane: HindsightProblem) -> int:
        """The least whole total latency that the prices allow."""
        return -(-self.value(lane) // self.unit)


@dataclasses.dataclass(frozen=True)
class PathPrices:
    """Whole prices of paths (see `paths`) in rounds 0 … T - 1, in units of 1 / `unit`."""

    memory: WholeNumbers  # lambda, of shape [T]
    number: WholeNumbers  # nu, of shape [T]
    row: WholeNumbers  # mu, of shape [T]
    reward: WholeNumbers  # m, of shape [n]
    alpha: WholeNumbers  # the row's offsets of each request
    beta: WholeNumbers
    unit: int
    allowed: NDArray[np.bool_]  # of shape [n, T]: the starts that are not ruled out

    def value(self, lane: HindsightProblem) -> int:
        """The bound on the total latency, times `unit`: exact."""
        return _Paths(lane, self).value

    def bound(self, lane: HindsightProblem) -> int:
        """The least whole total latency that the prices allow, and the starts that are allowed."""
        return -(-self.value(lane) // self.unit)

    def without_worse(self, lane: HindsightProblem, total: int) -> PathPrices:
        """The same, less the starts that are in no schedule of less than this total latency."""
        found = self
        for _ in range(RULED_OUT_AGAIN):
            tables = _Paths(lane, found)
            if tables.value > found.unit * (total - 1):
                break
            allowed = found.allowed & tables.near(total)[:, : len(found.memory)]
            if np.array_equal(allowed, found.allowed):
                break
            found = dataclasses.replace(found, allowed=allowed)
        return found

    def for_search(self, lane: HindsightProblem, total: int) -> SearchPrices:
        """As a search for a schedule of less than this total latency needs them.

        What an end need not cost for the path to be as dear is paid at the start already.
        """
        return _Paths(lane, self).split(total)


@dataclasses.dataclass(frozen=True)
class SearchPrices:
    """Prices of a path whose starts cost something too."""

    start: WholeNumbers  # of shape [n, rounds]; FAR for what is ruled out
    end: WholeNumbers  # of shape [n, T]
    late: int  # of an end at T or later
    to_go: WholeNumbers  # of shape [T + 1, A + 1, M + 1]: cost of the rest of a path
    constant: int  # what there is to pay in any case


class _Paths:
    """The tables of paths that belong to prices."""

    def __init__(self, lane: HindsightProblem, found: PathPrices) -> None:
        self.lane, self.found = lane, found
        rounds = len(found.memory)
        # In a round beyond the last price nothing costs less than in the one before.
        self.cost = self._costs(0)
        self.size, self.kind = paths.distinct(lane.prompt + lane.output)
        self.prompts, self.which = paths.distinct(lane.prompt)
        self.floor = paths.floor_of(lane.prompt, lane.memory)
        self.end, _, self.late, _, _ = paths.cheapest_ends(
            self.kind, len(self.size), lane.output, found.allowed, self.cost
        )
        self.may_start = paths.starts_of(self.which, len(self.prompts), found.allowed)
        shape = (rounds + 1, len(self.floor), lane.memory + 1)
        self.to_go = np.full(shape, paths.FAR), np.full(shape, paths.FAR)
        paths.cost_to_go(
            self.size, self.prompts, self.end, self.late, self.may_start, found.memory,
            found.number, self.floor, *self.to_go,
        )  # fmt: skip
        self.constant = int(
            found.reward.sum() - found.row.sum() - found.unit * int(lane.arrival.sum())
        )
        # Who starts beyond all prices is no part of the path, and pays by himself.
        beyond = self.cost[:, rounds:].min(axis=1)
        beyond[found.allowed.any(axis=1) & (beyond > 0)] = 0
        self.value = self.constant + int(self.to_go[0][0, 0, 0]) + int(beyond.sum())

    def _costs(self, beyond: int) -> WholeNumbers:
        """Of every request the cost of its starts, up to so many rounds after all prices."""
        lane, found = self.lane, self.found
        rounds = len(found.memory)
        last = max(rounds, int(lane.arrival.max())) + beyond
        table = np.full((lane.n, last + 1), paths.FAR)
        paths.start_costs(
            lane.prompt, lane.output, found.alpha, found.beta, found.unit, found.memory,
            found.number, found.row, found.reward, lane.arrival, last, table,
        )  # fmt: skip
        table[:, :rounds][~found.allowed] = paths.FAR
        return table

    def _arcs(self, total: int) -> tuple[int, WholeNumbers, WholeNumbers, int, WholeNumbers]:
        """The slack of a schedule of less than this total latency, and `paths.arcs`."""
        slack = self.found.unit * (total - 1) - self.value
        so_far = np.empty_like(self.to_go[0]), np.empty_like(self.to_go[0])
        paths.cost_so_far(
            self.size, self.prompts, self.end, self.may_start, self.found.memory,
            self.found.number, self.floor, *so_far,
        )  # fmt: skip
        found = paths.arcs(
            self.size, self.prompts, self.end, self.late, self.floor, so_far, self.to_go, slack
        )
        return slack, *found

    def near(self, total: int) -> NDArray[np.bool_]:
        """The starts that a schedule of less than this total latency may have, [n, rounds]."""
        slack, start_arc, end_arc, late_arc, _ = self._arcs(total)
        least, near = self.to_go[0][0, 0, 0], self.cost < paths.FAR
        rounds = len(self.found.memory)
        for i, (o, kind) in enumerate(zip(self.lane.output, self.kind, strict=True)):
            early = max(rounds - o, 0)
            own = self.cost[i, :early] - self.end[rounds - early :, kind]
            near[i, :early] &= end_arc[rounds - early :, kind] + own - least <= slack
            own = self.cost[i, early:rounds] - self.late
            near[i, early:rounds] &= late_arc + own - least <= slack
            near[i, :rounds] &= start_arc[:, self.which[i]] - least <= slack
        return near

    def split(self, total: int) -> SearchPrices:
        """What `PathPrices.for_search` returns."""
        slack, _, _, _, spare = self._arcs(total)
        unit, rounds = self.found.unit, len(self.found.memory)
        start = self._costs(max(slack, 0) // unit + 1)
        end = np.zeros((self.lane.n, rounds), np.int64)
        late = 0 if self.late >= paths.FAR else int(self.late)
        for i, (o, kind) in enumerate(zip(self.lane.output, self.kind, strict=True)):
            early = max(rounds - o, 0)
            # An end that no path within the slack has is at the price of the cheapest.
            least = np.where(spare < paths.FAR, self.end - spare, self.end)[rounds - early :, kind]
            here = start[i, :early] < paths.FAR
            end[i, rounds - early :][here] = least[here]
            start[i, :early][here] -= least[here]
            here = start[i, early:rounds] < paths.FAR
            start[i, early:rounds][here] -= late
        # A start that costs more than the least and the slack is in no better schedule.
        least = start.min(axis=1, keepdims=True)
        slack = unit * (total - 1) - self.constant - int(self.to_go[0][0, 0, 0] + least.sum())
        start[start > least + slack] = paths.FAR
        return SearchPrices(start, end, late, self.to_go[0], self.constant)


def climb_paths(
    lane: HindsightProblem,
    found: Prices | PathPrices,
    upper: int,
    steps: int,
    pace: tuple[int, float] = paths.QUICK,
) -> PathPrices:
    """Prices of paths from others, and so many steps towards the total latency of a schedule.

    Prices without paths get longer first: it is cheap to be late if prices end with the schedule.
    """
    if isinstance(found, PathPrices):
        lam, mu, nu, reward = (
            x / found.unit for x in (found.memory, found.row, found.number, found.reward)
        )
        allowed = found.allowed
    else:
        more = np.zeros(lane.more_rounds)
        lam, mu = (np.append(x / found.unit, more) for x in (found.memory, found.row))
        nu, reward = np.zeros_like(lam), np.zeros(lane.n)
        allowed = np.arange(len(lam)) >= lane.arrival[:, None]
        table = np.full((lane.n, len(lam)), np.inf)
        paths.start_costs(
            lane.prompt, lane.output, found.alpha, found.beta, 1.0, lam, nu, mu, reward,
            lane.arrival, len(lam) - 1, table,
        )  # fmt: skip
        reward = table.min(axis=1)
    paths.climb_with_paths(
        lane.prompt, lane.output, lane.arrival, lane.memory, found.alpha, found.beta, float(upper),
        lam, mu, nu, reward, allowed, steps, *pace,
    )  # fmt: skip
    reward = np.minimum(reward, len(lam) + lane.output)
    # A path may end everybody in every round.
    fees = float((np.abs(lam) * lane.memory + lane.n * np.abs(nu) + mu).sum())
    stay = fees + float(np.abs(reward).max()) + len(lam) + int(lane.output.max())
    unit = _unit(lane, np.abs(lam), mu, upper + lane.n * len(lam) * stay)
    memory, number, row, whole = (np.rint(x * unit).astype(np.int64) for x in (lam, nu, mu, reward))
    return PathPrices(memory, number, row, whole, found.alpha, found.beta, unit, allowed)


def fluid_bound(lane: HindsightProblem) -> int:
    """The mean busy time bound, with arrivals, up to the next whole number: latencies are whole.

    What its floats may be wrong is taken off first.
    """
    return int(np.ceil(_fluid(lane, np.zeros(0)) * (1 - 1e-9) - 1e-9))


def _fluid(lane: HindsightProblem, lam: NDArray[np.float64]) -> float:
    value, _ = prices.fluid(lane.prompt, lane.output, lane.arrival, lane.memory, lam)
    return float(value)


def climb_prices(lane: HindsightProblem, start: WholeNumbers, steps: int) -> Prices:
    """Prices of a good bound, from so many steps towards the total latency of a schedule."""
    rounds = int((start + lane.output).max())
    lam, mu = np.zeros(rounds), np.zeros(rounds)
    _fluid(lane, lam)
    alpha, beta = _best_row(lane)
    upper = float(lane.latency(int(start.sum())))
    prices.climb(
        lane.prompt, lane.output, lane.arrival, lane.memory, alpha, beta, upper, lam, mu, steps
    )
    unit = _unit(lane, lam, mu, upper)
    memory, row = (np.rint(found * unit).astype(np.int64) for found in (lam, mu))
    return Prices(memory, row, alpha, beta, unit)


def _best_row(lane: HindsightProblem) -> tuple[WholeNumbers, WholeNumbers]:
    """The unary row that binds the longest: its level is that of some prompt."""
    levels = np.unique(lane.prompt)
    if len(levels) > 16:
        levels = np.unique(np.quantile(lane.prompt, np.linspace(0, 1, 16), method="nearest"))
    rows = [prices.unary_row(lane.prompt, lane.output, lane.memory, level) for level in levels]
    return max(rows, key=lambda row: int(np.sum(row[1] - row[0])))


def _unit(
    lane: HindsightProblem, lam: NDArray[np.float64], mu: NDArray[np.float64], upper: float
) -> int:
    """A power of two for which no sum of costs leaves 64 bits."""
    rounds = max(len(lam), int(lane.arrival.max())) + int(lane.output.max())
    fees = float((lam * np.arange(len(lam))).sum() + lam.sum() * lane.memory + mu.sum())
    largest = lane.n * (rounds + fees + 1.0) + lam.sum() * rounds * 2 + abs(upper)
    return 1 << max(0, min(24, int(np.log2(WIDEST_PRICE / (largest + lane.memory * len(lam) + 1)))))


def problems_of(instance: Instance) -> Iterator[HindsightProblem]:
    """The lanes of a concrete instance in rounds, checked, one by one.

    Raises:
      TypeError, ValueError: As `check_instance`; and for arrivals in seconds.
    """
    check_instance(instance)
    if in_seconds(instance):
        raise TypeError("arrival: got seconds; expected rounds, a bound has no clock")
    lanes, n = instance.lanes, instance.n
    shape = (int(np.prod(lanes, dtype=int)), n)
    arrival = 0 if instance.arrival is None else instance.arrival
    prompt, output, arrival = (
        np.broadcast_to(np.asarray(field, np.int64), (*lanes, n)).reshape(shape)
        for field in (instance.prompt, instance.output, arrival)
    )
    memory = np.broadcast_to(np.asarray(instance.memory), lanes).reshape(-1)
    count = n if instance.num_requests is None else instance.num_requests
    for i, real in enumerate(np.broadcast_to(np.asarray(count), lanes).reshape(-1)):
        s, o, a = (np.ascontiguousarray(field[i, :real]) for field in (prompt, output, arrival))
        lane = HindsightProblem(s, o, a, int(memory[i]))
        rounds = int(lane.arrival.max(initial=0) + lane.output.sum())
        if rounds > MOST_ROUNDS:
            raise ValueError(
                f"lane {i}: may take {rounds:,} rounds; expected at most {MOST_ROUNDS:,}, "
                "schedules are looked at round by round"
            )
        yield lane
