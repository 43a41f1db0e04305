"""A lane's queue: fresh requests, those that returned before the last border, the buffer since."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsched.engines.xla.choices import ask
from jaxsched.engines.xla.clock import LAST_TICK
from jaxsched.engines.xla.home import Home
from jaxsched.engines.xla.inputs import Inputs, Queue, fields_of, known_as, lookup
from jaxsched.engines.xla.slots import Entrant, Leaver
from jaxsched.engines.xla.state import NEVER, Entries, Lane, LoopPlan
from jaxsched.policies.program import Choices


class Joined(NamedTuple):
    """The queue after a step's arrival; scalars but for the first two."""

    buffer: Entries
    heads: tuple[jax.Array, ...]
    more: jax.Array  # another request that has arrived still has to join
    next_one: jax.Array  # rounds to the next arrival, under a clock picoseconds; NEVER for none


class Candidate(NamedTuple):
    """The first waiting request in admission order; scalars."""

    key: jax.Array
    position: jax.Array  # of the request in its instance
    estimate: jax.Array
    evictions: jax.Array | None
    kept: jax.Array | None  # tokens generated so far, on a worker with blocks
    origin: jax.Array  # 0 the fresh order, then the returned runs, the buffer, the evicted one
    place: jax.Array  # in the buffer


_Known = tuple[jax.Array, jax.Array, jax.Array, jax.Array | None, jax.Array | None]
"""Key, index, estimate, evictions and tokens kept."""


class Candidates(NamedTuple):
    """The first in admission order, and the first of all other queues."""

    first: Candidate
    then: Candidate


class Followers(NamedTuple):
    """The first in admission order, and those behind it in the same sorted queue."""

    requests: list[Entrant]  # `plan.party` of them
    # whether each of them is the next in admission order once those before it are admitted
    follows: list[jax.Array]
    known: jax.Array  # whether who comes where one of them is not next is `then`
    then: jax.Array  # the first of the other queues, NEVER if there is none


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

    def join(buffer: Entries) -> Entries:
        return push(inputs.home, buffer, arrived, *_fresh(inputs, index, choices, plan))

    buffer = inputs.home.when(arrived, join, lane.buffer)
    taken = taken + arrived.astype(np.int32)
    arrival = lookup(inputs, name, jnp.where(arrived, following, index))
    left = taken < inputs.num_requests
    with jax.enable_x64(True):
        next_one, more = jnp.where(left, arrival - now, never), left & (arrival <= now)
    return Joined(buffer, (taken, *lane.heads[1:]), more, next_one)


def candidates(
    buffer: Entries,
    heads: tuple[jax.Array, ...],
    queue: Queue,
    inputs: Inputs,
    leaver: Leaver,
    choices: Choices,
    plan: LoopPlan,
) -> Candidates:
    """The smallest (key, index) of the fresh order, returned runs, buffer and the evicted one."""
    home, zero = inputs.home, jnp.zeros_like(leaver.slot)
    buffered = np.int32(1 + len(queue.runs))
    place = home.place_of_first(buffer.key, buffer.index)
    key, index, estimate, evictions, kept = (
        home.pick(a, place)
        for a in (buffer.key, buffer.index, buffer.estimate, buffer.evictions, buffer.kept)
    )
    best = Candidate(key, index, estimate, evictions, kept, zero + buffered, place)
    key, index = (jnp.where(leaver.evicted, a, NEVER) for a in (leaver.key, leaver.position))
    known = (leaver.estimate, leaver.evictions, leaver.kept)
    evicted = Candidate(key, index, *known, zero + buffered + 1, zero)
    best, then = _in_order(best, evicted)
    waiting = functools.partial(_waiting, heads, queue, inputs, choices, plan)
    for origin in range(1 if plan.arrivals else 0, 1 + len(queue.runs)):
        mine = Candidate(*waiting(origin, zero), zero + np.int32(origin), zero)
        best, other = _in_order(best, mine)
        then, _ = _in_order(then, other)
    best, then = (jax.tree.map(lambda x: home.settle(x)[0], c) for c in (best, then))
    return Candidates(best, then)


def line(
    queued: Candidates,
    queue: Queue,
    heads: tuple[jax.Array, ...],
    inputs: Inputs,
    choices: Choices,
    plan: LoopPlan,
) -> Followers:
    """Those behind the first candidate."""
    first, then = queued
    zero = jnp.zeros_like(first.origin)
    waiting = functools.partial(_waiting, heads, queue, inputs, choices, plan)

    def behind(i: jax.Array) -> tuple[Entrant, jax.Array]:
        place = zero + i + 1
        found = waiting(len(queue.runs), place)
        for origin in range(len(queue.runs) - 1, 0 if plan.arrivals else -1, -1):
            found = _where(first.origin == np.int32(origin), waiting(origin, place), found)
        mine = Candidate(*found, zero, zero)
        # Where there is none, NEVER is before nobody.
        return request(mine, inputs, choices), _before(mine, then)

    buffered = np.int32(1 + len(queue.runs))
    requests, follows = [request(first, inputs, choices)], [first.position != NEVER]
    if plan.party > 1:
        for entrant, before in inputs.home.each(behind, plan.party - 1):
            requests.append(entrant)
            follows.append(follows[-1] & (first.origin < buffered) & before)
    return Followers(requests, follows, first.origin != buffered, then.position)


