"""One step of one lane: pass the time that changes nothing, complete, arrive, evict, admit."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsched.engines.xla import queue as waiting
from jaxsched.engines.xla import slots as running
from jaxsched.engines.xla.clock import LAST_TICK, elapsed, first_round, rounds_until
from jaxsched.engines.xla.inputs import Inputs, Queue, lookup
from jaxsched.engines.xla.state import (
    DONE,
    NEVER,
    RUN,
    WANTS_BUFFER,
    WANTS_SLOT,
    Entries,
    Event,
    Lane,
    LoopPlan,
    Slots,
    Stepper,
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
    home = inputs.home
    (time,) = home.settle(lane.time + lane.jump)
    stepping = (lane.halt == RUN) & (time < inputs.limits.max_rounds)
    if plan.clocked:
        with jax.enable_x64(True):
            stepping &= lane.clock < LAST_TICK
    with jax.named_scope("arrive"):
        arrivals = waiting.arrive(lane, queue, inputs, time, stepping, choices, plan)
    with jax.named_scope("evict"):
        usage = running.slots_usage(lane.slots, time, inputs, choices)
        leaves = stepping & ((usage.num_late > 0) | (usage.room < 0))
        if usage.num_spent is not None:
            leaves |= stepping & (usage.num_spent > 0)

        def leave(state: _Leaving) -> _Leaving:
            _, slots, buffer, front, _ = state
            who, slot = running.leaver(slots, usage, time, stepping, inputs, choices, plan)
            slots = running.release(home, slots, who, slot, time)
            mine = waiting.Candidate(who.key, who.position, who.estimate, who.evictions, None)
            if plan.window:
                mine = waiting.with_terms(mine, inputs, choices, who.prompt, who.output)
            buffer, front = waiting.push(inputs, buffer, front, who.evicted, mine, choices)
            return who, slots, buffer, front, waiting.crowded(home, buffer)

        buffer, front, nobody = arrivals.buffer, arrivals.front, running.nobody(time, plan)
        full = waiting.crowded(home, buffer) if plan.arrivals else jnp.zeros_like(stepping)
        leaver, slots, buffer, front, full = home.when(
            leaves, leave, (nobody, lane.slots, buffer, front, full)
        )
        room = usage.room + jnp.where(leaver.evicted, leaver.prompt + leaver.generated + 1, 0)
        count = usage.active - leaver.evicted.astype(np.int32)
        room, count = home.settle(room, count)
        completion = running.next_completion(home, slots, time)
    with jax.named_scope("admit"):
        first, heads = front.entrant, arrivals.heads
        free = _headroom(first, count)
        blocked = (usage.num_late > 1) | (room < 0) | arrivals.more
        if usage.num_spent is not None:
            blocked |= usage.num_spent > leaver.evicted.astype(np.int32)
        exists = (front.first.position != NEVER) & (count < inputs.limits.max_batch)
        possible = stepping & exists & ~blocked & (first.prompt < room - free)

        def test(_: running.Ahead) -> running.Ahead:
            return running.look_ahead(home, slots, time, first, inputs.memory - free)

        ahead = home.when(possible, test, running.no_test(time))
        wanted = possible & (ahead.wait <= 0)
        (wanted,) = home.settle(wanted)

        def enter(state: _Admitting) -> _Admitting:
            _, slots, buffer, heads, front = state
            more = count + 1 < inputs.limits.max_batch
            line = waiting.line(front, queue, heads, inputs, choices, plan, more)
            party = _party(line, first, ahead, slots, time, room, count, inputs)
            places = running.free_slots(home, slots, time, plan.party, party > 1)
            entering, places = _entering(line, party, wanted, places, slots, inputs)
            size, prompts = entering.size, entering.prompts
            slots = running.insert(
                home, slots, places, size, prompts, line.requests, ahead.above, time
            )
            buffer, heads, front = waiting.take(
                inputs, buffer, heads, front, queue, size, choices, plan
            )
            return entering, slots, buffer, heads, front

        entering, slots, buffer, heads, front = home.when(
            wanted, enter, (_nobody(time, plan), slots, buffer, heads, front)
        )
        admitted = entering.size
    if plan.window:
        full |= waiting.out_of_sight(heads, queue, plan)
    with jax.named_scope("jump"):
        room, count = room - entering.prompts - admitted, count + admitted
        wait = jnp.where(possible & (admitted == 0), ahead.wait, NEVER)
        overflow = jnp.where(count > 0, room // jnp.maximum(count, 1) + 1, NEVER)
        completion = jnp.minimum(completion, entering.next_completion)
        change = jnp.minimum(jnp.minimum(wait, overflow), completion)
        change = jnp.minimum(change, inputs.limits.max_rounds - time)
        if usage.next_spent is not None:
            change = jnp.minimum(change, usage.next_spent)
        still = stepping & ~blocked & ~wanted
        silent = still & ~exists & (count == 0)
        if usage.next_spent is None:
            alone = (entering.next_prompt >= room) | (count >= inputs.limits.max_batch)
            still |= (admitted > 0) & alone
        if plan.clocked:
            used = inputs.memory - room
            prompts = entering.prompts
            passing = pass_time(lane, arrivals, inputs, change, still, silent, prompts, count, used)
        else:
            passing = pass_rounds(arrivals, change, still, silent)
        jump = passing.jump
        used = inputs.memory - room + (jump - 1) * count
    after = Lane(
        slots=slots,
        buffer=buffer,
        time=time,
        jump=jump,
        heads=heads,
        peak=jnp.where(jump > 0, jnp.maximum(lane.peak, used), lane.peak),
        halt=halts(lane, wanted & (admitted == 0), full, passing.idle | ~stepping),
        used=usage.active + usage.num_late - leaver.exists.astype(np.int32) + admitted,
        clock=passing.clock,
        prefill=passing.prefill,
        front=waiting.kept(front, plan),
    )
    event = Event(
        admitted=entering.positions,
        evicted=jnp.where(leaver.evicted, leaver.position, NEVER),
        time=time,
        lost=leaver.generated,
        clock=lane.clock,
    )
    return after, event


def halts(lane: Lane, no_slot: jax.Array, crowded: jax.Array, is_done: jax.Array) -> jax.Array:
    """Why a lane stands still after a step; one that stood still does."""
    halt = jnp.where(crowded, WANTS_BUFFER, jnp.where(no_slot, WANTS_SLOT, RUN))
    return jnp.where(lane.halt == RUN, jnp.where(is_done, DONE, halt), lane.halt)


def begin(lane: Lane, queue: Queue, inputs: Inputs, choices: Choices, plan: LoopPlan) -> Lane:
    """A lane before a chunk of steps: who is first in its queue."""
    best = waiting.best_of(lane.buffer, len(lane.heads), inputs.home)
    if plan.window:
        return lane.replace(front=best)
    return lane.replace(front=waiting.front_of(best, lane.heads, queue, inputs, choices, plan))


ANY_ORDER = Stepper(step, begin)


class Entering(NamedTuple):
    """Those who are admitted in a step; scalars."""

    size: jax.Array  # how many
    prompts: jax.Array  # together
    positions: tuple[jax.Array, ...]  # in their instance, NEVER from `size` on
    next_completion: jax.Array  # rounds to that of the first who completes
    next_prompt: jax.Array  # of who is next in the queue; 0 if that is not known


_Leaving = tuple[running.Leaver, Slots, Entries, waiting.Front, jax.Array]
_Admitting = tuple[Entering, Slots, Entries, tuple[jax.Array, ...], waiting.Front]


def _nobody(time: jax.Array, plan: LoopPlan) -> Entering:
    zero, never = jnp.zeros_like(time), jnp.full_like(time, NEVER)
    return Entering(zero, zero, (never,) * plan.party, never, zero)


def _party(
    line: waiting.Followers,
    first: running.Entrant,
    ahead: running.Ahead,
    slots: Slots,
    time: jax.Array,
    room: jax.Array,
    count: jax.Array,
    inputs: Inputs,
) -> jax.Array:
    """How many of those in line, who reserve alike, pass the tests together; 1 if not all do."""
    if first.headroom is not None or len(line.requests) == 1:
        return jnp.ones_like(count)
    most = inputs.limits.max_batch - count
    size, prompts, others = jnp.ones_like(count), first.prompt, first.prompt
    joins = ahead.wait <= 0
    several = zip(line.requests[1:], line.follows[1:], strict=True)
    for i, (request, follows) in enumerate(several, start=1):
        others = others + request.prompt
        joins &= follows & (request.reserve == first.reserve)
        joins &= (others + np.int32(i) < room) & (np.int32(i) < most)
        size = size + joins.astype(np.int32)
        prompts = jnp.where(joins, others, prompts)
    size, prompts = inputs.home.settle(size, prompts)
    home, reserve = inputs.home, first.reserve

    def pass_together(size: jax.Array) -> jax.Array:
        passes = running.all_pass(home, slots, time, size, prompts, reserve, ahead, inputs.memory)
        return jnp.where(passes, size, 1)

    return home.when(size > 1, pass_together, size)


def _entering(
    line: waiting.Followers,
    size: jax.Array,
    wanted: jax.Array,
    places: list[jax.Array],
    slots: Slots,
    inputs: Inputs,
) -> tuple[Entering, list[jax.Array]]:
    """As many as find a slot, and where; past the end for those who do not enter."""
    none = np.int32(slots.end.shape[-1])
    found = sum((place < none).astype(np.int32) for place in places)
    (size,) = inputs.home.settle(jnp.where(wanted, jnp.minimum(size, found), 0))
    prompts, completion = jnp.zeros_like(size), jnp.full_like(size, NEVER)
    next_prompt, positions = jnp.zeros_like(size), list[jax.Array]()
    # Behind the last of the line nobody is known.
    position, terms = line.then.position, line.then.terms
    then = lookup(inputs, "prompt", position) if terms is None else terms.prompt
    then = jnp.where(line.known, jnp.where(position == NEVER, NEVER, then), 0)
    for i, (request, follows) in enumerate(zip(line.requests, line.follows, strict=True)):
        enters, is_next = np.int32(i) < size, np.int32(i) == size
        prompts += jnp.where(enters, request.prompt, 0)
        completion = jnp.minimum(completion, jnp.where(enters, request.output, NEVER))
        positions.append(jnp.where(enters, request.position, NEVER))
        next_prompt = jnp.where(is_next, jnp.where(follows, request.prompt, then), next_prompt)
    places = [jnp.where(np.int32(i) < size, place, none) for i, place in enumerate(places)]
    return Entering(size, prompts, tuple(positions), completion, next_prompt), places


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


def pass_rounds(
    arrivals: waiting.Joined, change: jax.Array, still: jax.Array, silent: jax.Array
) -> Passing:
    """Without a clock an arrival is a round like any other change."""
    idle = silent & (arrivals.next_one == NEVER)
    jump = jnp.where(still & ~idle, jnp.minimum(change, arrivals.next_one), 0)
    return Passing(jump, idle, None, None)


def pass_time(
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
