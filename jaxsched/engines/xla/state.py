"""What a lane carries from step to step, and the static plan it was laid out with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax.numpy as jnp
import numpy as np

from jaxsched.arrays import Pytree

NEVER = np.int32(2**31 - 1)
"""A round, key or index that does not exist."""

RUN, DONE, WANTS_SLOT, WANTS_BUFFER = (np.int32(i) for i in range(4))
"""Why a lane stands still: it does not; all is done; every slot is taken; its buffer is full."""

OPEN, UNMET = np.int32(-1), np.int32(-2)
"""In `Round.left` before grants are made; UNMET if somebody was preempted for want of blocks."""


@dataclasses.dataclass(frozen=True)
class LoopPlan:
    """Static sizes of a simulation; equal plans share a compiled program."""

    n: int  # request positions per lane
    pool: int  # lanes at work; finished ones are reloaded with the next instance
    # slot counts a step may be compiled for, ascending; the last is never too small
    slots: tuple[int, ...]
    chunk: int  # most steps between two borders
    buffer: int  # requests that can return to the queue between two borders
    # capacities of the sorted runs of returned requests, ascending; the last is n
    runs: tuple[int, ...]
    arrivals: bool  # whether requests arrive over time
    clocked: bool = False  # whether rounds have lengths
    history: int = 0  # evicted runs of a lane that there is room for in `Records.history`
    counts_evictions: bool = False  # whether the policy reads how often a request was evicted
    # requests that may be admitted in one step, 1, 2 or 4: more would need more than 32 bits
    party: int = 4
    blocks: bool = False  # whether the worker is that of a serving engine
    # "" to step in loops of XLA, "gpu" in a kernel, "interpret" in one that is interpreted
    kernel: str = ""
    scan: int = 1  # steps of one `lax.scan`, of which a chunk is a multiple; none in a kernel
    wide: bool = False  # whether a loop of XLA takes the form of `wide.py` rather than `fold.py`
    # requests of the fresh order that a lane of a wide loop has at hand in a chunk, and half as
    # many of each run; at least 2 (`party` + `queue.ALIGNED`), or 0 to look everything up
    window: int = 0
    headroom: bool = False  # whether the policy has one
    turn: int = 0  # lanes that step side by side in a chunk; 0 for all of the pool

    @property
    def width(self) -> int:
        """Lanes that step side by side."""
        return min(self.turn or self.pool, self.pool)


class Slots(Pytree):
    """The active requests of a lane, unordered, S of them at most.

    A slot is free when `finish` and `end` have both passed, so completing costs no write.
    """

    end: chex.Array  # round e_j to which the request reserved memory, [S]
    # `end` plus the memory reserved in that round by all that reserved so far, [S]
    load: chex.Array
    finish: chex.Array  # round p_j + o_j in which the request completes, [S]
    admitted: chex.Array  # round p_j, [S]
    # prompt length in tokens less `admitted`; on a worker with blocks the tokens in the cache with
    # the grant of round t, less t, [S]
    base: chex.Array
    estimate: chex.Array  # the policy's estimate, [S]
    index: chex.Array  # position of the request in its instance, [S]
    # how often the request was evicted, [S]; `None` if the policy does not read it
    evictions: chex.Array | None
    # On a worker with blocks, else `None`. There `load` is the blocks expected in the round before
    # `end` without `end` itself, and of who is in the middle of its prompt `end` is 0 and `finish`
    # NEVER.
    prompt: chex.Array | None = None  # prompt length in tokens, [S]
    entered: chex.Array | None = None  # tokens that were generated at the admission, [S]


class Terms(Pytree):
    """What a waiting request would enter with, beside what its queue knows of it."""

    prompt: chex.Array
    output: chex.Array
    reserve: chex.Array
    headroom: chex.Array | None  # memory that its look-ahead test leaves free beside others


class Entries(Pytree):
    """Waiting requests with their admission keys, of shape [B] each; `key` is NEVER where empty."""

    key: chex.Array
    index: chex.Array
    estimate: chex.Array
    evictions: chex.Array | None
    kept: chex.Array | None = None  # tokens generated so far, on a worker with blocks
    terms: Terms | None = None  # where the plan has a window


class Round(Pytree):
    """On a worker with blocks: the round under way, and who is in the middle of its prompt."""

    left: chex.Array  # of the round's budget once grants are made, else OPEN or UNMET
    grant: chex.Array  # what that one gets in this round, 0 before it is known
    done: chex.Array  # its tokens in the cache, with those granted in this round
    goal: chex.Array  # those that it needs
    admitted: chex.Array  # round
    index: chex.Array  # position of the request in its instance, NEVER of nobody
    estimate: chex.Array
    evictions: chex.Array | None
    kept: chex.Array  # tokens generated so far


class Lane(Pytree):
    """Scalars of a lane and its small arrays: all that a step reads and writes."""

    slots: Slots  # the active requests
    buffer: Entries  # requests that joined the queue since the last border
    time: chex.Array  # the current round
    jump: chex.Array  # rounds that pass before anything can change
    # requests taken from the fresh order and from each returned run
    heads: tuple[chex.Array, ...]
    peak: chex.Array  # largest per-round memory so far
    halt: chex.Array  # RUN, DONE, WANTS_SLOT or WANTS_BUFFER
    used: chex.Array  # slots in use, NEVER if that is not counted
    # picoseconds at which round `time + jump` starts, int64; `None` without a clock
    clock: chex.Array | None = None
    # prompt tokens admitted in the current round; `None` without a clock
    prefill: chex.Array | None = None
    round: Round | None = None  # on a worker with blocks
    # who is first in the queue, of `queue.Front`; `None` between two chunks
    front: Any = None


class Served(Pytree):
    """What else one step did on a worker with blocks."""

    begun: chex.Array  # request whose prompt is through in this round, NEVER if none is
    admitted: chex.Array  # round of the last admission of the evicted one
    entered: chex.Array  # tokens that it had generated then
    kept: chex.Array  # tokens that it has generated
    piece: chex.Array  # tokens of memory held by a prompt that is not through in this round


class Event(Pytree):
    """What one step did, for the log: request positions, NEVER where nothing happened."""

    admitted: tuple[chex.Array, ...]  # requests admitted in this step
    evicted: chex.Array  # request evicted in this step
    time: chex.Array  # round in which both happened
    lost: chex.Array  # tokens that the evicted request lost
    # picoseconds at the start of that round, int64; `None` without a clock
    clock: chex.Array | None = None
    served: Served | None = None  # on a worker with blocks; there `lost` are tokens in the cache


class Stepper(NamedTuple):
    """How lanes advance; both take a lane, its queue, inputs, the choices and the plan."""

    step: Callable[..., tuple[Lane, Event]]
    begin: Callable[..., Lane]  # what comes before a chunk of steps


def narrower(slots: tuple[int, ...], level: int) -> int:
    """Slots in use from which on a lane goes to the next smaller number; -1 if there is none.

    A quarter of them stays free, so that it does not come back at once.
    """
    return 3 * slots[level - 1] // 4 if level else -1


def empty_slots(lanes: int, plan: LoopPlan) -> Slots:
    """Free slots of shape [lanes, S], as many as there may ever be."""
    zeros = jnp.zeros((lanes, plan.slots[-1]), jnp.int32)
    return Slots(
        end=zeros, load=zeros, finish=zeros, admitted=zeros, base=zeros, estimate=zeros,
        index=zeros, evictions=zeros if plan.counts_evictions else None,
        prompt=zeros if plan.blocks else None, entered=zeros if plan.blocks else None,
    )  # fmt: skip


def empty_buffer(lanes: int, plan: LoopPlan) -> Entries:
    """An empty buffer of shape [lanes, B]."""
    never = jnp.full((lanes, plan.buffer), NEVER)
    zeros = jnp.zeros_like(never)
    evictions = zeros if plan.counts_evictions else None
    kept = zeros if plan.blocks else None
    headroom = zeros if plan.headroom else None
    terms = Terms(prompt=zeros, output=zeros, reserve=zeros, headroom=headroom)
    return Entries(
        key=never, index=never, estimate=zeros, evictions=evictions, kept=kept,
        terms=terms if plan.window else None,
    )  # fmt: skip


def empty_round(shape: tuple[int, ...], plan: LoopPlan) -> Round | None:
    """A round in which nothing has happened; `None` on the papers' worker."""
    zeros = jnp.zeros(shape, jnp.int32)
    if not plan.blocks:
        return None
    return Round(
        left=zeros + OPEN, grant=zeros, done=zeros, goal=zeros,
        admitted=zeros, index=zeros + NEVER, estimate=zeros,
        evictions=zeros if plan.counts_evictions else None, kept=zeros,
    )  # fmt: skip
