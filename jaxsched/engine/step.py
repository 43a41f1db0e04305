"""One step of one lane: pass the time that changes nothing, complete, arrive, evict, admit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxsched.engine import queue as waiting
from jaxsched.engine import slots as running
from jaxsched.engine.fold import settle
from jaxsched.engine.source import Queue, Source
from jaxsched.engine.state import DONE, NEVER, RUN, WANTS_BUFFER, WANTS_SLOT, Event, Lane, Plan
from jaxsched.policies import Policy


def step(
    lane: Lane, queue: Queue, source: Source, policy: Policy, plan: Plan
) -> tuple[Lane, Event]:
    """Advances one lane to its next change and applies it: at most one eviction, one admission.

    Args:
      lane: The lane, unbatched.
      queue: The requests that returned to its queue, read only.
      source: Its instance, read only.
      policy: The four choices.
      plan: Static sizes.

    Returns:
      The lane after the step, and what happened. A lane that stands still comes back unchanged.
    """
    one = source.table.one
    (time,) = settle(one, lane.time + lane.jump)
    stepping = (lane.halt == RUN) & (time < source.limits.max_rounds)
    with jax.named_scope("arrive"):
        arrivals = waiting.arrive(lane, source, time, stepping, policy, plan)
    with jax.named_scope("evict"):
        usage = running.usage(lane.slots, time, source.memory)
        leaver = running.leaver(lane.slots, usage, time, stepping, source, policy)
        room = usage.room + jnp.where(leaver.evicted, leaver.prompt + leaver.generated + 1, 0)
        count = usage.count - leaver.evicted.astype(np.int32)
        room, count = settle(one, room, count)
        slots = running.release(lane.slots, leaver, time)
    with jax.named_scope("admit"):
        candidate = waiting.candidate(
            arrivals.buffer, arrivals.heads, queue, source, leaver, policy, plan
        )
        request = waiting.request(candidate, source, policy)
        ahead = running.look_ahead(slots, time, request, room, source.memory, one)
        blocked = (usage.num_late > 1) | (room < 0) | arrivals.more
        exists = (candidate.index != NEVER) & (count < source.limits.max_batch)
        wanted = stepping & exists & ahead.passes & ~blocked
        slot = running.first_free(slots, time)
        admitted = wanted & (slot < np.int32(slots.end.shape[-1]))
        admitted, slot, load = settle(one, admitted, slot, ahead.load)
        slots = running.insert(slots, slot, admitted, request, load, time)
    with jax.named_scope("queue"):
        buffer, heads = waiting.take(arrivals.buffer, arrivals.heads, candidate, admitted)
        returns = leaver.evicted & ~(admitted & (candidate.index == leaver.index))
        buffer = waiting.push(buffer, returns, leaver.key, leaver.index, leaver.estimate)
    with jax.named_scope("jump"):
        wait = jnp.where(exists, ahead.wait, NEVER)
        overflow = jnp.where(count > 0, room // jnp.maximum(count, 1) + 1, NEVER)
        change = jnp.minimum(jnp.minimum(wait, overflow), ahead.next_completion)
        change = jnp.minimum(change, arrivals.next_one)
        idle = ~blocked & ~exists & (count == 0) & (arrivals.next_one == NEVER)
        jump = jnp.where(stepping & ~blocked & ~wanted & ~idle, change, 0)
        jump = jnp.minimum(jump, source.limits.max_rounds - time)
        used = source.memory - room + (jump - 1) * count
    halt = jnp.where(wanted & ~admitted, WANTS_SLOT, RUN)
    halt = jnp.where(waiting.crowded(buffer), WANTS_BUFFER, halt)
    halt = jnp.where(idle | (time >= source.limits.max_rounds), DONE, halt)
    after = Lane(
        slots=slots,
        buffer=buffer,
        time=time,
        jump=jump,
        heads=heads,
        peak=jnp.where(jump > 0, jnp.maximum(lane.peak, used), lane.peak),
        halt=jnp.where(lane.halt == RUN, halt, lane.halt),
    )
    event = Event(
        admitted=jnp.where(admitted, candidate.index, NEVER),
        evicted=jnp.where(leaver.evicted, leaver.index, NEVER),
        time=time,
        lost=leaver.generated,
    )
    return after, event