def _waiting(
    heads: tuple[jax.Array, ...],
    queue: Queue,
    inputs: Inputs,
    choices: Choices,
    plan: LoopPlan,
    origin: int,
    place: jax.Array,
) -> _Known:
    """What is known of a request behind the head of a sorted queue."""
    place = heads[origin] + place
    if origin == 0:
        left = place < inputs.num_requests
        index = jnp.where(left, lookup(inputs, "order", place), NEVER)
        known = _fresh(inputs, index, choices, plan)
        return jnp.where(left, known[0], NEVER), *known[1:]
    run = queue.runs[origin - 1]
    left = place < np.int32(run[0].shape[-1])
    key, index = (jnp.where(left, _at(inputs.home, array, place), NEVER) for array in run)
    estimate, evictions, kept = (
        _at(inputs.home, array, index) for array in (queue.estimate, queue.evictions, queue.kept)
    )
    return key, index, estimate, evictions, kept


def _fresh(inputs: Inputs, index: jax.Array, choices: Choices, plan: LoopPlan) -> _Known:
    """What is known of a request that has not run yet."""
    read, none = fields_of(inputs, index), jnp.zeros_like(index)
    estimate = ask(choices, "estimate", read, inputs.params)
    read = known_as(read, estimate=estimate, evictions=none)
    key = ask(choices, "admission_key", read, inputs.params)
    evictions, kept = (none if has else None for has in (plan.counts_evictions, plan.blocks))
    return key, index, estimate, evictions, kept


def request(candidate: Candidate, inputs: Inputs, choices: Choices) -> Entrant:
    """What a slot needs to know of the candidate; its reserve is capped here, for every policy."""
    read = fields_of(inputs, candidate.position)
    prompt, output = read("prompt"), read("output")
    read = known_as(
        read, estimate=candidate.estimate, evictions=candidate.evictions, generated=candidate.kept
    )
    reserve = ask(choices, "reserve", read, inputs.params)
    (reserve,) = inputs.home.settle(jnp.clip(reserve, 1, inputs.memory - prompt))
    free = None
    if choices.headroom is not None:
        free = jnp.minimum(ask(choices, "headroom", read, inputs.params), inputs.memory)
    return Entrant(
        prompt, output, reserve, candidate.estimate, candidate.evictions, candidate.position, free
    )


def take(
    home: Home, buffer: Entries, heads: tuple[jax.Array, ...], first: Candidate, count: jax.Array
) -> tuple[Entries, tuple[jax.Array, ...]]:
    """Takes those admitted from where they waited: the first, and `count` - 1 behind it."""
    buffered = (count > 0) & (first.origin == np.int32(len(heads)))
    taken = tuple(
        head + jnp.where(first.origin == np.int32(origin), count, 0)
        for origin, head in enumerate(heads)
    )
    return buffer.replace(
        key=home.put(buffer.key, buffered, first.place, NEVER),
        index=home.put(buffer.index, buffered, first.place, NEVER),
    ), taken


def push(
    home: Home,
    buffer: Entries,
    condition: jax.Array,
    key: jax.Array,
    index: jax.Array,
    estimate: jax.Array,
    evictions: jax.Array | None,
    kept: jax.Array | None,
) -> Entries:
    """Puts one request into the first free place of the buffer; there always is one."""
    count = buffer.key.shape[-1]
    places = lax.iota(np.int32, count)
    place = home.lowest(jnp.where(buffer.key == NEVER, places, np.int32(count)))
    return Entries(
        key=home.put(buffer.key, condition, place, key),
        index=home.put(buffer.index, condition, place, index),
        estimate=home.put(buffer.estimate, condition, place, estimate),
        evictions=home.put(buffer.evictions, condition, place, evictions),
        kept=home.put(buffer.kept, condition, place, kept),
    )


def crowded(home: Home, buffer: Entries) -> jax.Array:
    """Whether a step that lets one request arrive and evicts another could lack a place."""
    taken = home.total((buffer.key != NEVER).astype(np.int32))
    return taken > np.int32(buffer.key.shape[-1] - 2)


def _before(a: Candidate, b: Candidate) -> jax.Array:
    return (a.key < b.key) | ((a.key == b.key) & (a.position < b.position))


def _in_order(a: Candidate, b: Candidate) -> tuple[Candidate, Candidate]:
    first = _before(a, b)
    return _where(first, a, b), _where(first, b, a)


def _where(condition: jax.Array, a: Any, b: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def _at(home: Home, table: Any, place: jax.Array) -> Any:
    """One element of a table; past the end the last. `None` of `None`."""
    if table is None:
        return None
    return home.lookup(table, jnp.minimum(place, np.int32(table.shape[-1] - 1)))
