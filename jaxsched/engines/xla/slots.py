"""The slots of the active requests: what they hold, who leaves, the look-ahead test, who enters.

With the slots' `end` e_j and the memory reserved in round e_j by all that reserved so far, a
waiting request of prompt s and reserve r passes the test of arXiv 2502.07115 at round t if

    the next round has room for s + 1 more tokens,
    reserved_j + s + (e_j - t) <= M for every end e_j in (t, t + r], and
    s + r + (what those with e_j >= t + r hold in round t + r) <= M.

Each line that is violated says for how many rounds it stays violated at least, so a lane can jump.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsched.engines.xla.choices import Read, ask
from jaxsched.engines.xla.home import Home
from jaxsched.engines.xla.inputs import Inputs, fields_of, known_as
from jaxsched.engines.xla.state import NEVER, LoopPlan, Slots
from jaxsched.policies.program import Choices

FIRST = np.int32(-(2**31))
"""Key that goes before every other: a reservation left behind by an early completion."""


class Usage(NamedTuple):
    """A lane's slots in a round, after completions; scalars but for the masks of shape [S]."""

    running: jax.Array
    late: jax.Array  # completed before the end it had reserved
    spent: jax.Array | None  # running, with its quantum generated; `None` if there are no quanta
    active: jax.Array  # running requests
    room: jax.Array  # memory left in this round if all running requests go on
    num_late: jax.Array
    num_spent: jax.Array | None
    next_spent: jax.Array | None  # rounds until the next quantum is generated


class Leaver(NamedTuple):
    """The request that gives up its slot in a step, if there is one; scalars."""

    exists: jax.Array
    evicted: jax.Array
    end: jax.Array
    prompt: jax.Array
    generated: jax.Array
    position: jax.Array  # of the request in its instance
    estimate: jax.Array  # refined
    evictions: jax.Array | None  # this one included
    key: jax.Array  # admission key
    kept: jax.Array | None = None  # tokens generated so far, on a worker with blocks
    output: jax.Array | None = None  # where the plan has a window


class Entrant(NamedTuple):
    """A request that may enter; scalars."""

    prompt: jax.Array
    output: jax.Array
    reserve: jax.Array
    estimate: jax.Array
    evictions: jax.Array | None
    position: jax.Array  # in its instance
    headroom: jax.Array | None  # memory that its look-ahead test leaves free beside others


class Ahead(NamedTuple):
    """Outcome of the look-ahead test; scalars."""

    wait: jax.Array  # rounds that it fails for at least, 0 if it passes
    above: jax.Array  # memory reserved at the request's own end by others


def slots_usage(slots: Slots, time: jax.Array, inputs: Inputs, choices: Choices) -> Usage:
    """Counts what is running; completing costs no write, since a slot knows when it is free."""
    running = slots.finish > time
    late = ~running & (slots.end > time)
    home = inputs.home
    count = home.total(running.astype(np.int32))
    base = home.total(jnp.where(running, slots.base, 0))
    room = inputs.memory - (base + count * (time + 1))
    num_late = home.total(late.astype(np.int32))
    if choices.quantum is None:
        return Usage(running, late, None, count, room, num_late, None, None)
    quantum = ask(choices, "quantum", _seen(slots, time, inputs), inputs.params, running.shape)
    left = quantum - (time - slots.admitted)
    spent = running & (left <= 0)
    num_spent = home.total(spent.astype(np.int32))
    next_spent = home.lowest(jnp.where(running & ~spent, left, NEVER))
    return Usage(running, late, spent, count, room, num_late, num_spent, next_spent)


