"""Rounds that have lengths: how long they last together, and which one sees the next arrival.

From the second round after an event on nobody is admitted, and a round lasts as long as the one
before and `growth` more. Times are whole ticks (picoseconds). No round lasts 2**61 ticks, so 64
bits hold the end of every round that starts before `LAST_TICK`.
"""

from __future__ import annotations

import math

from numba import int64, uint64
from numpy.typing import NDArray

from jaxsched.engines.cpu.layout import LAST_TICK, CpuLane, Record, jit

# Columns of `clock`.
FIXED, PER_PROMPT_TOKEN, PER_REQUEST, PER_CACHE_TOKEN, PER_TOKEN_BEYOND, FREE_TOKENS = range(6)


@jit
def run_rounds(lane: CpuLane, state: Record, event: int, arrival: int, cache: int) -> None:
    """Runs the rounds up to `event`, or to the first that starts at or after the next arrival.

    `cache` is the memory in use in the first of them, in tokens.
    """
    if state.active == 0:
        state.time = arrival
        return
    clock = lane.clock
    steady = clock[FIXED] + clock[PER_REQUEST] * state.active + clock[PER_CACHE_TOKEN] * cache
    first = steady + clock[PER_PROMPT_TOKEN] * state.prompts
    first += _beyond(clock, state.prompts + state.active)
    steady += _beyond(clock, state.active)
    state.now += 1
    state.time += first
    _see_first_tokens(lane, state)
    until = min(arrival, int64(LAST_TICK))
    if state.now < event and state.time < until:
        growth = clock[PER_CACHE_TOKEN] * state.active
        rounds = _rounds_until(until - state.time, event - state.now, steady, growth)
        state.now += rounds
        state.time += _ticks(rounds, steady, growth)


@jit
def _beyond(clock: NDArray, tokens: int) -> int:
    """What a round lasts longer for the tokens beyond the free ones."""
    return clock[PER_TOKEN_BEYOND] * max(int64(0), tokens - clock[FREE_TOKENS])


@jit
def _see_first_tokens(lane: CpuLane, state: Record) -> None:
    """Notes the end of the round for those whose first run began in it."""
    for k in range(state.fresh):
        lane.times[uint64(lane.fresh[uint64(k)]), uint64(1)] = state.time
    state.fresh = state.prompts = 0


@jit
def _ticks(rounds: int, steady: int, growth: int) -> int:
    """How long so many rounds last that follow one of `steady` ticks and nobody's admission."""
    return rounds * steady + growth * ((rounds * (rounds + 1)) >> 1)


@jit
def _rounds_until(gap: int, most: int, steady: int, growth: int) -> int:
    """The fewest rounds that last for `gap` ticks or more; `most` if no fewer do.

    A guess in floating point, never too high as it is off by less than one round, then exact
    steps; what is compared never exceeds the ticks of the rounds that are run.
    """
    half = 0.5 * float(growth)
    linear = float(steady) + half
    root = 2.0 * gap / (linear + math.sqrt(linear * linear + 4.0 * half * gap))
    rounds = max(int64(min(root, float(most))) - 1, int64(0))
    while rounds < most and _ticks(rounds, steady, growth) < gap:
        rounds += 1
    return rounds
