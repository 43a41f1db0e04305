"""The slots of a worker with blocks: what they hold, who leaves, the look-ahead test, who enters.

A request whose prompt is through holds base + t tokens in the cache in round t, with a base that
stands. So the look-ahead test is that of the papers' worker in blocks: at each expected end `load`
is what those that last so long are expected to hold.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsched.engines.xla.choices import Read, ask
from jaxsched.engines.xla.home import Home
from jaxsched.engines.xla.inputs import Inputs, fields_of, known_as
from jaxsched.engines.xla.slots import Leaver, first_to_go, sent_back
from jaxsched.engines.xla.state import NEVER, Round, Slots
from jaxsched.policies.program import Choices


class Held(NamedTuple):
    """A lane's slots in a round, after completions; scalars but for the masks of shape [S]."""

    running: jax.Array
    late: jax.Array  # completed before the end it had reserved
    spent: jax.Array | None  # running, with its quantum generated; `None` if there are no quanta
    active: jax.Array  # running requests
    blocks: jax.Array  # of those whose prompt is through, with the grants of this round
    tokens: jax.Array | None  # in these; `None` without a clock
    num_late: jax.Array
    num_spent: jax.Array | None
    next_spent: jax.Array | None  # rounds until the next quantum is generated


class Left(NamedTuple):
    """The request that gives up its slot in a step, if there is one; scalars."""

    who: Leaver
    admitted: jax.Array  # round
    entered: jax.Array  # tokens generated then
    lost: jax.Array  # tokens in the cache


class Fit(NamedTuple):
    """Outcome of the look-ahead test; scalars."""

    end: jax.Array  # round before which the request is expected to be through
    own: jax.Array  # tokens that it starts with
    load: jax.Array  # blocks of all in the round before its end
    passes: jax.Array
    wait: jax.Array  # rounds that it fails for at least


class BlockSize(NamedTuple):
    """Tokens in a block, 1 to 2^16, and what divides by them.

    With factor = floor(2^bits / tokens) + 1, x factor / 2^bits is less than one part in `tokens`
    above x / tokens for all x < 2^30, and memory has 2^28 tokens at most: a multiplication, where a
    division is not vectorized on a CPU and twenty instructions on a GPU.
    """

    tokens: jax.Array
    factor: jax.Array
    bits: jax.Array  # 30, and as many as `tokens` - 1 has


def blocks_for(tokens: jax.Array, block: BlockSize) -> jax.Array:
    """Blocks for so many tokens."""
    return divided(tokens + (block.tokens - 1), block)


def divided(tokens: jax.Array, block: BlockSize) -> jax.Array:
    """`tokens // block.tokens`, of 0 to 2^30 - 1."""
    with jax.enable_x64(True):
        wide = tokens.astype(jnp.int64) * block.factor.astype(jnp.int64)
        bits = jnp.broadcast_to(block.bits.astype(jnp.int64), wide.shape)
        return lax.shift_right_logical(wide, bits).astype(jnp.int32)


def run_time(last: jax.Array, since: jax.Array, block: jax.Array) -> jax.Array:
    """Token-rounds of a run from the round with `since` tokens in the cache to that with `last`.

    In int64; 0 if it did not come so far.
    """
    with jax.enable_x64(True):
        last, before, block = (x.astype(jnp.int64) for x in (last, since - 1, block))
        area = _block_rounds(last, block) - _block_rounds(before, block)
        return jnp.where(last > before, block * area, np.int64(0))


