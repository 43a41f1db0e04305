"""The rounds of a simulated lane, rebuilt exactly from its runs, and what lies between tokens.

A run is one stay of a request on the worker: [admitted, ended) in rounds. Its final run is known
from the completion, earlier ones from the history of evictions; together they say what every round
held, hence how long it lasted.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxsched.clocks import TICKS_PER_SECOND, Clock, round_ticks, ticks
from jaxsched.instance import Instance
from jaxsched.metrics.samples import Floats, Integers, arrival_ticks
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
    if np.shape(np.asarray(result.status)[lane]) != ():
        raise ValueError(f"lane is {lane}; expected one of the lanes {list(instance.lanes)}")
    if np.asarray(result.status)[lane] != Status.FINISHED:
        raise ValueError(f"lane {lane}: did not finish; expected a lane whose requests completed")
    count = int(np.asarray(result.num_requests)[lane])
    found = _rebuild(
        _runs(instance, result, lane),
        np.asarray(instance.prompt, np.int64)[lane][:count],
        arrival_ticks(instance)[lane][:count],
        clock,
    )
    completion = np.asarray(result.completion)[lane][:count]
    if np.any(found.end[completion - 1] != result.ticks[lane][:count, 2]):
        raise ValueError(
            "clock: the rounds it gives do not end where the result says; expected the clock and "
            "the arrivals that were simulated (through jit they may have been float32)"
        )
    return found


def _runs(instance: Instance, result: Result, lane: int | tuple[int, ...]) -> Runs:
    """All runs of a lane that finished."""
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


def _rebuild(runs: Runs, prompt: Integers, arrival: Integers, clock: Clock) -> Timeline:
    """The rounds that hold these runs; `arrival` in picoseconds, of the requests' shape."""
    rounds = int(runs.ended.max(initial=0))
    requests = _steps(runs, np.ones_like(runs.request), rounds)
    # A run holds s + t - p + 1 tokens in round t: a constant, and t for every active request.
    constant = _steps(runs, prompt[runs.request] - runs.admitted + 1, rounds)
    cache_tokens = constant + np.arange(rounds) * requests
    prompt_tokens = np.zeros(rounds, np.int64)
    np.add.at(prompt_tokens, runs.admitted, prompt[runs.request])
    lasts = round_ticks(ticks(clock), prompt_tokens, requests, cache_tokens)
    first_arrival = np.full(rounds, np.iinfo(np.int64).max)
    np.minimum.at(first_arrival, runs.admitted, arrival[runs.request])
    known = np.where(first_arrival < np.iinfo(np.int64).max, first_arrival, 0)
    # A round starts when the one before ends and somebody it admits is known: end(t) =
    # max(end(t - 1), known(t)) + lasts(t), which is the sum of `lasts` so far plus the largest
    # idle time that any `known` has forced.
    total = np.cumsum(lasts)
    end = total + np.maximum.accumulate(known - (total - lasts))
    return Timeline(end - lasts, end, prompt_tokens, requests, cache_tokens)


def _steps(runs: Runs, height: Integers, rounds: int) -> Integers:
    """Sum over the runs of a height that each has in its rounds."""
    change = np.zeros(rounds + 1, np.int64)
    np.add.at(change, runs.admitted, height)
    np.add.at(change, runs.ended, -height)
    return np.cumsum(change)[:rounds]


def gaps(
    instance: Instance, result: Result, clock: Clock, lane: tuple[int, ...]
) -> tuple[Integers, Integers]:
    """Times between consecutive tokens of a lane as clients see them, and how often each; [K].

    In picoseconds; arguments as of `timeline`. A token that a rerun generates again is not seen
    again: the gap to the next new token counts once, from the last one that was seen.
    """
    rounds, runs = timeline(instance, result, clock, lane), _runs(instance, result, lane)
    length = runs.ended - runs.admitted
    seen, last = _seen_before(runs, length)
    # Within a run: the gaps that end with a round, for its new tokens but the first.
    new = length > seen
    inner = Runs(runs.request[new], (runs.admitted + seen + 1)[new], runs.ended[new])
    weights = _steps(inner, np.ones_like(inner.request), len(rounds.end))
    within = np.diff(rounds.end, prepend=0)
    # From one run to a later one: that to its first new token.
    later = new & (seen > 0)
    across = rounds.end[(runs.admitted + seen)[later]] - rounds.end[last[later]]
    kept = weights > 0
    values = np.concatenate([within[kept], across])
    return values, np.concatenate([weights[kept], np.ones_like(across)])


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
