"""What a lane carries from step to step, and the static plan it was laid out with."""

from __future__ import annotations

import dataclasses

import chex
import jax.numpy as jnp
import numpy as np

from jaxsched.arrays import Pytree

NEVER = np.int32(2**31 - 1)
"""A round, key or index that does not exist."""

RUN, DONE, WANTS_SLOT, WANTS_BUFFER = (np.int32(i) for i in range(4))
"""Why a lane stands still: it does not; all is done; every slot is taken; its buffer is full."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Static sizes of a simulation; equal plans share a compiled program.

    Attributes:
      n: Request positions per lane.
      pool: Lanes stepped side by side; finished ones are reloaded with the next instance.
      slots: Slot counts a step may be compiled for, ascending; the last is never too small.
      chunk: Most steps between two borders.
      buffer: Requests that can return to the queue between two borders.
      runs: Capacities of the sorted runs of returned requests, ascending; the last is n.
      arrivals: Whether requests arrive over time.
      clocked: Whether rounds have lengths.
      history: Evicted runs of a lane that there is room for in `Records.history`.
      counts_evictions: Whether the policy reads how often a request was evicted.
    """

    n: int
    pool: int
    slots: tuple[int, ...]
    chunk: int
    buffer: int
    runs: tuple[int, ...]
    arrivals: bool
    clocked: bool = False
    history: int = 0
    counts_evictions: bool = False


class Slots(Pytree):
    """The active requests of a lane, unordered, S of them at most.

    A slot is free when `finish` and `end` have both passed, so completing costs no write.

    Attributes:
      end: Round e_j to which the request reserved memory, [S].
      load: `end` plus the memory reserved in that round by all that reserved so far, [S].
      finish: Round p_j + o_j in which the request completes, [S].
      admitted: Round p_j, [S].
      prompt: Prompt length in tokens, [S].
      estimate: The policy's estimate, [S].
      index: Position of the request in its instance, [S].
      evictions: How often the request was evicted, [S]; `None` if the policy does not read it.
    """

    end: chex.Array
    load: chex.Array
    finish: chex.Array
    admitted: chex.Array
    prompt: chex.Array
    estimate: chex.Array
    index: chex.Array
    evictions: chex.Array | None


class Entries(Pytree):
    """Waiting requests with their admission keys, of shape [B] each; `key` is NEVER where empty."""

    key: chex.Array
    index: chex.Array
    estimate: chex.Array
    evictions: chex.Array | None


class Lane(Pytree):
    """Scalars of a lane and its small arrays: all that a step reads and writes.

    Attributes:
      slots: The active requests.
      buffer: Requests that joined the queue since the last border.
      time: The current round.
      jump: Rounds that pass before anything can change.
      heads: Requests taken from the fresh order and from each returned run, [1 + runs].
      peak: Largest per-round memory so far.
      halt: RUN, DONE, WANTS_SLOT or WANTS_BUFFER.
      clock: Picoseconds at which round `time + jump` starts, int64; `None` without a clock.
      prefill: Prompt tokens admitted in the current round; `None` without a clock.
    """

    slots: Slots
    buffer: Entries
    time: chex.Array
    jump: chex.Array
    heads: chex.Array
    peak: chex.Array
    halt: chex.Array
    clock: chex.Array | None = None
    prefill: chex.Array | None = None


class Event(Pytree):
    """What one step did, for the log: request positions, NEVER where nothing happened.

    Attributes:
      admitted: Request admitted in this step.
      evicted: Request evicted in this step.
      time: Round in which both happened.
      lost: Tokens that the evicted request lost.
      clock: Picoseconds at the start of that round, int64; `None` without a clock.
    """

    admitted: chex.Array
    evicted: chex.Array
    time: chex.Array
    lost: chex.Array
    clock: chex.Array | None = None


def empty_slots(lanes: int, plan: Plan) -> Slots:
    """Free slots of shape [lanes, S], as many as there may ever be."""
    zeros = jnp.zeros((lanes, plan.slots[-1]), jnp.int32)
    return Slots(
        end=zeros, load=zeros, finish=zeros, admitted=zeros, prompt=zeros, estimate=zeros,
        index=zeros, evictions=zeros if plan.counts_evictions else None,
    )  # fmt: skip


def empty_buffer(lanes: int, plan: Plan) -> Entries:
    """An empty buffer of shape [lanes, B]."""
    never = jnp.full((lanes, plan.buffer), NEVER)
    zeros = jnp.zeros_like(never)
    evictions = zeros if plan.counts_evictions else None
    return Entries(key=never, index=never, estimate=zeros, evictions=evictions)
