"""One step of one lane: pass the time that changes nothing, complete, arrive, evict, admit.

Between events only the tokens generated grow, by one per active request and round. With the slots'
`end` e_j and `load_j` (memory reserved in round e_j by all requests reserved that far), a waiting
request of prompt s and reserve r passes the look-ahead test of 2502.07115 at round t if

    the next round has room for s + 1 more tokens,
    load_j + s + (e_j - t) <= M for every end e_j in (t, t + r], and
    s + r + (what those with e_j >= t + r hold in round t + r) <= M.

Each line that is violated says for how many rounds it stays violated at least: the lane jumps.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsched.engine.fold import highest, lowest, put, settle, total
from jaxsched.engine.source import Queue, Source, gather, view_of
from jaxsched.engine.state import (
    DONE,
    NEVER,
    RUN,
    WANTS_BUFFER,
    WANTS_SLOT,
    Entries,
    Event,
    Lane,
    Plan,
    Slots,
)
from jaxsched.policies import Policy

FIRST = np.int32(-(2**31))
"""Key that goes before every other: a reservation left behind by an early completion."""


class Usage(NamedTuple):
    """A lane's slots in a round, after completions; scalars but for the masks of shape [S]."""

    running: jax.Array
    late: jax.Array  # completed before the end it had reserved
    count: jax.Array  # running requests
    room: jax.Array  # memory left in this round if all running requests go on
    num_late: jax.Array


class Leaver(NamedTuple):
    """The request that gives up its slot in a step, if there is one; scalars."""

    exists: jax.Array
    evicted: jax.Array
    slot: jax.Array
    end: jax.Array
    prompt: jax.Array
    generated: jax.Array
    index: jax.Array
    estimate: jax.Array  # refined
    key: jax.Array  # admission key


class Candidate(NamedTuple):
    """The first waiting request in admission order; scalars."""

    key: jax.Array
    index: jax.Array
    estimate: jax.Array
    origin: jax.Array  # 0 the fresh order, then the returned runs, the buffer, the evicted one
    place: jax.Array  # in the buffer


