"""A lane's queue: fresh requests, those that returned before the last border, the buffer since."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsched.engines.xla.choices import ask
from jaxsched.engines.xla.clock import LAST_TICK
from jaxsched.engines.xla.fold import lowest, place_of_first, put, settle, total
from jaxsched.engines.xla.inputs import Inputs, Queue, fields_of, known_as, lookup
from jaxsched.engines.xla.slots import Entrant, Leaver
from jaxsched.engines.xla.state import NEVER, Entries, Lane, LoopPlan
from jaxsched.policies.program import Choices


class Joined(NamedTuple):
    """The queue after a step's arrival; scalars but for the first two."""

    buffer: Entries
    heads: jax.Array
    more: jax.Array  # another request that has arrived still has to join
    next_one: jax.Array  # rounds to the next arrival, under a clock picoseconds; NEVER for none


class Candidate(NamedTuple):
    """The first waiting request in admission order; scalars."""

    key: jax.Array
    position: jax.Array  # of the request in its instance
    estimate: jax.Array
    evictions: jax.Array | None
    origin: jax.Array  # 0 the fresh order, then the returned runs, the buffer, the evicted one
    place: jax.Array  # in the buffer


def arrive(
    lane: Lane,
    inputs: Inputs,
    time: jax.Array,
    stepping: jax.Array,
    choices: Choices,
    plan: LoopPlan,
) -> Joined:
    """Moves one request that has arrived to the buffer."""
    if not plan.arrivals:
        nobody = jnp.full_like(time, NEVER)
        return Joined(lane.buffer, lane.heads, jnp.zeros_like(stepping), nobody)
    name, now = ("due", lane.clock) if plan.clocked else ("arrival", time)
    never = LAST_TICK if plan.clocked else NEVER
    taken = lane.heads[0]
    index, following = (lookup(inputs, "order", taken + i) for i in (0, 1))
    with jax.enable_x64(True):
        known = lookup(inputs, name, index) <= now
    arrived = stepping & (taken < inputs.num_requests) & known
    buffer = push(lane.buffer, arrived, *_fresh(inputs, index, choices, plan))
    taken = taken + arrived.astype(np.int32)
    arrival = lookup(inputs, name, jnp.where(arrived, following, index))
    left = taken < inputs.num_requests
    with jax.enable_x64(True):
        next_one, more = jnp.where(left, arrival - now, never), left & (arrival <= now)
    return Joined(buffer, lane.heads.at[0].set(taken), more, next_one)


def candidate(
    buffer: Entries,
    heads: jax.Array,
    queue: Queue,
    inputs: Inputs,
    leaver: Leaver,
    choices: Choices,
    plan: LoopPlan,
) -> Candidate:
    """The smallest (key, index) of the fresh order, returned runs, buffer and the evicted one."""
    zero = jnp.zeros_like(leaver.slot)
    place = place_of_first(buffer.key, buffer.index, inputs.table.one)
    key, index, estimate, evictions = (
        _at(a, place) for a in (buffer.key, buffer.index, buffer.estimate, buffer.evictions)
    )
    origin = zero + np.int32(1 + len(queue.runs))
    best = Candidate(key, index, estimate, evictions, origin, place)
    key, index = (jnp.where(leaver.evicted, a, NEVER) for a in (leaver.key, leaver.position))
    evicted = Candidate(key, index, leaver.estimate, leaver.evictions, origin + 1, zero)
    best = _earlier(best, evicted)
    for i, run in enumerate(queue.runs, start=1):
        left = heads[i] < np.int32(run[0].shape[-1])
        key, index = (jnp.where(left, _at(array, heads[i]), NEVER) for array in run)
        estimate, evictions = (_at(array, index) for array in (queue.estimate, queue.evictions))
        mine = Candidate(key, index, estimate, evictions, zero + np.int32(i), zero)
        best = _earlier(best, mine)
    if not plan.arrivals:
        left = heads[0] < inputs.num_requests
        index = jnp.where(left, lookup(inputs, "order", heads[0]), NEVER)
        key, _, estimate, evictions = _fresh(inputs, index, choices, plan)
        key = jnp.where(left, key, NEVER)
        best = _earlier(best, Candidate(key, index, estimate, evictions, zero, zero))
    return jax.tree.map(lambda value: settle(inputs.table.one, value)[0], best)


def _fresh(
    inputs: Inputs, index: jax.Array, choices: Choices, plan: LoopPlan
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """Key, index, estimate and evictions of a request that has not run yet."""
    read, none = fields_of(inputs, index), jnp.zeros_like(index)
    estimate = ask(choices, "estimate", read, inputs.params)
    read = known_as(read, estimate=estimate, evictions=none)
    key = ask(choices, "admission_key", read, inputs.params)
    return key, index, estimate, none if plan.counts_evictions else None


def request(candidate: Candidate, inputs: Inputs, choices: Choices) -> Entrant:
    """What a slot needs to know of the candidate; its reserve is capped here, for every policy."""
    read = fields_of(inputs, candidate.position)
    prompt, output = read("prompt"), read("output")
    read = known_as(read, estimate=candidate.estimate, evictions=candidate.evictions)
    reserve = ask(choices, "reserve", read, inputs.params)
    (reserve,) = settle(inputs.table.one, jnp.clip(reserve, 1, inputs.memory - prompt))
    free = None
    if choices.headroom is not None:
        free = jnp.minimum(ask(choices, "headroom", read, inputs.params), inputs.memory)
    return Entrant(
        prompt, output, reserve, candidate.estimate, candidate.evictions, candidate.position, free
    )


def take(
    buffer: Entries, heads: jax.Array, candidate: Candidate, admitted: jax.Array
) -> tuple[Entries, jax.Array]:
    """Takes an admitted candidate from where it waited."""
    buffered = admitted & (candidate.origin == np.int32(heads.shape[-1]))
    key, index = (put(a, buffered, candidate.place, NEVER) for a in (buffer.key, buffer.index))
    taken = admitted & (lax.iota(np.int32, heads.shape[-1]) == candidate.origin)
    return buffer.replace(key=key, index=index), heads + taken.astype(np.int32)


def push(
    buffer: Entries,
    condition: jax.Array,
    key: jax.Array,
    index: jax.Array,
    estimate: jax.Array,
    evictions: jax.Array | None,
) -> Entries:
    """Puts one request into the first free place of the buffer; there always is one."""
    count = buffer.key.shape[-1]
    places = lax.iota(np.int32, count)
    place = lowest(jnp.where(buffer.key == NEVER, places, np.int32(count)))
    return Entries(
        key=put(buffer.key, condition, place, key),
        index=put(buffer.index, condition, place, index),
        estimate=put(buffer.estimate, condition, place, estimate),
        evictions=put(buffer.evictions, condition, place, evictions),
    )


def crowded(buffer: Entries) -> jax.Array:
    """Whether a step that lets one request arrive and evicts another could lack a place."""
    taken = total((buffer.key != NEVER).astype(np.int32))
    return taken > np.int32(buffer.key.shape[-1] - 2)


def _earlier(a: Candidate, b: Candidate) -> Candidate:
    first = (a.key < b.key) | ((a.key == b.key) & (a.position < b.position))
    return jax.tree.map(lambda x, y: jnp.where(first, x, y), a, b)


def _at(array: Any, place: jax.Array) -> Any:
    """One element; past the end the last. `None` of `None`."""
    if array is None:
        return None
    place = jnp.minimum(place, np.int32(array.shape[-1] - 1))
    return array.at[place].get(mode="promise_in_bounds")
