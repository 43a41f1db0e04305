"""The rounds of a lane on the worker of a serving engine, rebuilt from its runs.

A run (see `jaxsched.Result.history`) says when a request was admitted, when it left, and with how
many tokens. It generated one in each of its last rounds; before them its prompt was computed, in
one round, or in several where the budget did not suffice. What those held follows from the rules of
docs/model.md: the others decode first, then the prompt in the middle, then the whole prompts.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxsched.clocks import Clock, round_ticks, ticks
from jaxsched.instance import Instance
from jaxsched.metrics.samples import NOTHING, Integers, Progressions, arrival_ticks
from jaxsched.result import Result
from jaxsched.workers import Worker


@dataclasses.dataclass(frozen=True)
class Stays:
    """Runs in order of request and then time; every array has shape [K]."""

    request: Integers
    admitted: Integers  # first round
    full: Integers  # the round that completed its prompt, or `ended` if none did
    ended: Integers  # the round after the last
    holds: Integers  # prompt, and the tokens that it came with
    evicted: Integers  # its place among the evictions, -1 for a run that completed


@dataclasses.dataclass(frozen=True)
class RoundLoads:
    """What each round holds; every array has shape [R]."""

    prompt_tokens: Integers  # computed in it, again or for the first time
    requests: Integers
    cache_tokens: Integers  # in the cache after it
    decodes: Integers  # requests that generated a token in the round before, too


def stays(instance: Instance, result: Result, lane: int | tuple[int, ...]) -> Stays:
    """The runs of a lane that finished and has a history."""
    rows = np.asarray(result.history, np.int64)[lane]
    count = int(np.asarray(result.num_requests)[lane])
    place = np.where(np.arange(len(rows)) < len(rows) - instance.n, np.arange(len(rows)), -1)
    rows, place = rows[rows[:, 0] >= 0], place[rows[:, 0] >= 0]
    order = np.lexsort((rows[:, 2], rows[:, 0]))
    request, admitted, ended, tokens = rows[order].T
    again = np.diff(request, prepend=-1) == 0
    came_with = np.where(again, np.concatenate([[0], tokens[:-1]]), 0)
    prompt = np.asarray(instance.prompt, np.int64)[lane][:count][request]
    full = ended - (tokens - came_with)
    return Stays(request, admitted, full, ended, prompt + came_with, place[order])


def round_loads(own: Stays, worker: Worker, memory: int, quanta: bool = False) -> RoundLoads:
    """What each round of a lane holds.

    With `quanta` those preempted while blocks sufficed had generated their quantum; without they
    went for the prompt in the middle.
    """
    rounds = int(own.ended.max(initial=0))

    def steps(first: Integers, last: Integers, height: Integers | int = 1) -> Integers:
        """Sum over the runs of a height that each has in its rounds first … last - 1."""
        change = np.zeros(rounds + 1, np.int64)
        there = first < last
        height = np.broadcast_to(height, first.shape)[there]
        np.add.at(change, first[there], height)
        np.add.at(change, last[there], -height)
        return np.cumsum(change)[:-1]

    decodes = steps(own.full + 1, own.ended)
    running = steps(own.full, own.ended)
    cache = steps(own.full, own.ended, own.holds - own.full) + np.arange(rounds) * running
    prompts = np.zeros(rounds, np.int64)
    at_once = (own.full == own.admitted) & (own.full < own.ended)
    np.add.at(prompts, own.admitted[at_once], own.holds[at_once])
    for i in np.argsort(own.admitted, kind="stable"):
        if at_once[i]:
            continue
        done, last = 0, min(own.full[i], own.ended[i] - 1)
        for t in range(own.admitted[i], last + 1):
            left = int(worker.budget) - decodes[t] - prompts[t]
            if t > own.admitted[i]:  # before whole prompts, and before others had to go for it
                left = (
                    int(worker.budget)
                    - decodes[t]
                    - _gone_for(own, worker, memory, i, t, done, quanta)
                )
            grant = min(own.holds[i] - done, left)
            done += grant
            prompts[t] += grant
            cache[t] += done if t < own.full[i] else 0
    return RoundLoads(prompts, steps(own.admitted, own.ended), cache, decodes)


def _gone_for(
    own: Stays, worker: Worker, memory: int, middle: int, t: int, done: int, quanta: bool
) -> int:
    """Decoding requests that were preempted in round t after their blocks had been found.

    They left for the blocks of the prompt in the middle, whose grant had been fixed with them.
    """
    gone = np.flatnonzero((own.ended == t) & (own.evicted >= 0))
    if not len(gone):
        return 0
    block = int(worker.block)
    gone = gone[np.argsort(own.evicted[gone])]
    there = (own.full < t) & ((own.ended > t) | ((own.ended == t) & (own.evicted >= 0)))
    tokens = own.holds + t - own.full  # with the one of this round
    need = np.where(there, -(-tokens // block), 0)
    used = int(need.sum()) - (-done // block)
    for k, i in enumerate(gone):
        if used <= memory // block:
            return 0 if quanta and k == 0 else len(gone) - k
        used -= int(need[i])
    return 0


@dataclasses.dataclass(frozen=True)
class BlockRounds:
    """The rounds of a lane under a clock."""

    runs: Stays
    load: RoundLoads
    start: Integers  # picoseconds, [R]
    end: Integers


def block_rounds(
    instance: Instance,
    result: Result,
    clock: Clock,
    worker: Worker,
    lane: int | tuple[int, ...],
    quanta: bool = False,
) -> BlockRounds:
    """Rebuilds the rounds of a lane that finished and has a history.

    Raises:
      ValueError: If they do not end where the result says: clock, arrivals or worker are others.
    """
    numbers = (np.broadcast_to(np.asarray(x), instance.lanes)[lane] for x in worker.numbers)
    own = Worker(worker.name, *map(int, numbers))
    memory = int(np.broadcast_to(np.asarray(instance.memory), instance.lanes)[lane])
    runs = stays(instance, result, lane)
    held = round_loads(runs, own, memory, quanta)
    lasts = round_ticks(ticks(clock), held.prompt_tokens, held.requests, held.cache_tokens)
    # A round starts when the one before ends and somebody it admits is known.
    arrival = arrival_ticks(instance)[lane][runs.request]
    never = np.iinfo(np.int64).max
    known = np.full(len(lasts), never)
    np.minimum.at(known, runs.admitted, arrival)
    known = np.where(known < never, known, 0)
    before = np.cumsum(lasts) - lasts
    start = before + np.maximum.accumulate(known - before)
    end = start + lasts
    count = int(np.asarray(result.num_requests)[lane])
    completion = np.asarray(result.completion, np.int64)[lane][:count]
    if np.any(end[completion - 1] != result.ticks[lane][:count, 2]):
        raise ValueError(
            "clock: the rounds it gives do not end where the result says; expected the clock, the "
            "arrivals and the worker that were simulated"
        )
    return BlockRounds(runs, held, start, end)


def block_gaps(
    instance: Instance, result: Result, clock: Clock, worker: Worker, lane: tuple[int, ...]
) -> Progressions:
    """Times between consecutive tokens of a lane as clients see them, in picoseconds.

    None where a policy with quanta preempted for both reasons: its runs do not say which was which.
    """
    given = (instance, result, clock, worker, lane)
    try:
        found = block_rounds(*given)
    except ValueError:
        if not np.asarray(result.evictions)[lane]:
            raise
        try:
            found = block_rounds(*given, quanta=True)
        except ValueError:
            return NOTHING
    weight = found.load.decodes
    within = (found.end - found.start)[weight > 0]
    # From the last token before a preemption to the next one after it.
    tokens = found.runs.full < found.runs.ended
    request, full, ended = (
        x[tokens] for x in (found.runs.request, found.runs.full, found.runs.ended)
    )
    again = np.flatnonzero(np.diff(request, prepend=-1) == 0)
    across = found.end[full[again]] - found.end[ended[again - 1] - 1]
    first = np.concatenate([within, across])
    ones = np.ones(len(first), np.int64)
    weights = np.concatenate([weight[weight > 0], np.ones(len(across), np.int64)])
    return Progressions(first, np.zeros_like(ones), ones, weights)
