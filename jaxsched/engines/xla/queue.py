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
from jaxsched.engines.xla.slots import Entrant
from jaxsched.engines.xla.state import NEVER, Entries, Lane, LoopPlan
from jaxsched.policies.program import Choices


class Candidate(NamedTuple):
    """A waiting request; scalars. NEVER are key and position of nobody."""

    key: jax.Array
    position: jax.Array  # of the request in its instance
    estimate: jax.Array
    evictions: jax.Array | None
    kept: jax.Array | None  # tokens generated so far, on a worker with blocks
    origin: jax.Array  # 0 the fresh order, then the returned runs, then the buffer
    place: jax.Array  # in the buffer


_Known = tuple[jax.Array, jax.Array, jax.Array, jax.Array | None, jax.Array | None]
"""Key, index, estimate, evictions and tokens kept."""


class Front(NamedTuple):
    """Who is first in admission order; kept from step to step, since few steps change it."""

    best: Candidate  # the first of the buffer
    first: Candidate  # of all
    then: Candidate  # the first of the queues that the first of all does not wait in
    entrant: Entrant  # the first of all, as a slot needs to know it


class Joined(NamedTuple):
    """The queue after a step's arrival; scalars but for the buffer and the heads."""

    buffer: Entries
    front: Front
    heads: tuple[jax.Array, ...]
    more: jax.Array  # another request that has arrived still has to join
    next_one: jax.Array  # rounds to the next arrival, under a clock picoseconds; NEVER for none


class Followers(NamedTuple):
    """The first in admission order, and those behind it in the same sorted queue."""

    requests: list[Entrant]  # `plan.party` of them
    # whether each of them is the next in admission order once those before it are admitted
    follows: list[jax.Array]
    known: jax.Array  # whether who comes where one of them is not next is `then`
    then: jax.Array  # the first of the other queues, NEVER if there is none


_Next = tuple[Entrant, jax.Array]


def arrive(
    lane: Lane,
    inputs: Inputs,
    time: jax.Array,
    stepping: jax.Array,
    choices: Choices,
    plan: LoopPlan,
) -> Joined:
    """Moves one request that has arrived to the buffer."""
    front: Front = lane.front
    if not plan.arrivals:
        nobody = jnp.full_like(time, NEVER)
        return Joined(lane.buffer, front, lane.heads, jnp.zeros_like(stepping), nobody)
    name, now = ("due", lane.clock) if plan.clocked else ("arrival", time)
    never = LAST_TICK if plan.clocked else NEVER
    taken = lane.heads[0]
    index, following = (lookup(inputs, "order", taken + i) for i in (0, 1))
    with jax.enable_x64(True):
        known = lookup(inputs, name, index) <= now
    arrived = stepping & (taken < inputs.num_requests) & known

    def join(waiting: tuple[Entries, Front]) -> tuple[Entries, Front]:
        return push(inputs, *waiting, arrived, *_fresh(inputs, index, choices, plan), choices)

    buffer, front = inputs.home.when(arrived, join, (lane.buffer, front))
    taken = taken + arrived.astype(np.int32)
    arrival = lookup(inputs, name, jnp.where(arrived, following, index))
    left = taken < inputs.num_requests
    with jax.enable_x64(True):
        next_one, more = jnp.where(left, arrival - now, never), left & (arrival <= now)
    return Joined(buffer, front, (taken, *lane.heads[1:]), more, next_one)


def front_of(
    best: Candidate,
    heads: tuple[jax.Array, ...],
    queue: Queue,
    inputs: Inputs,
    choices: Choices,
    plan: LoopPlan,
) -> Front:
    """The smallest (key, index) of the fresh order, the returned runs, and the buffer."""
    zero = jnp.zeros_like(best.place)
    never = zero + NEVER
    waiting = functools.partial(_waiting, heads, queue, inputs, choices, plan)
    evictions, kept = (None if has is None else zero for has in (best.evictions, best.kept))
    first, then = best, Candidate(never, never, zero, evictions, kept, zero, zero)
    for origin in range(1 if plan.arrivals else 0, 1 + len(queue.runs)):
        mine = Candidate(*waiting(origin, zero), zero + np.int32(origin), zero)
        first, other = _in_order(first, mine)
        then, _ = _in_order(then, other)
    first, then = _settled(inputs.home, (first, then))
    return Front(best, first, then, request(first, inputs, choices))


def best_of(buffer: Entries, origin: int, home: Home) -> Candidate:
    """The first of the buffer, whose number among the queues is `origin`."""
    place = home.place_of_first(buffer.key, buffer.index)
    key, index, estimate, evictions, kept = (
        home.pick(a, place)
        for a in (buffer.key, buffer.index, buffer.estimate, buffer.evictions, buffer.kept)
    )
    return Candidate(key, index, estimate, evictions, kept, jnp.full_like(place, origin), place)


