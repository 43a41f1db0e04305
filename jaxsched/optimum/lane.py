"""One instance as plain arrays, its schedules and the prices that bound them, before any search."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxsched.bounds import MOST_ROUNDS
from jaxsched.engines import reference
from jaxsched.instance import Instance, check_instance, in_seconds
from jaxsched.optimum import anneal, packings, paths, prices, profile
from jaxsched.optimum.packings import FAR
from jaxsched.policies import h_sf

WholeNumbers = NDArray[np.int64]

WIDEST_PRICE = 2.0**56
"""Integers that stand for costs stay below."""

ORDER_WEIGHTS = (1.0, 0.7, 0.5, 0.35)
"""Orders that a search starts from: by prompt · output + weight · output² / 2, a volume where the
weight is 1. Less than that is better for the largest backlogs, by about a per cent."""

RULED_OUT_AGAIN = 3
"""How often starts are ruled out with the same prices, since each time fewer are left."""

MOST_PACKINGS, MOST_NEAR = 2**18, 2**25
"""With more packings, or more of them in the rounds in which they may be, paths are not through
packings: they would take minutes and a GB."""

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
    begin: WholeNumbers  # sigma, of shape [T, kinds of prompts]
    alpha: WholeNumbers  # the row's offsets of each request
    beta: WholeNumbers
    unit: int
    allowed: NDArray[np.bool_]  # of shape [n, T]: the starts that are not ruled out
    # Where paths may go; without states through all numbers of requests and sums of memory.
    moves: packings.Moves = packings.NO_MOVES
    live: packings.Live = packings.NONE_LIVE

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
            near, live = tables.near(total)
            allowed = found.allowed & near[:, : len(found.memory)]
            fewer = len(live.end) < len(found.live.end)
            if np.array_equal(allowed, found.allowed) and not fewer:
                break
            found = dataclasses.replace(found, allowed=allowed, live=live)
        return found

    def through_packings(
        self, lane: HindsightProblem, total: int, moves: packings.Moves = packings.NO_MOVES
    ) -> PathPrices:
        """The same for paths through packings, those that a schedule of less than this may be in.

        Itself where there are too many, or where no such schedule is left. `moves` are those of the
        packings where they are known.
        """
        return _Paths(lane, self).through_packings(total, moves)

    def for_search(self, lane: HindsightProblem, total: int) -> SearchPrices:
        """As a search for a schedule of less than this total latency needs them.

        What an end need not cost for the path to be as dear is paid at the start already.
        """
        return _Paths(lane, self).split(total)


@dataclasses.dataclass(frozen=True)
class SearchPrices:
    """Prices of a path whose starts cost something too."""

    start: WholeNumbers  # of shape [n, rounds]; FAR for what is ruled out
    begin: WholeNumbers  # what the path gets back for a start, of shape [T, n]
    end: WholeNumbers  # of shape [n, T]
    late: int  # of an end at T or later
    moves: packings.Moves  # the states of a path, and how they follow from one another
    at: WholeNumbers  # those of round t: at[t] ... at[t + 1] - 1 of the two below
    state: NDArray[np.int32]
    to_go: WholeNumbers  # cost of the rest of a path
    constant: int  # what there is to pay in any case


class _Paths:
    """The tables of paths that belong to prices."""

    def __init__(self, lane: HindsightProblem, found: PathPrices) -> None:
        self.lane, self.found = lane, found
        rounds = len(found.memory)
        self.size, self.kind = paths.distinct(lane.prompt + lane.output)
        self.prompts, self.which = paths.distinct(lane.prompt)
        # In a round beyond the last price nothing costs less than in the one before.
        self.cost = self._costs(0)
        self.floor = paths.floor_of(lane.prompt, lane.memory)
        self.end, _, self.late, _, _ = paths.cheapest_ends(
            self.kind, len(self.size), lane.output, found.allowed, self.cost
        )
        self.may_start = paths.starts_of(self.which, len(self.prompts), found.allowed)
        self.kind_of = paths.kinds_of_requests(self.size, lane.memory)
        self.packed = len(found.moves.active) > 0
        if self.packed:
            self.to_go = tuple(
                np.zeros(len(x), np.int64) for x in (found.live.start, found.live.end)
            )
            packings.packed_cost_to_go(
                found.moves, found.live, self.kind_of, self.end, self.late, self.may_start,
                found.begin, found.memory, found.number, *self.to_go,
            )  # fmt: skip
        else:
            shape = (rounds + 1, len(self.floor), lane.memory + 1)
            self.to_go = np.full(shape, FAR), np.full(shape, FAR)
            paths.cost_to_go(
                self.size, self.prompts, self.end, self.late, self.may_start, found.begin,
                found.memory, found.number, self.floor, *self.to_go,
            )  # fmt: skip
        self.least = int(self.to_go[0].flat[0]) if self.to_go[0].size else FAR
        self.constant = int(
            found.reward.sum() - found.row.sum() - found.unit * int(lane.arrival.sum())
        )
        # Who starts beyond all prices is no part of the path, and pays by himself.
        beyond = self.cost[:, rounds:].min(axis=1)
        beyond[found.allowed.any(axis=1) & (beyond > 0)] = 0
        self.value = self.constant + self.least + int(beyond.sum())

    def _costs(self, beyond: int) -> WholeNumbers:
        """Of every request the cost of its starts, up to so many rounds after all prices."""
        lane, found = self.lane, self.found
        rounds = len(found.memory)
        last = max(rounds, int(lane.arrival.max())) + beyond
        table = np.full((lane.n, last + 1), FAR)
        paths.start_costs(
            lane.prompt, lane.output, found.alpha, found.beta, found.unit, found.memory,
            found.number, found.row, found.reward, self.which, found.begin, lane.arrival, last,
            table,
        )  # fmt: skip
        table[:, :rounds][~found.allowed] = FAR
        return table

    def _so_far(self) -> tuple[WholeNumbers, WholeNumbers]:
        """The least costs of paths up to the states of `paths`."""
        so_far = np.empty_like(self.to_go[0]), np.empty_like(self.to_go[0])
        paths.cost_so_far(
            self.size, self.prompts, self.end, self.may_start, self.found.begin, self.found.memory,
            self.found.number, self.floor, *so_far,
        )  # fmt: skip
        return so_far

    def _arcs(self, total: int) -> tuple[Any, ...]:
        """The slack of a schedule of less than this total latency, and `packings.packed_arcs`."""
        found = self.found
        slack = found.unit * (total - 1) - self.value
        if not self.packed:
            costs = paths.arcs(
                self.size, self.prompts, self.end, self.late, found.begin, self.floor,
                self._so_far(), self.to_go, slack,
            )  # fmt: skip
            return slack, *costs, found.live
        *costs, live = packings.packed_arcs(
            found.moves, found.live, self.kind_of, self.end, self.may_start, found.begin,
            found.memory, found.number, *self.to_go, self.least + slack,
        )  # fmt: skip
        return slack, *costs, packings.Live(*live)

    def near(self, total: int) -> tuple[NDArray[np.bool_], packings.Live]:
        """The starts that a schedule of less than this total latency may have, [n, rounds].

        And the packings.
        """
        slack, start_arc, end_arc, late_arc, _, live = self._arcs(total)
        near = self.cost < FAR
        rounds = len(self.found.memory)
        for i, (o, kind) in enumerate(zip(self.lane.output, self.kind, strict=True)):
            early = max(rounds - o, 0)
            own = self.cost[i, :early] - self.end[rounds - early :, kind]
            near[i, :early] &= end_arc[rounds - early :, kind] + own - self.least <= slack
            own = self.cost[i, early:rounds] - self.late
            near[i, early:rounds] &= late_arc + own - self.least <= slack
            near[i, :rounds] &= start_arc[:, self.which[i]] - self.least <= slack
        return near, live

    def through_packings(self, total: int, moves: packings.Moves) -> PathPrices:
        """What `PathPrices.through_packings` returns."""
        lane, found = self.lane, self.found
        slack = found.unit * (total - 1) - self.value
        bounds = lane.memory, int(lane.prompt.min()) + 1, int(self.size[-1]), len(self.floor) - 1
        count = packings.how_many(*bounds)
        if self.packed or slack < 0 or count > MOST_PACKINGS:
            return found
        if len(moves.active) == 0:
            moves = packings.Moves(*packings.packings(*bounds, self.prompts, int(count)))
        states = packings.near_states(
            moves, self._so_far(), self.to_go, self.least + slack, MOST_NEAR
        )
        if len(states[1]) + len(states[3]) == 0:
            return found
        return dataclasses.replace(found, moves=moves, live=packings.Live(*states))

    def split(self, total: int) -> SearchPrices:
        """What `PathPrices.for_search` returns."""
        slack, _, _, _, spare, _ = self._arcs(total)
        unit, rounds = self.found.unit, len(self.found.memory)
        start = self._costs(max(slack, 0) // unit + 1)
        end = np.zeros((self.lane.n, rounds), np.int64)
        late = 0 if self.late >= FAR else int(self.late)
        for i, (o, kind) in enumerate(zip(self.lane.output, self.kind, strict=True)):
            early = max(rounds - o, 0)
            # An end that no path within the slack has is at the price of the cheapest.
            least = np.where(spare < FAR, self.end - spare, self.end)[rounds - early :, kind]
            here = start[i, :early] < FAR
            end[i, rounds - early :][here] = least[here]
            start[i, :early][here] -= least[here]
            here = start[i, early:rounds] < FAR
            start[i, early:rounds][here] -= late
        # A start that costs more than the least and the slack is in no better schedule.
        least = start.min(axis=1, keepdims=True)
        slack = unit * (total - 1) - self.constant - self.least - int(least.sum())
        start[start > least + slack] = FAR
        if self.packed:
            moves, at, state = self.found.moves, self.found.live.start_at, self.found.live.start
        else:
            arrays = packings.numbers_and_sums(
                self.lane.memory, self.floor, self.prompts, self.size
            )
            # All states of all rounds: where that of a round is says which it is.
            moves, state = packings.Moves(*arrays), np.zeros(0, np.int32)
            at = np.arange(rounds + 1) * len(moves.active)
        begin = self.found.begin[:, self.which]
        return SearchPrices(
            start, begin, end, late, moves, at, state, self.to_go[0].ravel(), self.constant
        )


def climb_paths(
    lane: HindsightProblem,
    found: Prices | PathPrices,
    upper: int,
    steps: int,
    pace: tuple[float, int, float] = paths.QUICK,
) -> PathPrices:
    """Prices of paths from others, and so many steps towards the total latency of a schedule.

    Prices without paths get longer first: it is cheap to be late if prices end with the schedule.
    """
    if isinstance(found, PathPrices):
        lam, mu, nu, reward = (
            x / found.unit for x in (found.memory, found.row, found.number, found.reward)
        )
        begin, allowed = found.begin / found.unit, found.allowed
        moves, live = found.moves, found.live
    else:
        more = np.zeros(lane.more_rounds)
        lam, mu = (np.append(x / found.unit, more) for x in (found.memory, found.row))
        nu, reward = np.zeros_like(lam), np.zeros(lane.n)
        allowed = np.arange(len(lam)) >= lane.arrival[:, None]
        table = np.full((lane.n, len(lam)), np.inf)
        prompts, which = paths.distinct(lane.prompt)
        begin, moves, live = (
            np.zeros((len(lam), len(prompts))),
            packings.NO_MOVES,
            packings.NONE_LIVE,
        )
        paths.start_costs(
            lane.prompt, lane.output, found.alpha, found.beta, 1.0, lam, nu, mu, reward, which,
            begin, lane.arrival, len(lam) - 1, table,
        )  # fmt: skip
        reward = table.min(axis=1)
    paths.climb_with_paths(
        lane.prompt, lane.output, lane.arrival, lane.memory, found.alpha, found.beta, float(upper),
        lam, mu, nu, reward, begin, allowed, moves, live, steps, *pace,
    )  # fmt: skip
    reward = np.minimum(reward, len(lam) + lane.output)
    # A path may end everybody in every round.
    fees = float((np.abs(lam) * lane.memory + lane.n * np.abs(nu) + mu).sum())
    fees += lane.n * float(np.abs(begin).max(axis=1).sum())
    stay = fees + float(np.abs(reward).max()) + len(lam) + int(lane.output.max())
    unit = _unit(lane, np.abs(lam), mu, upper + lane.n * len(lam) * stay)
    memory, number, row, whole, starts = (
        np.rint(x * unit).astype(np.int64) for x in (lam, nu, mu, reward, begin)
    )
    return PathPrices(
        memory, number, row, whole, starts, found.alpha, found.beta, unit, allowed, moves, live
    )


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
