"""One instance as plain arrays, its schedules and the prices that bound them, before any search."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from jaxsched.bounds import MOST_ROUNDS
from jaxsched.engines import reference
from jaxsched.instance import Instance, check_instance, in_seconds
from jaxsched.optimum import anneal, prices, profile
from jaxsched.policies import h_sf

Ints = NDArray[np.int64]

WIDEST = 2.0**60
"""Integers that stand for costs stay below."""

WEIGHTS = (1.0, 0.7, 0.5, 0.35)
"""Orders that a search starts from: by prompt · output + weight · output² / 2, a volume where the
weight is 1. Less than that is better for the largest backlogs, by about a per cent."""


@dataclasses.dataclass(frozen=True)
class Lane:
    """The requests of one instance, without padding."""

    prompt: Ints
    output: Ints
    arrival: Ints
    memory: int

    @property
    def n(self) -> int:
        """How many there are."""
        return len(self.prompt)

    @property
    def volume(self) -> Ints:
        """Memory-time of each request."""
        return self.prompt * self.output + self.output * (self.output + 1) // 2

    @property
    def crowded(self) -> bool:
        """Whether some requests cannot run side by side for some time, so that a row may bind."""
        return bool(np.any(_best_row(self)[1]))

    def latency(self, starts: int) -> int:
        """The total latency of a schedule with this sum of starts."""
        return int(starts + self.output.sum() - self.arrival.sum())

    def room(self, known: Ints) -> NDArray[np.int32]:
        """Memory in use in every round that a schedule of earliest fits can reach: none."""
        rounds = int(anneal.room_for(self.prompt, self.output, known))
        return np.zeros(rounds, np.int32)

    def in_order(self, order: Ints, known: Ints | None = None) -> Ints:
        """Starts of the requests in this order, each at its earliest fit."""
        known = self.arrival if known is None else known
        start = np.zeros(self.n, np.int64)
        arrays = (self.prompt, self.output, known)
        profile.place(self.room(known), self.memory, *arrays, order, start)
        return start

    def first_schedule(self) -> Ints:
        """The starts of the best of a few orders."""
        s, o = self.prompt.astype(np.float64), self.output
        keys = [s * o + weight * o * o / 2 for weight in WEIGHTS] + [s * 0 + o]
        found = [self.in_order(np.lexsort((self.volume, key))) for key in keys]
        if self.arrival.any():
            found += [self.in_order(np.lexsort((key, self.arrival))) for key in keys[:2]]
        return min(found, key=np.sum)

    def improved(self, start: Ints, moves: int, seed: int = 0) -> Ints:
        """Starts no later in the sum, after so many moves of annealing."""
        order, known = np.argsort(start, kind="stable"), self.arrival.copy()
        found = np.zeros(self.n, np.int64)
        arrays = (self.prompt, self.output, self.arrival)
        anneal.anneal(*arrays, self.memory, order, known, moves, seed, found)
        return found if found.sum() < start.sum() else start

    def refuse_overflow(self, start: Ints) -> None:
        """RuntimeError if the schedule does not keep to memory and arrivals: an error of ours."""
        use = np.zeros(int((start + self.output).max()) + 1, np.int64)
        for s, o, p in zip(self.prompt, self.output, start, strict=True):
            use[p : p + o] += np.arange(s + 1, s + o + 1)
        if use.max() > self.memory or np.any(start < self.arrival):
            raise RuntimeError("a schedule that was thought to be feasible is not")

    def checked(self, start: Ints) -> Ints:
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

    memory: Ints  # lambda
    row: Ints  # mu
    alpha: Ints  # the row's offsets of each request
    beta: Ints
    unit: int

    def value(self, lane: Lane) -> int:
        """The bound on the total latency, times `unit`: exact."""
        rounds = len(self.memory)
        cost = np.zeros(max(rounds, int(lane.arrival.max())) + 2, np.int64)
        best, start = np.zeros(lane.n, np.int64), np.zeros(lane.n, np.int64)
        value = prices.best_starts(
            lane.prompt, lane.output, lane.arrival, lane.memory, self.alpha, self.beta, self.unit,
            self.memory, self.row, best, cost, start,
        )  # fmt: skip
        return int(value)

    def bound(self, lane: Lane) -> int:
        """The least whole total latency that the prices allow."""
        return -(-self.value(lane) // self.unit)


def fluid_bound(lane: Lane) -> int:
    """The mean busy time bound, with arrivals, up to the next whole number: latencies are whole.

    What its floats may be wrong is taken off first.
    """
    return int(np.ceil(_fluid(lane, np.zeros(0)) * (1 - 1e-9) - 1e-9))


def _fluid(lane: Lane, lam: NDArray[np.float64]) -> float:
    value, _ = prices.fluid(lane.prompt, lane.output, lane.arrival, lane.memory, lam)
    return float(value)


def climb(lane: Lane, start: Ints, steps: int) -> Prices:
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


def _best_row(lane: Lane) -> tuple[Ints, Ints]:
    """The unary row that binds the longest: its level is that of some prompt."""
    levels = np.unique(lane.prompt)
    if len(levels) > 16:
        levels = np.unique(np.quantile(lane.prompt, np.linspace(0, 1, 16), method="nearest"))
    rows = [prices.unary_row(lane.prompt, lane.output, lane.memory, level) for level in levels]
    return max(rows, key=lambda row: int(np.sum(row[1] - row[0])))


def _unit(lane: Lane, lam: NDArray[np.float64], mu: NDArray[np.float64], upper: float) -> int:
    """A power of two for which no sum of costs leaves 64 bits."""
    rounds = max(len(lam), int(lane.arrival.max())) + int(lane.output.max())
    fees = float((lam * np.arange(len(lam))).sum() + lam.sum() * lane.memory + mu.sum())
    largest = lane.n * (rounds + fees + 1.0) + lam.sum() * rounds * 2 + abs(upper)
    return 1 << max(0, min(24, int(np.log2(WIDEST / (largest + lane.memory * len(lam) + 1)))))


def lanes_of(instance: Instance) -> Iterator[Lane]:
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
        lane = Lane(s, o, a, int(memory[i]))
        rounds = int(lane.arrival.max(initial=0) + lane.output.sum())
        if rounds > MOST_ROUNDS:
            raise ValueError(
                f"lane {i}: may take {rounds:,} rounds; expected at most {MOST_ROUNDS:,}, "
                "schedules are looked at round by round"
            )
        yield lane
