"""Inputs on which a policy does badly: made by hand, then mutated and selected, lanes at a time.

All requests have one prompt and one interval [l, u], as in the worst cases of arXiv 2508.14544, and
arrive together. A case is the list of their true lengths, each in [l, u]; its order matters, since
the index breaks ties.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxsched.bounds import lower_bound, mean_busy_time_bound
from jaxsched.engines import reference
from jaxsched.instance import Instance
from jaxsched.policies import Policy, h_sf
from jaxsched.simulate import simulate

Lengths = NDArray[np.int64]

YARDSTICKS = ("h_sf", "bound", "optimal")
"""What a total latency can be divided by."""

KEPT = 16
"""One case in so many has offspring."""

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

    def instance(self, output: Lengths) -> Instance:
        """The cases as lanes, of shape [..., n]; the point prediction is the middle."""
        same = np.ones_like(output)
        return Instance(
            prompt=self.prompt * same, output=output, lower=self.lower * same,
            upper=self.upper * same, point=(self.lower + self.upper) // 2 * same,
            memory=self.memory,
        )  # fmt: skip

    def ratio(self, output: Lengths) -> NDArray[np.float64]:
        """What is made large, of shape [...]: against the optimum by a bound, as that is quick."""
        given = self.instance(output)
        total = np.asarray(simulate(given, self.policy).total_latency, np.float64)
        if self.against == "h_sf":
            return np.asarray(total / simulate(given, h_sf()).total_latency)
        return total / mean_busy_time_bound(given.prompt, given.output, given.memory)

    def by_hand(self) -> dict[str, Lengths]:
        """Name -> a case: those that theory and trials point to."""
        n, low, high = self.requests, self.lower, self.upper
        cases = {}
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

    def replay(self, output: Lengths) -> tuple[int, int]:
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
    output: Lengths  # the worst case so far
    ratio: float  # its ratio


def evolve(game: Game, lanes: int, generations: int, seed: int = 0) -> Iterator[Generation]:
    """Mutates and selects cases, so many lanes at a time; the first are those made by hand.

    The ratio never falls, since the worst cases stay.
    """
    rng = np.random.default_rng(seed)
    cases = np.stack(list(game.by_hand().values()))
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


def _child(game: Game, rng: np.random.Generator, parents: Lengths) -> Lengths:
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


def _stretch(rng: np.random.Generator, n: int) -> slice:
    """Some places one after another, few or many."""
    length = min(n, int(np.ceil(np.exp(rng.uniform(0, np.log(n + 1))))))
    start = int(rng.integers(n - length + 1))
    return slice(start, start + length)


def _set(game: Game, rng: np.random.Generator, child: Lengths) -> None:
    """Gives a stretch one length: an end of the interval, or any."""
    lengths = (game.lower, game.upper, int(rng.integers(game.lower, game.upper + 1)))
    child[_stretch(rng, len(child))] = lengths[rng.integers(3)]


def _nudge(game: Game, rng: np.random.Generator, child: Lengths) -> None:
    """Makes a stretch longer or shorter, by one amount or by one each."""
    where = _stretch(rng, len(child))
    most = max(1, int((game.upper - game.lower) * rng.random() ** 4))
    size = None if rng.random() < 0.5 else where.stop - where.start
    moved = child[where] + rng.integers(-most, most + 1, size=size)
    child[where] = np.clip(moved, game.lower, game.upper)


def _move(game: Game, rng: np.random.Generator, child: Lengths) -> None:
    """Puts a stretch to the front or the end, or turns it round."""
    where = _stretch(rng, len(child))
    part, rest = child[where].copy(), np.delete(child, where)
    kind = rng.integers(3)
    if kind == 2:
        child[where] = part[::-1]
    else:
        child[:] = np.concatenate((part, rest) if kind else (rest, part))


def _sort(game: Game, rng: np.random.Generator, child: Lengths) -> None:
    """Sorts or shuffles a stretch."""
    where = _stretch(rng, len(child))
    child[where] = rng.permutation(child[where]) if rng.random() < 0.5 else np.sort(child[where])


_MUTATIONS: tuple[Callable[[Game, np.random.Generator, Lengths], Any], ...] = (
    _set, _nudge, _move, _sort,
)  # fmt: skip


def proved_ratio(game: Game, output: Lengths) -> tuple[float, float]:
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