def line(
    front: Front,
    queue: Queue,
    heads: tuple[jax.Array, ...],
    inputs: Inputs,
    choices: Choices,
    plan: LoopPlan,
    wanted: jax.Array,
) -> Followers:
    """Those behind the first candidate, if they are wanted."""
    first, then = front.first, front.then
    zero, home = jnp.zeros_like(first.origin), inputs.home
    waiting = functools.partial(_waiting, heads, queue, inputs, choices, plan)

    def behind(i: jax.Array) -> tuple[Entrant, jax.Array]:
        place = zero + i + 1
        found = waiting(len(queue.runs), place)
        for origin in range(len(queue.runs) - 1, 0 if plan.arrivals else -1, -1):
            found = _where(first.origin == np.int32(origin), waiting(origin, place), found)
        mine = Candidate(*found, zero, zero)
        # Where there is none, NEVER is before nobody.
        return request(mine, inputs, choices), _before(mine, then)

    def look(_: list[_Next]) -> list[_Next]:
        return home.each(behind, plan.party - 1)

    buffered = np.int32(1 + len(queue.runs))
    nobody = jax.tree.map(jnp.zeros_like, front.entrant)
    found = home.when(
        wanted & (first.origin < buffered), look, [(nobody, zero > 0)] * (plan.party - 1)
    )
    requests, follows = [front.entrant], [first.position != NEVER]
    for entrant, before in found:
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
    inputs: Inputs,
    buffer: Entries,
    heads: tuple[jax.Array, ...],
    waiting: Front,
    queue: Queue,
    count: jax.Array,
    choices: Choices,
    plan: LoopPlan,
) -> tuple[Entries, tuple[jax.Array, ...], Front]:
    """Takes those admitted from where they waited: the first, and `count` - 1 behind it."""
    home, first = inputs.home, waiting.first
    buffered = (count > 0) & (first.origin == np.int32(len(heads)))
    heads = tuple(
        head + jnp.where(first.origin == np.int32(origin), count, 0)
        for origin, head in enumerate(heads)
    )

    def shorter(state: tuple[Entries, Candidate]) -> tuple[Entries, Candidate]:
        buffer, _ = state
        buffer = buffer.replace(
            key=home.put(buffer.key, buffered, first.place, NEVER),
            index=home.put(buffer.index, buffered, first.place, NEVER),
        )
        return buffer, best_of(buffer, len(heads), home)

    buffer, best = home.when(buffered, shorter, (buffer, waiting.best))
    return buffer, heads, front_of(best, heads, queue, inputs, choices, plan)


def push(
    inputs: Inputs,
    buffer: Entries,
    front: Front,
    condition: jax.Array,
    key: jax.Array,
    index: jax.Array,
    estimate: jax.Array,
    evictions: jax.Array | None,
    kept: jax.Array | None,
    choices: Choices,
) -> tuple[Entries, Front]:
    """Puts one request into the first free place of the buffer; there always is one."""
    home, count = inputs.home, buffer.key.shape[-1]
    places = lax.iota(np.int32, count)
    place = home.lowest(jnp.where(buffer.key == NEVER, places, np.int32(count)))
    (place,) = home.settle(place)
    buffer = Entries(
        key=home.put(buffer.key, condition, place, key),
        index=home.put(buffer.index, condition, place, index),
        estimate=home.put(buffer.estimate, condition, place, estimate),
        evictions=home.put(buffer.evictions, condition, place, evictions),
        kept=home.put(buffer.kept, condition, place, kept),
    )
    key, index = (jnp.where(condition, value, NEVER) for value in (key, index))
    mine = Candidate(key, index, estimate, evictions, kept, front.best.origin, place)
    best, first, then, entrant = front
    overtakes = _before(mine, first)
    entrant = _where(overtakes, request(mine, inputs, choices), entrant)
    first, other = _where(overtakes, (mine, first), (first, mine))
    best, then = _in_order(best, mine)[0], _in_order(then, other)[0]
    return buffer, Front(*_settled(home, (best, first, then, entrant)))


def crowded(home: Home, buffer: Entries) -> jax.Array:
    """Whether a step that lets one request arrive and evicts another could lack a place."""
    taken = home.total((buffer.key != NEVER).astype(np.int32))
    return taken > np.int32(buffer.key.shape[-1] - 2)


def _settled(home: Home, values: Any) -> Any:
    return jax.tree.map(lambda value: home.settle(value)[0], values)


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
