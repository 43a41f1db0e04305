"""The rounds of a simulated lane, rebuilt exactly from its runs, and what lies between tokens.

A run is one stay of a request on the worker: [admitted, ended) in rounds. Its final run is known
from the completion, earlier ones from the history of evictions; together they say what every round
held, hence how long it lasted.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxsched.clocks import TICKS_PER_SECOND, Clock, round_ticks, ticks
from jaxsched.instance import Instance
from jaxsched.metrics.samples import Floats, Integers, Progressions, arrival_ticks
from jaxsched.result import Result, Status


@dataclasses.dataclass(frozen=True)
class Runs:
    """Stays on the worker, in order of request and then time; every array has shape [K]."""

    request: Integers
    admitted: Integers  # first round
    ended: Integers  # the round after the last


@dataclasses.dataclass(frozen=True)
class Timeline:
    """The rounds of one lane; every array has shape [R].

    Attributes:
      start: When each round starts, in picoseconds.
      end: When it ends.
      prompt_tokens: Prompt tokens admitted in it.
      requests: Active requests.
      cache_tokens: KV cache in use, in tokens.
    """

    start: Integers
    end: Integers
    prompt_tokens: Integers
    requests: Integers
    cache_tokens: Integers

    @property
    def seconds(self) -> Floats:
        """How long each round lasts."""
        return (self.end - self.start) / TICKS_PER_SECOND


@dataclasses.dataclass(frozen=True)
class Stretches:
    """A lane's rounds, in stretches in which the same requests run; every array has shape [S].

    In a stretch only the cache grows, by a token a request and round, so that its rounds last
    `lasts`, `lasts + more`, `lasts + 2 more`, … picoseconds: a few numbers an event, however many
    rounds lie between.
    """

    first: Integers  # its first round
    length: Integers  # how many rounds
    requests: Integers
    prompt_tokens: Integers  # of the one round, where requests are admitted
    cache_tokens: Integers  # in the first round
    start: Integers  # of the first round, in picoseconds
    lasts: Integers
    more: Integers

    def at(self, rounds: Integers) -> Integers:
        """Which stretch each round is in."""
        return np.searchsorted(self.first, rounds, side="right") - 1

    def ends(self, rounds: Integers) -> Integers:
        """When rounds end, in picoseconds."""
        which = self.at(rounds)
        steps = rounds - self.first[which]
        lasts, more = self.lasts[which], self.more[which]
        return self.start[which] + (steps + 1) * lasts + steps * (steps + 1) // 2 * more


def timeline(
    instance: Instance, result: Result, clock: Clock, lane: int | tuple[int, ...] = ()
) -> Timeline:
    """Rebuilds the rounds of a lane, exactly.

    Args:
      instance: What was simulated; concrete.
      result: What `simulate` made of it under `clock` with `history=True`.
      clock: The clock it was simulated under.
      lane: Which lane; () if the instance has no lane axes.

    Raises:
      ValueError: If the lane did not finish, the history is missing although there were evictions,
        or the clock is another one.
    """
    found = _stretches(instance, result, clock, lane, runs_of(instance, result, lane))
    which = np.repeat(np.arange(len(found.first)), found.length)
    steps = np.arange(len(which)) - found.first[which]
    requests = found.requests[which]
    end = found.ends(np.arange(len(which)))
    start = end - found.lasts[which] - steps * found.more[which]
    cache_tokens = found.cache_tokens[which] + steps * requests
    return Timeline(start, end, found.prompt_tokens[which], requests, cache_tokens)


def runs_of(instance: Instance, result: Result, lane: int | tuple[int, ...]) -> Runs:
    """All runs of a lane; refuses one that did not finish."""
    if np.shape(np.asarray(result.status)[lane]) != ():
        raise ValueError(f"lane is {lane}; expected one of the lanes {list(instance.lanes)}")
    if np.asarray(result.status)[lane] != Status.FINISHED:
        raise ValueError(f"lane {lane}: did not finish; expected a lane whose requests completed")
    count = int(np.asarray(result.num_requests)[lane])
    completion = np.asarray(result.completion, np.int64)[lane][:count]
    output = np.asarray(instance.output, np.int64)[lane][:count]
    evicted = np.zeros((0, 3), np.int64)
    if np.asarray(result.evictions)[lane]:
        if result.history is None:
            raise ValueError("history: the result has none; expected simulate(…, history=True)")
        evicted = np.asarray(result.history, np.int64)[lane]
        evicted = evicted[evicted[:, 0] >= 0]
    final = np.stack([np.arange(count), completion - output, completion], axis=-1)
    runs = np.concatenate([evicted, final])
    runs = runs[np.lexsort((runs[:, 1], runs[:, 0]))]
    return Runs(*runs.T)


def _stretches(
    instance: Instance,
    result: Result,
    clock: Clock,
    lane: int | tuple[int, ...],
    runs: Runs,
    *borders: Integers,
) -> Stretches:
    """The rounds that hold these runs; a new stretch begins at `borders` too.

    ValueError if they do not end where the result says.
    """
    count = int(np.asarray(result.num_requests)[lane])
    prompt = np.asarray(instance.prompt, np.int64)[lane][:count][runs.request]
    arrival = arrival_ticks(instance)[lane][:count][runs.request]
    rounds = int(runs.ended.max(initial=0))
    first = np.unique(np.concatenate([runs.admitted, runs.admitted + 1, runs.ended, *borders]))
    first = first[first < rounds]
    length = np.diff(first, append=rounds)
    requests = _steps(runs, np.ones_like(runs.request), first)
    # A run holds s + t - p + 1 tokens in round t: a constant, and t for every active request.
    cache_tokens: Any = _steps(runs, prompt - runs.admitted + 1, first) + first * requests
    admitted = np.searchsorted(first, runs.admitted)
    prompt_tokens = np.zeros_like(first)
    np.add.at(prompt_tokens, admitted, prompt)
    coefficients = ticks(clock)
    lasts = round_ticks(coefficients, prompt_tokens, requests, cache_tokens)
    more = coefficients.per_cache_token * requests
    never = np.iinfo(np.int64).max
    known = np.full(len(first), never, np.int64)
    np.minimum.at(known, admitted, arrival)
    known = np.where(known < never, known, 0)
    # A round starts when the one before ends and somebody it admits is known: start(t) =
    # max(end(t - 1), known(t)), which is the sum of what the rounds before last plus the largest
    # idle time that any `known` has forced.
    spent = length * lasts + length * (length - 1) // 2 * more
    before = np.cumsum(spent) - spent
    start: Integers = before + np.maximum.accumulate(known - before)
    found = Stretches(first, length, requests, prompt_tokens, cache_tokens, start, lasts, more)
    completion = np.asarray(result.completion, np.int64)[lane][:count]
    if np.any(found.ends(completion - 1) != result.ticks[lane][:count, 2]):
        raise ValueError(
            "clock: the rounds it gives do not end where the result says; expected the clock and "
            "the arrivals that were simulated (through jit they may have been float32)"
        )
    return found


def _steps(runs: Runs, height: Integers, first: Integers) -> Integers:
    """Sum over the runs of a height that each has in its rounds, in the rounds `first`.

    Those have to be all in which a run begins or ends, but for the end of the lane.
    """
    change = np.zeros(len(first) + 1, np.int64)
    np.add.at(change, np.searchsorted(first, runs.admitted), height)
    np.add.at(change, np.searchsorted(first, runs.ended), -height)
    return np.cumsum(change)[:-1]


def gaps(instance: Instance, result: Result, clock: Clock, lane: tuple[int, ...]) -> Progressions:
    """Times between consecutive tokens of a lane as clients see them, in picoseconds.

    Arguments as of `timeline`. A token that a rerun generates again is not seen again: the gap to
    the next new token counts once, from the last one that was seen.
    """
    runs = runs_of(instance, result, lane)
    length = runs.ended - runs.admitted
    seen, last = _seen_before(runs, length)
    # Within a run: the gaps that end with a round, for its new tokens but the first. In a round
    # everybody who sees a token has waited for as long.
    new = length > seen
    inner = Runs(runs.request[new], (runs.admitted + seen + 1)[new], runs.ended[new])
    rounds = _stretches(instance, result, clock, lane, runs, inner.admitted)
    weights = _steps(inner, np.ones_like(inner.request), rounds.first)
    kept = weights > 0
    within = (x[kept] for x in (rounds.lasts, rounds.more, rounds.length, weights))
    # From one run to a later one: that to its first new token.
    later = new & (seen > 0)
    across = rounds.ends((runs.admitted + seen)[later]) - rounds.ends(last[later])
    once = np.ones_like(across)
    return Progressions(*map(np.append, within, (across, once - 1, once, once)))


def _seen_before(runs: Runs, length: Integers) -> tuple[Integers, Integers]:
    """For each run, the tokens seen before it, and the round in which the last was generated."""
    first = np.diff(runs.request, prepend=-1) != 0
    if not len(length):
        return length, length
    # A running maximum within each request: one that starts above all that came before.
    lift = runs.request * (length.max() + 1)
    longest = np.maximum.accumulate(length + lift)
    seen = np.where(first, 0, np.concatenate([[0], longest[:-1]]) - lift)
    record = np.where(length > seen, np.arange(len(length)), 0)
    holder = np.concatenate([[0], np.maximum.accumulate(record)[:-1]])
    return seen, runs.ended[holder] - 1
