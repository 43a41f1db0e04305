"""Inputs on which a policy does badly: made by hand, then mutated and selected, lanes at a time.

All requests have one prompt and one interval [l, u], as in the worst cases of arXiv 2508.14544, and
arrive together. A case is the list of their true lengths, each in [l, u]; its order matters, since
the index breaks ties.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxsched.bounds import lower_bound, mean_busy_time_bound
from jaxsched.engines import reference
from jaxsched.instance import Instance
from jaxsched.policies import Policy, h_sf
from jaxsched.simulate import simulate

CaseOutputs = NDArray[np.int64]

YARDSTICKS = ("h_sf", "bound", "optimal")
"""What a total latency can be divided by."""

KEPT = 16
"""One case in so many has offspring."""

KEPT_CHANGES, MADE_CHANGES = 4096, 256
"""Changes for the worse that are remembered, and that are made at once: so many, at most."""

LARGEST_REPLAY = 512
"""Requests that the reference replays in a second or two, at most."""


@dataclasses.dataclass(frozen=True)
class Game:
    """A policy, what it is measured by, and the inputs that are allowed."""

    policy: Policy
    against: str  # one of `YARDSTICKS`
    memory: int  # M, tokens
    requests: int  # n
    lower: int  # l, of all
    upper: int  # u, at most memory - prompt
    prompt: int = 1  # of all

    def __post_init__(self) -> None:
        if self.against not in YARDSTICKS:
            raise ValueError(f"against: got {self.against!r}; expected one of {YARDSTICKS}")
        if not 1 <= self.lower <= self.upper <= self.memory - self.prompt:
            raise ValueError(
                f"lengths: got [{self.lower}, {self.upper}]; expected 1 <= lower <= upper <= "
                f"memory - prompt = {self.memory - self.prompt}"
            )

    def instance(self, output: CaseOutputs) -> Instance:
        """The cases as lanes, of shape [..., n]; the point prediction is the middle."""
        same = np.ones_like(output)
        return Instance(
            prompt=self.prompt * same, output=output, lower=self.lower * same,
            upper=self.upper * same, point=(self.lower + self.upper) // 2 * same,
            memory=self.memory,
        )  # fmt: skip

    def ratio(self, output: CaseOutputs) -> NDArray[np.float64]:
        """What is made large, of shape [...]: against the optimum by a bound, as that is quick."""
        given = self.instance(output)
        total = np.asarray(simulate(given, self.policy).total_latency, np.float64)
        if self.against == "h_sf":
            return np.asarray(total / simulate(given, h_sf()).total_latency)
        return total / mean_busy_time_bound(given.prompt, given.output, given.memory)

    def by_hand(self) -> dict[str, CaseOutputs]:
        """Name -> a case: those that theory and trials point to."""
        n, low, high = self.requests, self.lower, self.upper
        cases = {}
        for share in (0.5, 0.75, 1.0, 1.33, 1.67, 2.0):
            # Worst for A_max (docs/optimum.md): longer than t is a part 1 / (1 + 2 share t / l).
            lengths = (n / (np.arange(n) + 0.5) - 1) * low / (2 * share)
            longest_first = np.clip(np.round(lengths), low, high).astype(np.int64)
            cases[f"longest first, {share:g}"] = longest_first
        for count in (2**k for k in range(12) if 2**k < n):
            ends = (np.full(count, high), np.full(n - count, low))
            cases[f"{count} long first"] = np.concatenate(ends)
            cases[f"{count} long last"] = np.concatenate(ends[::-1])
        for short in (1, 2, 4):
            for below in (0, 1, 2, 3):
                rest = high - np.arange(n - min(short, n - 1)) % (below + 1)
                cases[f"{short} short first, the rest in u − {below} … u"] = np.concatenate(
                    (np.full(n - len(rest), low), np.maximum(low, rest))
                )
        return cases

    def replay(self, output: CaseOutputs) -> tuple[int, int]:
        """The policy's total latency and evictions as the reference counts them."""
        point = (self.lower + self.upper) // 2
        requests = [
            reference.Request(self.prompt, o, self.lower, self.upper, 0, point)
            for o in output.tolist()
        ]
        outcome = reference.simulate(requests, self.memory, self.policy)
        return outcome.total_latency, outcome.evictions


@dataclasses.dataclass(frozen=True)
class Generation:
    """How far an evolution has come."""

    number: int  # 0 for the cases by hand
    output: CaseOutputs  # the worst case so far
    ratio: float  # its ratio


