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
from jaxsched.engines.xla.state import NEVER, Entries, Lane, LoopPlan, Terms
from jaxsched.policies.program import Choices


class Candidate(NamedTuple):
    """A waiting request; scalars. NEVER are key and position of nobody."""

    key: jax.Array
    position: jax.Array  # of the request in its instance
    estimate: jax.Array
    evictions: jax.Array | None
    kept: jax.Array | None  # tokens generated so far, on a worker with blocks
    # 0 the fresh order, then the returned runs, then the buffer; `None` where nobody asks
    origin: jax.Array | None = None
    place: jax.Array | None = None  # in the buffer; `None` where nobody asks
    terms: Terms | None = None  # where the plan has a window


class Front(NamedTuple):
    """Who is first in admission order.

    Kept from step to step, since few steps change it; `best` alone where the plan has a window.
    """

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
    then: Candidate  # the first of the other queues


ALIGNED = 8
"""Windows begin at a multiple of so many places of their queue."""

_Next = tuple[Entrant, jax.Array]


def arrive(
    lane: Lane,
    queue: Queue,
    inputs: Inputs,
    time: jax.Array,
    stepping: jax.Array,
    choices: Choices,
    plan: LoopPlan,
) -> Joined:
    """Moves one request that has arrived to the buffer."""
    if plan.window:
        front = front_of(lane.front, lane.heads, queue, inputs, choices, plan)
    else:
        front = lane.front
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
        mine = _fresh(inputs, index, choices, plan)
        if plan.window:
            mine = with_terms(mine, inputs, choices)
        return push(inputs, *waiting, arrived, mine, choices)

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
    waiting = functools.partial(_waiting, heads, queue, inputs, choices, plan)
    nobody = jax.tree.map(jnp.zeros_like, best)
    first, then = best, nobody._replace(key=zero + NEVER, position=zero + NEVER)
    for origin in range(1 if plan.arrivals else 0, 1 + len(queue.runs)):
        mine = waiting(origin, np.int32(0))._replace(origin=zero + np.int32(origin), place=zero)
        first, other = _in_order(first, mine)
        then, _ = _in_order(then, other)
    first, then = _settled(inputs.home, (first, then))
    return Front(best, first, then, request(first, inputs, choices))


def kept(front: Front, plan: LoopPlan) -> Front | Candidate:
    """What of it stands in a lane."""
    return front.best if plan.window else front


def best_of(buffer: Entries, number: int, home: Home) -> Candidate:
    """The first of the buffer, whose number among the queues is this."""
    place = home.place_of_first(buffer.key, buffer.index)
    key, index, estimate, evictions, kept = (
        home.pick(a, place)
        for a in (buffer.key, buffer.index, buffer.estimate, buffer.evictions, buffer.kept)
    )
    terms = jax.tree.map(lambda array: home.pick(array, place), buffer.terms)
    origin = jnp.full_like(place, number)
    return Candidate(key, index, estimate, evictions, kept, origin, place, terms)


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
        place = i + np.int32(1)
        found = waiting(len(queue.runs), place)
        for origin in range(len(queue.runs) - 1, 0 if plan.arrivals else -1, -1):
            found = _where(first.origin == np.int32(origin), waiting(origin, place), found)
        # Where there is none, NEVER is before nobody.
        return request(found, inputs, choices), _before(found, then)

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
    return Followers(requests, follows, first.origin != buffered, then)


def _waiting(
    heads: tuple[jax.Array, ...],
    queue: Queue,
    inputs: Inputs,
    choices: Choices,
    plan: LoopPlan,
    origin: int,
    place: jax.Array | np.int32,
) -> Candidate:
    """What is known of a request behind the head of a sorted queue."""
    place = heads[origin] + place
    if queue.windows is not None:
        window: Candidate = queue.windows[origin]
        return jax.tree.map(lambda array: inputs.home.pick(array, place), window)
    if origin == 0:
        left = place < inputs.num_requests
        index = jnp.where(left, lookup(inputs, "order", place), NEVER)
        fresh = _fresh(inputs, index, choices, plan)
        return fresh._replace(key=jnp.where(left, fresh.key, NEVER))
    run = queue.runs[origin - 1]
    left = place < np.int32(run[0].shape[-1])
    key, index = (jnp.where(left, _at(inputs.home, array, place), NEVER) for array in run)
    estimate, evictions, kept = (
        _at(inputs.home, array, index) for array in (queue.estimate, queue.evictions, queue.kept)
    )
    return Candidate(key, index, estimate, evictions, kept)