def _block_rounds(tokens: jax.Array, block: jax.Array) -> jax.Array:
    """Sum of the blocks for 1, 2, ..., `tokens` tokens, int64."""
    whole = tokens // block
    return block * (whole * (whole + 1) // 2) + (tokens - whole * block) * (whole + 1)


def decoding(slots: Slots, time: jax.Array) -> jax.Array:
    """Those who run with their prompt through, [S]."""
    return (slots.finish > time) & (slots.finish != NEVER)


def held(slots: Slots, time: jax.Array, block: BlockSize, inputs: Inputs, choices: Choices) -> Held:
    """Counts what is running; completing costs no write, since a slot knows when it is free."""
    home = inputs.home
    running, through = slots.finish > time, decoding(slots, time)
    late = (slots.finish <= time) & (slots.end > time)
    cached = jnp.where(through, slots.base + time, 0)
    usage = Held(
        running=running,
        late=late,
        spent=None,
        active=home.total(running.astype(np.int32)),
        blocks=home.total(blocks_for(cached, block)),
        tokens=None if inputs.clock is None else home.total(cached),
        num_late=home.total(late.astype(np.int32)),
        num_spent=None,
        next_spent=None,
    )
    if choices.quantum is None:
        return usage
    # It stands from one admission to the next.
    read = known_as(_seen(slots, time, inputs), generated=slots.entered)
    quantum = ask(choices, "quantum", read, inputs.params, running.shape)
    left = quantum + slots.entered - _generated(slots, time)
    spent = running & (left <= 0)
    return usage._replace(
        spent=spent,
        num_spent=home.total(spent.astype(np.int32)),
        next_spent=home.lowest(jnp.where(running & ~spent, left, NEVER)),
    )


def _generated(slots: Slots, time: jax.Array) -> jax.Array:
    """Tokens generated at the start of a round, [S]."""
    return jnp.where(slots.finish == NEVER, slots.entered, slots.base + time - slots.prompt)


def _seen(slots: Slots, time: jax.Array, inputs: Inputs) -> Read:
    """What a policy may know of the requests in the slots."""
    return known_as(
        fields_of(inputs, slots.index),
        prompt=slots.prompt,
        estimate=slots.estimate,
        evictions=slots.evictions,
        generated=_generated(slots, time),
        admitted=slots.admitted,
    )


def nobody_left(who: Leaver) -> Left:
    """That there is none."""
    zero = who.end
    return Left(who, zero, zero, zero)


def first_to_leave(
    slots: Slots,
    usage: Held,
    now: Round,
    time: jax.Array,
    leaves: jax.Array,
    inputs: Inputs,
    choices: Choices,
) -> tuple[Left, Any]:
    """If one `leaves`, a late slot, else one with its quantum generated, else the first evicted.

    And its place.
    """
    home, some = inputs.home, usage.running
    if usage.spent is not None:
        some = jnp.where(usage.num_spent > 0, usage.spent, some)
    evicts, leaves = home.settle(leaves & (usage.num_late == 0), leaves)
    seen, late = _seen(slots, time, inputs), usage.late & leaves
    slot, index = first_to_go(slots.index, seen, some & evicts, late, inputs, choices)
    own = jax.tree.map(lambda array: home.pick(array, slot), slots.replace(load=None, index=None))
    generated = _generated(own, time)
    who = Leaver(
        exists=leaves,
        evicted=evicts,
        end=own.end,
        prompt=own.prompt,
        generated=generated,
        position=index,
        **sent_back(own, index, own.prompt, generated, generated, inputs, choices),
    )
    lost = jnp.where(own.finish == NEVER, now.done, own.base + time - 1)
    found = Left(who, own.admitted, own.entered, lost)
    return jax.tree.map(lambda value: home.settle(value)[0], found), slot


def take_out(
    home: Home, slots: Slots, who: Leaver, slot: Any, time: jax.Array, block: BlockSize
) -> Slots:
    """Takes the leaver out of its slot and of the loads of the ends that it had reserved."""
    shared = who.exists & (slots.end > time) & (slots.end <= who.end)
    (later,) = home.settle(who.prompt + who.generated - time - 1)
    return slots.replace(
        end=home.put(slots.end, who.exists, slot, np.int32(0)),
        finish=home.put(slots.finish, who.exists, slot, np.int32(0)),
        load=slots.load - jnp.where(shared, blocks_for(later + slots.end, block), 0),
    )


def fits_ahead(
    home: Home,
    slots: Slots,
    time: jax.Array,
    end: jax.Array,
    own: jax.Array,
    most: jax.Array,
    block: BlockSize,
) -> Fit:
    """Tests a request with `own` tokens that is to last to the round `end`, against `most` blocks.

    An end is in the way until it has passed, or until the request has so much less left by then.
    """
    end, later = home.settle(end, own - time - 1)
    counted = slots.end > time
    within, beyond = counted & (slots.end <= end), counted & (slots.end >= end)
    share = jnp.where(within, blocks_for(later + slots.end, block), 0)
    expected = jnp.where(beyond, blocks_for(slots.base + (end - 1), block), 0)
    load = home.total(expected) + blocks_for(later + end, block)
    left, spare = slots.end - time, most - slots.load
    fewer = jnp.minimum(left, later + slots.end - block.tokens * spare)
    rounds = jnp.where(within & (spare >= 0), fewer, left)
    wait = jnp.maximum(home.highest(jnp.where(counted & (share > spare), rounds, 0)), 0)
    # The load at its own end only falls once the nearest end beyond that has passed.
    nearest = home.lowest(jnp.where(beyond, slots.end, NEVER))
    nearest = jnp.where(nearest == NEVER, NEVER, nearest - end + 1)
    wait = jnp.where(load > most, jnp.maximum(wait, nearest), wait)
    return Fit(end, own, load, wait <= 0, wait)


def put_in(
    home: Home,
    slots: Slots,
    place: jax.Array,
    counts: jax.Array,
    entry: Slots,
    fit: Fit,
    time: jax.Array,
    block: BlockSize,
) -> Slots:
    """Puts a request into a slot, if it is one, and if it `counts` its blocks into the loads."""
    shared = counts & (slots.end > time) & (slots.end <= fit.end)
    (later,) = home.settle(fit.own - time - 1)
    loads = slots.load + jnp.where(shared, blocks_for(later + slots.end, block), 0)
    return home.put_all(slots.replace(load=loads), [place], [entry])


def rounds_that_fit(
    home: Home,
    slots: Slots,
    time: jax.Array,
    count: jax.Array,
    free: jax.Array,
    most: jax.Array,
    block: BlockSize,
) -> jax.Array:
    """Rounds, this one counted, for which `free` blocks suffice if all decode; at most `most`."""
    laps = lax.div(free, jnp.maximum(count, 1))  # in `block` rounds everybody needs a block more
    spare = free - laps * count
    cached = slots.base + (time - 1)
    crosses = block.tokens - (cached - block.tokens * divided(cached, block))
    crosses = jnp.where(decoding(slots, time), crosses, NEVER)

    def halve(bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        between = lax.div(low + high, np.int32(2))
        fits = home.total((crosses <= between).astype(np.int32)) <= spare
        return jnp.where(fits, between, low), jnp.where(fits, high, between)

    bounds = (
        jnp.zeros_like(block.tokens),
        jnp.clip(most - laps * block.tokens, 1, block.tokens),
    )
    low, _ = lax.while_loop(lambda b: b[1] - b[0] > 1, halve, bounds)
    return jnp.minimum(laps * block.tokens + low + 1, most)


def peak(
    home: Home, slots: Slots, time: jax.Array, rounds: jax.Array, block: BlockSize
) -> jax.Array:
    """Blocks of those whose prompt is through in the last of some rounds."""
    cached = jnp.where(decoding(slots, time), slots.base + (time + rounds - 1), 0)
    return home.total(blocks_for(cached, block))