class Ahead(NamedTuple):
    """Outcome of the look-ahead test; scalars, in rounds."""

    passes: jax.Array
    wait: jax.Array  # it fails for at least so long
    next_completion: jax.Array
    load: jax.Array  # memory reserved at the candidate's own end, its own included


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
    stepping = (lane.halt == RUN) & (time < source.max_rounds)
    with jax.named_scope("arrive"):
        buffer, heads, arriving, next_arrival = _arrive(lane, source, time, stepping, policy, plan)
    with jax.named_scope("evict"):
        usage = _usage(lane.slots, time, source.memory)
        leaver = _leaver(lane.slots, usage, time, stepping, source, policy)
        room = usage.room + _if(leaver.evicted, leaver.prompt + leaver.generated + 1)
        count = usage.count - _if(leaver.evicted, np.int32(1))
        leaver = Leaver(*settle(one, *leaver))
        room, count = settle(one, room, count)
        slots = _release(lane.slots, leaver, time)
    with jax.named_scope("admit"):
        candidate = _candidate(buffer, heads, queue, source, leaver, policy, plan)
        view = view_of(source, candidate.index)
        reserve = policy.reserve(candidate.estimate, view)
        reserve = jnp.clip(reserve, 1, source.memory - view.prompt)
        candidate = Candidate(*settle(one, *candidate))
        fields, reserve = (view.prompt, view.output), settle(one, reserve)[0]
        ahead = _look_ahead(slots, time, fields[0], reserve, room, source.memory, one)
        blocked = (usage.num_late > 1) | (room < 0) | arriving
        exists = candidate.index != NEVER
        wanted = stepping & exists & ahead.passes & ~blocked
        slot = _first_free(slots, time)
        admitted = wanted & (slot < np.int32(slots.end.shape[-1]))
        admitted, slot, load = settle(one, admitted, slot, ahead.load)
        slots = _insert(slots, slot, admitted, candidate, fields, reserve, load, time)
    with jax.named_scope("queue"):
        buffer, heads = _take(buffer, heads, candidate, admitted)
        returns = leaver.evicted & ~(admitted & (candidate.index == leaver.index))
        buffer = _push(buffer, returns, leaver.key, leaver.index, leaver.estimate)
    with jax.named_scope("jump"):
        wait = jnp.where(exists, ahead.wait, NEVER)
        overflow = jnp.where(count > 0, room // jnp.maximum(count, 1) + 1, NEVER)
        jump = jnp.minimum(jnp.minimum(wait, next_arrival), overflow)
        jump = jnp.minimum(jump, ahead.next_completion)
        idle = ~blocked & ~exists & (count == 0) & (next_arrival == NEVER)
        jump = jnp.where(stepping & ~blocked & ~wanted & ~idle, jump, 0)
        jump = jnp.minimum(jump, source.max_rounds - time)
        used = source.memory - room + (jump - 1) * count
    halt = jnp.where(wanted & ~admitted, WANTS_SLOT, RUN)
    halt = jnp.where(_crowded(buffer), WANTS_BUFFER, halt)
    halt = jnp.where(idle | (time >= source.max_rounds), DONE, halt)
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


def _if(condition: jax.Array, value: jax.Array) -> jax.Array:
    return jnp.where(condition, value, np.int32(0))


def _arrive(
    lane: Lane, source: Source, time: jax.Array, stepping: jax.Array, policy: Policy, plan: Plan
) -> tuple[Entries, jax.Array, jax.Array, jax.Array]:
    """Moves one arrived request to the buffer; says if more wait for that, and when the next comes."""
    if not plan.arrivals:
        return lane.buffer, lane.heads, jnp.zeros_like(stepping), jnp.full_like(time, NEVER)
    taken = lane.heads[0]
    index, following = (gather(source.table.order, source.table, source.row, taken + i) for i in (0, 1))
    view = view_of(source, index)
    arrived = stepping & (taken < source.count) & (view.arrival <= time)
    estimate = policy.estimate(view)
    key = policy.admission_key(estimate, view)
    buffer = _push(lane.buffer, arrived, key, index, estimate)
    taken = taken + _if(arrived, np.int32(1))
    upcoming = jnp.where(arrived, following, index)
    arrival = gather(source.table.fields["arrival"], source.table, source.row, upcoming)
    left = taken < source.count
    arriving = left & (arrival <= time)
    return buffer, lane.heads.at[0].set(taken), arriving, jnp.where(left, arrival - time, NEVER)


def _usage(slots: Slots, time: jax.Array, memory: jax.Array) -> Usage:
    running = slots.finish > time
    late = ~running & (slots.end > time)
    count = total(running.astype(np.int32))
    base = total(jnp.where(running, slots.prompt - slots.admitted, 0))
    room = memory - (base + count * (time + 1))
    return Usage(running, late, count, room, total(late.astype(np.int32)))


def _leaver(
    slots: Slots, usage: Usage, time: jax.Array, stepping: jax.Array, source: Source, policy: Policy
) -> Leaver:
    """A late slot if there is one, else the first in eviction order if memory overflows."""
    key = policy.eviction_key(slots.estimate, time - slots.admitted, slots.admitted)
    index = slots.index
    if policy.evict_largest:
        key, index = ~key, ~index
    evicted = stepping & (usage.num_late == 0) & (usage.room < 0)
    evicted, stepping = settle(source.table.one, evicted, stepping)
    key = jnp.where(usage.running & evicted, key, NEVER)
    key = jnp.where(usage.late & stepping, FIRST, key)
    slot = _arg_first(key, index, source.table.one)
    at = lambda array: array.at[slot].get(mode="promise_in_bounds")  # noqa: E731
    generated = time - at(slots.admitted)
    estimate = policy.refine(at(slots.estimate), generated)
    return Leaver(
        exists=stepping & ((usage.num_late > 0) | evicted),
        evicted=evicted,
        slot=slot,
        end=at(slots.end),
        prompt=at(slots.prompt),
        generated=generated,
        index=at(slots.index),
        estimate=estimate,
        key=policy.admission_key(estimate, view_of(source, at(slots.index))),
    )


def _arg_first(key: jax.Array, index: jax.Array, one: jax.Array) -> jax.Array:
    """Position of the smallest (key, index) pair; two minima are cheaper than one argmin."""
    (least,) = settle(one, lowest(key))
    ties = key == least
    (first,) = settle(one, lowest(jnp.where(ties, index, NEVER)))
    positions = lax.iota(np.int32, key.shape[-1])
    return lowest(jnp.where(ties & (index == first), positions, np.int32(key.shape[-1] - 1)))


def _release(slots: Slots, leaver: Leaver, time: jax.Array) -> Slots:
    """Takes the leaver out of its slot and of the loads of the ends that it had reserved."""
    shared = leaver.exists & (slots.end <= leaver.end)
    held = leaver.prompt + leaver.generated + (slots.end - time)
    return slots.replace(
        end=put(slots.end, leaver.exists, leaver.slot, np.int32(0)),
        finish=put(slots.finish, leaver.exists, leaver.slot, np.int32(0)),
        load=slots.load - jnp.where(shared, held, 0),
    )


def _candidate(
    buffer: Entries, heads: jax.Array, queue: Queue, source: Source, leaver: Leaver,
    policy: Policy, plan: Plan,
) -> Candidate:  # fmt: skip
    """The smallest (key, index) over the fresh order, returned runs, buffer and the evicted one."""
    zero = jnp.zeros_like(leaver.slot)
    place = _arg_first(buffer.key, buffer.index, source.table.one)
    at = lambda array: array.at[place].get(mode="promise_in_bounds")  # noqa: E731
    origin = np.int32(1 + len(queue.runs))
    best = Candidate(at(buffer.key), at(buffer.index), at(buffer.estimate), zero + origin, place)
    evicted = leaver.evicted
    best = _earlier(best, Candidate(
        jnp.where(evicted, leaver.key, NEVER), jnp.where(evicted, leaver.index, NEVER),
        leaver.estimate, zero + (origin + np.int32(1)), zero,
    ))  # fmt: skip
    for i, (keys, indices) in enumerate(queue.runs, start=1):
        head = jnp.minimum(heads[i], np.int32(keys.shape[-1] - 1))
        left = heads[i] < np.int32(keys.shape[-1])
        key, index = (run.at[head].get(mode="promise_in_bounds") for run in (keys, indices))
        estimate = queue.estimate.at[jnp.minimum(index, np.int32(plan.n - 1))].get(
            mode="promise_in_bounds"
        )
        key, index = (jnp.where(left, value, NEVER) for value in (key, index))
        best = _earlier(best, Candidate(key, index, estimate, zero + np.int32(i), zero))
    if not plan.arrivals:
        left = heads[0] < source.count
        index = jnp.where(left, gather(source.table.order, source.table, source.row, heads[0]), NEVER)
        view = view_of(source, index)
        estimate = policy.estimate(view)
        key = jnp.where(left, policy.admission_key(estimate, view), NEVER)
        best = _earlier(best, Candidate(key, index, estimate, zero, zero))
    return best


def _earlier(a: Candidate, b: Candidate) -> Candidate:
    first = (a.key < b.key) | ((a.key == b.key) & (a.index < b.index))
    return Candidate(*(jnp.where(first, x, y) for x, y in zip(a, b, strict=True)))


def _look_ahead(
    slots: Slots, time: jax.Array, prompt: jax.Array, reserve: jax.Array, room: jax.Array,
    memory: jax.Array, one: jax.Array,
) -> Ahead:  # fmt: skip
    """Tests a candidate against the reservations, see the head of this file."""
    own_end, shift = settle(one, time + reserve, prompt - memory - time)
    excess = jnp.minimum(slots.end - time, slots.load + shift)
    wait = jnp.maximum(highest(jnp.where(slots.end <= own_end, excess, 0)), 0)
    beyond = slots.end >= own_end
    held = slots.prompt - slots.admitted + own_end
    load = total(jnp.where(beyond, held, 0)) + prompt + reserve
    nearest = lowest(jnp.where(beyond, slots.end, NEVER)) - own_end
    wait = jnp.where(load <= memory, wait, jnp.maximum(wait, nearest + 1))
    fits_next = prompt < room
    finish = lowest(jnp.where(slots.finish > time, slots.finish, NEVER))
    return Ahead(
        passes=fits_next & (wait <= 0),
        wait=jnp.where(fits_next, wait, NEVER),
        next_completion=jnp.where(finish == NEVER, NEVER, finish - time),
        load=load,
    )


def _first_free(slots: Slots, time: jax.Array) -> jax.Array:
    count = slots.end.shape[-1]
    free = (slots.finish <= time) & (slots.end <= time)
    return lowest(jnp.where(free, lax.iota(np.int32, count), np.int32(count)))


def _insert(
    slots: Slots, slot: jax.Array, admitted: jax.Array, candidate: Candidate,
    lengths: tuple[jax.Array, jax.Array], reserve: jax.Array, own_load: jax.Array, time: jax.Array,
) -> Slots:  # fmt: skip
    """Puts the candidate into a slot and its memory into the loads of the ends it reaches."""
    prompt, output = lengths
    end = time + reserve
    held = prompt + (slots.end - time)
    load = slots.load + jnp.where(admitted & (slots.end <= end), held, 0)
    return Slots(
        end=put(slots.end, admitted, slot, end),
        load=put(load, admitted, slot, end + own_load),
        finish=put(slots.finish, admitted, slot, time + output),
        admitted=put(slots.admitted, admitted, slot, time),
        prompt=put(slots.prompt, admitted, slot, prompt),
        estimate=put(slots.estimate, admitted, slot, candidate.estimate),
        index=put(slots.index, admitted, slot, candidate.index),
    )


def _take(
    buffer: Entries, heads: jax.Array, candidate: Candidate, admitted: jax.Array
) -> tuple[Entries, jax.Array]:
    """Takes an admitted candidate from where it waited."""
    buffered = admitted & (candidate.origin == np.int32(heads.shape[-1]))
    key, index = (
        put(array, buffered, candidate.place, NEVER) for array in (buffer.key, buffer.index)
    )
    taken = admitted & (lax.iota(np.int32, heads.shape[-1]) == candidate.origin)
    return buffer.replace(key=key, index=index), heads + taken.astype(np.int32)


def _push(
    buffer: Entries, condition: jax.Array, key: jax.Array, index: jax.Array, estimate: jax.Array
) -> Entries:
    """Puts one request into the first free place of the buffer; there always is one."""
    count = buffer.key.shape[-1]
    places = lax.iota(np.int32, count)
    place = lowest(jnp.where(buffer.key == NEVER, places, np.int32(count)))
    return Entries(
        key=put(buffer.key, condition, place, key),
        index=put(buffer.index, condition, place, index),
        estimate=put(buffer.estimate, condition, place, estimate),
    )


def _crowded(buffer: Entries) -> jax.Array:
    """Whether a step that lets one request arrive and evicts another could lack a place."""
    taken = total((buffer.key != NEVER).astype(np.int32))
    return taken > np.int32(buffer.key.shape[-1] - 2)