def with_windows(
    heads: tuple[jax.Array, ...], queue: Queue, inputs: Inputs, choices: Choices, plan: LoopPlan
) -> tuple[Queue, tuple[jax.Array, ...]]:
    """The queue with all that a chunk asks of the next requests in each of its sorted parts.

    And how many requests come before each part of it: heads then count from there.
    """
    firsts, windows = list[jax.Array](), list[Candidate | None]()
    for origin, head in enumerate(heads):
        # From the fresh order nobody is admitted if requests arrive.
        if plan.arrivals and not origin:
            firsts.append(jnp.zeros_like(head))
            windows.append(None)
            continue

        def behind(place: jax.Array, origin: int = origin) -> Candidate:
            found = _waiting(heads, queue, inputs, choices, plan, origin, place)
            return with_terms(found, inputs, choices)

        # A first place that is 0 in all lanes is a constant that XLA makes anew in every step.
        rest = head % np.int32(ALIGNED)
        places = lax.iota(np.int32, plan.window // (2 if origin else 1)) - rest
        firsts.append(head - rest)
        windows.append(jax.vmap(behind)(places))
    return queue.replace(windows=tuple(windows)), tuple(firsts)


def out_of_sight(heads: tuple[jax.Array, ...], queue: Queue, plan: LoopPlan) -> jax.Array:
    """Whether a step that takes as many as it can might want one beyond a window."""
    windows = zip(heads, queue.windows, strict=True)
    beyond = [
        head >= np.int32(window.key.shape[-1] - plan.party)
        for head, window in windows
        if window is not None
    ]
    return functools.reduce(jnp.logical_or, beyond)


def _fresh(inputs: Inputs, index: jax.Array, choices: Choices, plan: LoopPlan) -> Candidate:
    """What is known of a request that has not run yet."""
    read, none = fields_of(inputs, index), jnp.zeros_like(index)
    estimate = ask(choices, "estimate", read, inputs.params)
    read = known_as(read, estimate=estimate, evictions=none)
    key = ask(choices, "admission_key", read, inputs.params)
    evictions, kept = (none if has else None for has in (plan.counts_evictions, plan.blocks))
    return Candidate(key, index, estimate, evictions, kept)


def with_terms(
    candidate: Candidate,
    inputs: Inputs,
    choices: Choices,
    prompt: jax.Array | None = None,
    output: jax.Array | None = None,
) -> Candidate:
    """The same with what it would enter with; its reserve is capped here, for every policy.

    Args:
      candidate: A waiting request.
      inputs: Its instance.
      choices: The scheduler.
      prompt: That of the request, `None` to look it up.
      output: Likewise.
    """
    read = known_as(fields_of(inputs, candidate.position), prompt=prompt, output=output)
    prompt, output = read("prompt"), read("output")
    read = known_as(
        read, estimate=candidate.estimate, evictions=candidate.evictions, generated=candidate.kept
    )
    reserve = ask(choices, "reserve", read, inputs.params)
    (reserve,) = inputs.home.settle(jnp.clip(reserve, 1, inputs.memory - prompt))
    free = None
    if choices.headroom is not None:
        free = jnp.minimum(ask(choices, "headroom", read, inputs.params), inputs.memory)
    return candidate._replace(terms=Terms(prompt, output, reserve, free))


def request(candidate: Candidate, inputs: Inputs, choices: Choices) -> Entrant:
    """What a slot needs to know of the candidate."""
    terms = candidate.terms
    if terms is None:
        terms = with_terms(candidate, inputs, choices).terms
    return Entrant(
        terms.prompt, terms.output, terms.reserve, candidate.estimate, candidate.evictions,
        candidate.position, terms.headroom,
    )  # fmt: skip


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
    if plan.window:
        return buffer, heads, waiting._replace(best=best)
    return buffer, heads, front_of(best, heads, queue, inputs, choices, plan)


def push(
    inputs: Inputs,
    buffer: Entries,
    front: Front,
    condition: jax.Array,
    mine: Candidate,
    choices: Choices,
) -> tuple[Entries, Front]:
    """Puts one request into the first free place of the buffer; there always is one."""
    home, count = inputs.home, buffer.key.shape[-1]
    places = lax.iota(np.int32, count)
    place = home.lowest(jnp.where(buffer.key == NEVER, places, np.int32(count)))
    (place,) = home.settle(place)
    entry = Entries(*mine[:5], mine.terms)
    buffer = jax.tree.map(lambda old, new: home.put(old, condition, place, new), buffer, entry)
    key, index = (jnp.where(condition, value, NEVER) for value in mine[:2])
    mine = mine._replace(key=key, position=index, origin=front.best.origin, place=place)
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