def leaver(
    slots: Slots,
    usage: Usage,
    time: jax.Array,
    stepping: jax.Array,
    inputs: Inputs,
    choices: Choices,
    plan: LoopPlan,
) -> tuple[Leaver, Any]:
    """A late slot, else one with its quantum generated, else on overflow the first evicted.

    And its place.
    """
    home = inputs.home
    leaves, some = usage.running, usage.room < 0
    if usage.spent is not None:
        leaves = jnp.where(usage.num_spent > 0, usage.spent, leaves)
        some |= usage.num_spent > 0
    evicts = stepping & (usage.num_late == 0) & some
    evicts, stepping = home.settle(evicts, stepping)
    seen, late = _seen(slots, time, inputs), usage.late & stepping
    slot, index = first_to_go(slots.index, seen, leaves & evicts, late, inputs, choices)
    needed = slots.replace(load=None, index=None)
    if not plan.window:
        needed = needed.replace(finish=None)
    own = jax.tree.map(lambda array: home.pick(array, slot), needed)
    prompt, generated = own.base + own.admitted, time - own.admitted
    found = Leaver(
        exists=(stepping & (usage.num_late > 0)) | evicts,
        evicted=evicts,
        end=own.end,
        prompt=prompt,
        generated=generated,
        position=index,
        output=own.finish - own.admitted if plan.window else None,
        **sent_back(own, index, prompt, generated, None, inputs, choices),
    )
    return jax.tree.map(lambda value: home.settle(value)[0], found), slot


def first_to_go(
    index: jax.Array,
    seen: Read,
    may_go: jax.Array,
    late: jax.Array,
    inputs: Inputs,
    choices: Choices,
) -> tuple[Any, jax.Array]:
    """Place and index of one who is late, else of the first evicted of those who may go, [S]."""
    key = ask(choices, "eviction_key", seen, inputs.params, index.shape)
    if choices.evict_largest:
        key, index = ~key, ~index
    key = jnp.where(late, FIRST, jnp.where(may_go, key, NEVER))
    slot, index = inputs.home.first(key, index)
    return slot, ~index if choices.evict_largest else index


def sent_back(
    own: Slots,
    index: jax.Array,
    prompt: jax.Array,
    generated: jax.Array,
    kept: jax.Array | None,
    inputs: Inputs,
    choices: Choices,
) -> dict[str, jax.Array | None]:
    """The refined estimate, evictions and admission key of one who leaves, by name, and `kept`."""
    read = known_as(fields_of(inputs, index), prompt=prompt, evictions=own.evictions)
    before = known_as(read, estimate=own.estimate, generated=generated)
    estimate = ask(choices, "refine", before, inputs.params)
    evictions = None if own.evictions is None else own.evictions + 1
    after = known_as(read, estimate=estimate, evictions=evictions, generated=kept)
    key = ask(choices, "admission_key", after, inputs.params)
    return {"estimate": estimate, "evictions": evictions, "key": key, "kept": kept}


def nobody(time: jax.Array, plan: LoopPlan) -> Leaver:
    """That there is none."""
    zero, no = jnp.zeros_like(time), jnp.zeros_like(time) > 0
    evictions = zero if plan.counts_evictions else None
    kept = zero if plan.blocks else None
    output = zero if plan.window and not plan.blocks else None
    return Leaver(no, no, zero, zero, zero, zero, zero, evictions, zero, kept, output)


def _seen(slots: Slots, time: jax.Array, inputs: Inputs) -> Read:
    """What a policy may know of the requests in the slots."""
    return known_as(
        fields_of(inputs, slots.index),
        prompt=slots.base + slots.admitted,
        estimate=slots.estimate,
        evictions=slots.evictions,
        generated=time - slots.admitted,
        admitted=slots.admitted,
    )


def release(home: Home, slots: Slots, leaver: Leaver, slot: Any, time: jax.Array) -> Slots:
    """Takes the leaver out of its slot, and of the loads of the ends that it had reserved."""
    shared = leaver.exists & (slots.end <= leaver.end)
    held = leaver.prompt + leaver.generated + (slots.end - time)
    return slots.replace(
        end=home.put(slots.end, leaver.exists, slot, np.int32(0)),
        finish=home.put(slots.finish, leaver.exists, slot, np.int32(0)),
        load=slots.load - jnp.where(shared, held, 0),
    )


def no_test(time: jax.Array) -> Ahead:
    """In place of a test that nobody takes."""
    zero = jnp.zeros_like(time)
    return Ahead(wait=zero, above=zero)