def evolve(
    game: Game, lanes: int, generations: int, seed: int = 0, others: Sequence[CaseOutputs] = ()
) -> Iterator[Generation]:
    """Mutates and selects cases, lanes at a time; the first are those made by hand, and others.

    The ratio never falls, since the worst cases stay.
    """
    rng = np.random.default_rng(seed)
    cases = np.stack([*game.by_hand().values(), *others])
    for number in range(generations + 1):
        ratios = game.ratio(cases)
        order = np.argsort(-ratios, kind="stable")
        cases = cases[order]
        yield Generation(number, cases[0].copy(), float(ratios[order[0]]))
        # One of a kind: or what is bad soon fills all lanes.
        _, first = np.unique(ratios[order], return_index=True)
        parents = cases[np.sort(first)][: max(4, lanes // KEPT)]
        children = [_child(game, rng, parents) for _ in range(lanes - len(parents))]
        cases = np.concatenate([parents, np.stack(children)])


def _child(game: Game, rng: np.random.Generator, parents: CaseOutputs) -> CaseOutputs:
    """A case made of one or two others, mutated once or a few times."""
    # The worse a case, the likelier it has offspring.
    pick = int(len(parents) * rng.random() ** 2)
    child = parents[pick].copy()
    if rng.random() < 0.2:
        other, cut = parents[rng.integers(len(parents))], rng.integers(len(child) + 1)
        child[cut:] = other[cut:]
    for _ in range(1 + rng.geometric(0.5)):
        _MUTATIONS[rng.integers(len(_MUTATIONS))](game, rng, child)
    return child


def _starts(output: CaseOutputs) -> CaseOutputs:
    """Where the runs of one length begin."""
    return np.flatnonzero(np.append(True, output[1:] != output[:-1]))


def enlarged(small: Game, output: CaseOutputs, game: Game) -> CaseOutputs:
    """A case of a smaller memory, blown up: each request several times, lengths in proportion."""
    part = (output - small.lower) / max(1, small.upper - small.lower)
    lengths = np.round(game.lower + part * (game.upper - game.lower)).astype(np.int64)
    return lengths[np.arange(game.requests) * small.requests // game.requests]


def _neighbours(game: Game, output: CaseOutputs) -> Iterator[CaseOutputs]:
    """All cases that are one change away (a few of them twice), some at a time: [cases, n].

    One request has another length, or another place; or all of a run have another length. So a run
    that gets or loses a request at its end is among them.
    """
    lengths = np.arange(game.lower, game.upper + 1)
    starts = _starts(output)
    for start, stop in itertools.pairwise((*starts.tolist(), len(output))):
        own = output[start]
        other = lengths[lengths != own]
        places = [slice(place, place + 1) for place in range(start, stop)]
        for where in places if stop == start + 1 else (*places, slice(start, stop)):
            changed = np.tile(output, (len(other), 1))
            changed[:, where] = other[:, None]
            yield changed
        rest = np.delete(output, start)
        # Before and after one of the same length are one place.
        free = np.flatnonzero(np.append(True, rest != own))
        moved = [np.insert(rest, to, own) for to in free.tolist() if to != start]
        yield np.array(moved, np.int64).reshape(-1, len(output))


@dataclasses.dataclass(frozen=True)
class Neighbourhood:
    """What every single change of a case makes of it."""

    output: CaseOutputs  # the case
    ratio: float  # its ratio
    number: int  # of cases that are one change away
    worse: CaseOutputs  # the worst of those with a larger ratio, in order, of shape [worse, n]
    worst_ratio: float  # the largest of all


def neighbourhood(game: Game, output: CaseOutputs) -> Neighbourhood:
    """Tries every single change: another length or place of a request, another length of a run."""
    own, number = float(game.ratio(output)), 0
    worse, ratios = np.empty((0, len(output)), np.int64), np.empty(0)
    for cases in _gathered(_neighbours(game, output), 4096):
        found = game.ratio(cases)
        number += len(found)
        worse = np.concatenate((worse, cases[found > own]))
        ratios = np.concatenate((ratios, found[found > own]))
        order = np.argsort(-ratios, kind="stable")[:KEPT_CHANGES]
        worse, ratios = worse[order], ratios[order]
    return Neighbourhood(output, own, number, worse, float(ratios.max(initial=own)))


def _gathered(parts: Iterator[CaseOutputs], rows: int) -> Iterator[CaseOutputs]:
    """The same rows, but so many at a time, or more."""
    held: list[CaseOutputs] = []
    count = 0
    for part in parts:
        held.append(part)
        count += len(part)
        if count >= rows:
            yield np.concatenate(held)
            held, count = [], 0
    if count:
        yield np.concatenate(held)


def worsen(game: Game, output: CaseOutputs) -> Iterator[Neighbourhood]:
    """Makes changes as long as one makes the case worse: the last has none that does."""
    while True:
        around = neighbourhood(game, output)
        yield around
        if not len(around.worse):
            return
        # The worst change; or the worst few at once, where they are of different requests.
        single = around.worse[(around.worse != output).sum(axis=1) == 1][:MADE_CHANGES]
        together, cases = output.copy(), [around.worse[0]]
        for case in single:
            where = (case != output) & (together == output)
            together = np.where(where, case, together)
            cases.append(together)
        output = cases[int(np.argmax(game.ratio(np.stack(cases))))]


def _stretch(rng: np.random.Generator, n: int) -> slice:
    """Some places one after another, few or many."""
    length = min(n, int(np.ceil(np.exp(rng.uniform(0, np.log(n + 1))))))
    start = int(rng.integers(n - length + 1))
    return slice(start, start + length)


def _resize(game: Game, rng: np.random.Generator, child: CaseOutputs) -> None:
    """Gives a run, which is a stretch of one length, more requests or fewer."""
    starts = _starts(child)
    start = int(starts[rng.integers(len(starts))])
    by = int(np.ceil(np.exp(rng.uniform(0, np.log(len(child))))))
    longer = np.insert(child, start, np.full(by, child[start]))[: len(child)]
    fewer = np.append(np.delete(child, slice(start, start + by)), np.full(by, child[-1]))
    child[:] = longer if rng.random() < 0.5 else fewer[: len(child)]


def _set(game: Game, rng: np.random.Generator, child: CaseOutputs) -> None:
    """Gives a stretch one length: an end of the interval, or any."""
    lengths = (game.lower, game.upper, int(rng.integers(game.lower, game.upper + 1)))
    child[_stretch(rng, len(child))] = lengths[rng.integers(3)]


def _nudge(game: Game, rng: np.random.Generator, child: CaseOutputs) -> None:
    """Makes a stretch longer or shorter, by one amount or by one each."""
    where = _stretch(rng, len(child))
    most = max(1, int((game.upper - game.lower) * rng.random() ** 4))
    size = None if rng.random() < 0.5 else where.stop - where.start
    moved = child[where] + rng.integers(-most, most + 1, size=size)
    child[where] = np.clip(moved, game.lower, game.upper)


def _move(game: Game, rng: np.random.Generator, child: CaseOutputs) -> None:
    """Puts a stretch to the front or the end, or turns it round."""
    where = _stretch(rng, len(child))
    part, rest = child[where].copy(), np.delete(child, where)
    kind = rng.integers(3)
    if kind == 2:
        child[where] = part[::-1]
    else:
        child[:] = np.concatenate((part, rest) if kind else (rest, part))


def _sort(game: Game, rng: np.random.Generator, child: CaseOutputs) -> None:
    """Sorts or shuffles a stretch."""
    where = _stretch(rng, len(child))
    child[where] = rng.permutation(child[where]) if rng.random() < 0.5 else np.sort(child[where])


_MUTATIONS: tuple[Callable[[Game, np.random.Generator, CaseOutputs], Any], ...] = (
    _set, _nudge, _move, _sort, _resize,
)  # fmt: skip


def proved_ratio(game: Game, output: CaseOutputs) -> tuple[float, float]:
    """What lies between: the policy's total latency over the optimum, at least and at most.

    Of the best schedule found and the strongest bound; for `optimal` of a search for a proof.
    """
    from jaxsched.optimum.plan import best_schedule  # noqa: PLC0415 - these compile
    from jaxsched.optimum.solve import MOST_REQUESTS, optimal  # noqa: PLC0415

    given = game.instance(output)
    total = int(simulate(given, game.policy).total_latency)
    if game.against == "optimal" and game.requests <= MOST_REQUESTS:
        found = optimal(given, 20.0)
        return total / int(found.total_latency), total / int(found.lower_bound)
    best = int(best_schedule(given).total_latency)
    best = min(best, total, int(simulate(given, h_sf()).total_latency))
    return total / best, total / int(lower_bound(given))
