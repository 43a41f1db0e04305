"""One step of one lane: pass the time that changes nothing, complete, arrive, evict, admit."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsched.engines.xla import queue as waiting
from jaxsched.engines.xla import slots as running
from jaxsched.engines.xla.clock import LAST_TICK, elapsed, first_round, rounds_until
from jaxsched.engines.xla.fold import settle
from jaxsched.engines.xla.inputs import Inputs, Queue
from jaxsched.engines.xla.state import (
    DONE,
    NEVER,
    RUN,
    WANTS_BUFFER,
    WANTS_SLOT,
    Event,
    Lane,
    LoopPlan,
)
from jaxsched.policies.program import Choices


def step(
    lane: Lane, queue: Queue, inputs: Inputs, choices: Choices, plan: LoopPlan
) -> tuple[Lane, Event]:
    """Advances one lane to its next change and applies it: at most one eviction, one admission.

    Args:
      lane: The lane, unbatched.
      queue: The requests that returned to its queue, read only.
      inputs: Its instance, read only.
      choices: The scheduler.
      plan: Static sizes.

    Returns:
      The lane after the step, and what happened. A lane that stands still comes back unchanged.
    """
    one = inputs.table.one
    (time,) = settle(one, lane.time + lane.jump)
    stepping = (lane.halt == RUN) & (time < inputs.limits.max_rounds)
    if plan.clocked:
        with jax.enable_x64(True):
            stepping &= lane.clock < LAST_TICK
    with jax.named_scope("arrive"):
        arrivals = waiting.arrive(lane, inputs, time, stepping, choices, plan)
    with jax.named_scope("evict"):
        usage = running.slots_usage(lane.slots, time, inputs, choices)
        leaver = running.leaver(lane.slots, usage, time, stepping, inputs, choices)
        room = usage.room + jnp.where(leaver.evicted, leaver.prompt + leaver.generated + 1, 0)
        count = usage.active - leaver.evicted.astype(np.int32)
        room, count = settle(one, room, count)
        slots = running.release(lane.slots, leaver, time)
    with jax.named_scope("admit"):
        candidate = waiting.candidate(
            arrivals.buffer, arrivals.heads, queue, inputs, leaver, choices, plan
        )
        request = waiting.request(candidate, inputs, choices)
        free = _headroom(request, count)
        ahead = running.look_ahead(slots, time, request, room - free, inputs.memory - free, one)
        blocked = (usage.num_late > 1) | (room < 0) | arrivals.more
        if usage.num_spent is not None:
            blocked |= usage.num_spent > leaver.evicted.astype(np.int32)
        exists = (candidate.position != NEVER) & (count < inputs.limits.max_batch)
        wanted = stepping & exists & ahead.passes & ~blocked
        slot = running.first_free(slots, time)
        admitted = wanted & (slot < np.int32(slots.end.shape[-1]))
        admitted, slot, load = settle(one, admitted, slot, ahead.load)
        slots = running.insert(slots, slot, admitted, request, load, time)
    with jax.named_scope("queue"):
        buffer, heads = waiting.take(arrivals.buffer, arrivals.heads, candidate, admitted)
        returns = leaver.evicted & ~(admitted & (candidate.position == leaver.position))
        entry = (leaver.key, leaver.position, leaver.estimate, leaver.evictions)
        buffer = waiting.push(buffer, returns, *entry)
    with jax.named_scope("jump"):
        wait = jnp.where(exists, ahead.wait, NEVER)
        overflow = jnp.where(count > 0, room // jnp.maximum(count, 1) + 1, NEVER)
        change = jnp.minimum(jnp.minimum(wait, overflow), ahead.next_completion)
        change = jnp.minimum(change, inputs.limits.max_rounds - time)
        if usage.next_spent is not None:
            change = jnp.minimum(change, usage.next_spent)
        still = stepping & ~blocked & ~wanted
        silent = still & ~exists & (count == 0)
        prompt = jnp.where(admitted, request.prompt, 0)
        if plan.clocked:
            used = inputs.memory - room
            passing = _pass_time(lane, arrivals, inputs, change, still, silent, prompt, count, used)
        else:
            passing = _pass_rounds(arrivals, change, still, silent)
        jump = passing.jump
        used = inputs.memory - room + (jump - 1) * count
    halt = jnp.where(wanted & ~admitted, WANTS_SLOT, RUN)
    halt = jnp.where(waiting.crowded(buffer), WANTS_BUFFER, halt)
    halt = jnp.where(passing.idle | ~stepping, DONE, halt)
    after = Lane(
        slots=slots,
        buffer=buffer,
        time=time,
        jump=jump,
        heads=heads,
        peak=jnp.where(jump > 0, jnp.maximum(lane.peak, used), lane.peak),
        halt=jnp.where(lane.halt == RUN, halt, lane.halt),
        clock=passing.clock,
        prefill=passing.prefill,
    )
    event = Event(
        admitted=jnp.where(admitted, candidate.position, NEVER),
        evicted=jnp.where(leaver.evicted, leaver.position, NEVER),
        time=time,
        lost=leaver.generated,
        clock=lane.clock,
    )
    return after, event


class Passing(NamedTuple):
    """The time that passes at the end of a step; scalars."""

    jump: jax.Array  # rounds
    idle: jax.Array  # nobody is there, and nobody will come
    clock: jax.Array | None
    prefill: jax.Array | None


def _headroom(request: running.Entrant, count: jax.Array) -> jax.Array | np.int32:
    """Memory that the look-ahead test leaves free: none for a request that would run alone."""
    if request.headroom is None:
        return np.int32(0)
    return jnp.where(count > 0, request.headroom, 0)


def _pass_rounds(
    arrivals: waiting.Joined, change: jax.Array, still: jax.Array, silent: jax.Array
) -> Passing:
    """Without a clock an arrival is a round like any other change."""
    idle = silent & (arrivals.next_one == NEVER)
    jump = jnp.where(still & ~idle, jnp.minimum(change, arrivals.next_one), 0)
    return Passing(jump, idle, None, None)


def _pass_time(
    lane: Lane,
    arrivals: waiting.Joined,
    inputs: Inputs,
    change: jax.Array,
    still: jax.Array,
    silent: jax.Array,
    prompt: jax.Array,
    count: jax.Array,
    used: jax.Array,
) -> Passing:
    """Under a clock silence ends with the next arrival, and no round passes in it.

    Args:
      lane: The lane before the step.
      arrivals: How long until the next one.
      inputs: Has the coefficients of the clock.
      change: Rounds until anything but an arrival changes.
      still: Whether nothing more happens in this round.
      silent: Whether, besides, nobody is there.
      prompt: Prompt tokens admitted in this step.
      count: Active requests.
      used: Memory in use in the coming round.
    """
    prefill = lane.prefill + prompt
    first = first_round(inputs.clock, prefill, count, used)
    with jax.enable_x64(True):
        growth = inputs.clock[3] * count.astype(jnp.int64)
        need = LAST_TICK - lane.clock
        some = jnp.zeros_like(silent)
        if arrivals.next_one.dtype == jnp.int64:
            need = jnp.minimum(need, arrivals.next_one)
            some = arrivals.next_one != LAST_TICK
        most = jnp.where(prefill > 0, jnp.minimum(change, np.int32(1)), change)
        running_on = still & ~silent
        jump = jnp.where(running_on, rounds_until(need, first, growth, most), np.int32(0))
        lasted = jnp.where(
            silent & some,
            arrivals.next_one.astype(jnp.int64),
            elapsed(first, growth, jump.astype(jnp.int64)),
        )
        clock = lane.clock + lasted
    return Passing(jump, silent & ~some, clock, jnp.where(jump > 0, 0, prefill))