def look_ahead(
    home: Home,
    slots: Slots,
    time: jax.Array,
    request: Entrant,
    memory: jax.Array,
) -> Ahead:
    """Tests a request that the next round has room for against the reservations.

    Under a headroom those that last longer than the request may themselves hold too much of
    `memory`, which is then less than they were tested against.
    """
    prompt, reserve = request.prompt, request.reserve
    own_end, shift = home.settle(time + reserve, prompt - memory)
    blocked = jnp.where(slots.end <= own_end, jnp.minimum(slots.end, slots.load + shift), 0)
    wait = jnp.maximum(home.highest(blocked) - time, 0)
    held = jnp.where(slots.end >= own_end, slots.base + own_end, 0)
    above = home.total(held)
    beyond = above + prompt + reserve > memory

    def until_others_end(wait: jax.Array) -> jax.Array:
        # The last line can only come true once the nearest end beyond the request's own has passed.
        nearest = home.lowest(jnp.where(slots.end >= own_end, slots.end, NEVER)) - own_end
        return jnp.where(beyond, jnp.maximum(wait, nearest + 1), wait)

    wait = home.when(beyond, until_others_end, wait)
    if request.headroom is not None:
        full = (slots.end > own_end) & (slots.load - slots.end > memory)
        wait = jnp.maximum(wait, home.highest(jnp.where(full, slots.end - time, 0)))
    return Ahead(wait, above)


def next_completion(home: Home, slots: Slots, time: jax.Array) -> jax.Array:
    """Rounds to the next completion, NEVER if nobody runs."""
    finish = home.lowest(jnp.where(slots.finish > time, slots.finish, NEVER))
    return jnp.where(finish == NEVER, NEVER, finish - time)


def all_pass(
    home: Home,
    slots: Slots,
    time: jax.Array,
    count: jax.Array,
    prompts: jax.Array,
    reserve: jax.Array,
    ahead: Ahead,
    memory: jax.Array,
) -> jax.Array:
    """Whether `count` requests that reserve alike pass the test one after another.

    At an end e_j in (t, t + r] they add all their prompts, and e_j - t for each. The first passes
    for itself; that the next round has room for all is seen elsewhere.
    """
    own_end, shift, rest = home.settle(time + reserve, prompts - memory - time, count - 1)
    left = slots.end - time
    excess = jnp.minimum(left, slots.load + shift + rest * jnp.maximum(left, 0))
    worst = home.highest(jnp.where(slots.end <= own_end, excess, 0))
    return (worst <= 0) & (ahead.above + prompts + count * reserve <= memory)


def insert(
    home: Home,
    slots: Slots,
    places: list[jax.Array],
    count: jax.Array,
    prompts: jax.Array,
    requests: list[Entrant],
    above: jax.Array,
    time: jax.Array,
) -> Slots:
    """Puts those admitted into slots and their memory into the loads of the ends they reach.

    Args:
      home: What the step stands on.
      slots: Before.
      places: Where, for each request; past the end for those from `count` on.
      count: How many are admitted, which may be none.
      prompts: Their prompts together.
      requests: They, and more; all admitted reserve alike.
      above: Memory reserved at their end by others.
      time: The round.
    """
    end = time + requests[0].reserve
    own = end + above + prompts + count * requests[0].reserve
    end, share, own = home.settle(end, prompts - count * time, own)
    shared = (slots.end <= end) & (count > 0)
    loads = slots.load + jnp.where(shared, share + count * slots.end, 0)
    entries = [
        Slots(
            end=end, load=own, finish=time + r.output, admitted=time, base=r.prompt - time,
            estimate=r.estimate, index=r.position, evictions=r.evictions,
        )
        for r in requests
    ]  # fmt: skip
    return home.put_all(slots.replace(load=loads), places, entries)


def free_slots(
    home: Home, slots: Slots, time: jax.Array, count: int, several: jax.Array
) -> list[jax.Array]:
    """Places of `count` free slots, the lowest first; their number where there are no more.

    Unless `several` are asked for, one may be all.
    """
    return home.first_places(unused(slots, time), count, several)


def unused(slots: Slots, time: jax.Array) -> jax.Array:
    """Which slots are free, [S]."""
    return (slots.finish <= time) & (slots.end <= time)
