"""Who of the lanes at work steps next, side by side with whom, and with how many slots."""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsched.engines.xla.inputs import sorted_pairs
from jaxsched.engines.xla.state import DONE, NEVER, RUN, WANTS_SLOT, Lane, LoopPlan, Slots, narrower

_T = TypeVar("_T")


def turn_of(lanes: Lane, level_of: jax.Array, plan: LoopPlan) -> tuple[jax.Array | None, jax.Array]:
    """Whose turn it is, [`plan.width`] or `None` for all, and the level that they share.

    It is the widest level that fills a turn by itself, else the widest there is together with
    narrower ones; first come those who are behind in time.
    """
    ready = lanes.halt == RUN
    levels = lax.iota(np.int32, len(plan.slots))
    here = (level_of[:, None] == levels[None, :]) & ready[:, None]
    count = jnp.sum(here, axis=0, dtype=np.int32)
    full = count >= np.int32(plan.width)
    level = jnp.max(jnp.where(jnp.where(jnp.any(full), full, count > 0), levels, 0))
    if plan.width == plan.pool:
        return None, level
    behind = jnp.where(ready & (level_of <= level), level - level_of, NEVER)
    keys = behind, lanes.time, lax.iota(np.int32, plan.pool)
    return lax.sort(keys, num_keys=2)[-1][: plan.width], level


def rows_of(tree: _T, chosen: jax.Array | None) -> _T:
    """Those lanes of every array; all for `None`."""
    return tree if chosen is None else jax.tree.map(lambda array: array[chosen], tree)


def put_back(tree: _T, chosen: jax.Array | None, new: _T) -> _T:
    """Puts rows back where they were taken, which may be the first columns only."""

    def give(array: jax.Array, part: jax.Array) -> jax.Array:
        if chosen is not None:
            rest = () if array.ndim == 1 else (slice(part.shape[1]),)
            return array.at[(chosen, *rest)].set(part, unique_indices=True)
        if part.shape == array.shape:
            return part
        return lax.dynamic_update_slice(array, part, (0, 0))

    return jax.tree.map(give, tree, new)


def _occupied(lanes: Lane) -> jax.Array:
    """Places of slots in use, counted from 1, and 0 for the others, [W, S]."""
    slots, time = lanes.slots, lanes.time[:, None]
    position = lax.broadcasted_iota(np.int32, slots.end.shape, 1)
    used = ((slots.end > time) | (slots.finish > time)) & (lanes.halt != DONE)[:, None]
    return jnp.where(used, position + 1, 0)


def close_ranks(lanes: Lane, plan: LoopPlan) -> Lane:
    """Moves requests to the first slots if a lane could then do with fewer; nobody asks where."""
    occupied = _occupied(lanes)
    count = jnp.sum(occupied > 0, axis=1, dtype=np.int32)
    loose = _fitting(count, plan) < _fitting(jnp.max(occupied, axis=1), plan)

    def close(slots: Slots) -> Slots:
        order = sorted_pairs((occupied == 0).astype(np.int32), None)[1]
        return jax.tree.map(lambda array: jnp.take_along_axis(array, order, axis=1), slots)

    return lanes.replace(slots=lax.cond(jnp.any(loose), close, lambda slots: slots, lanes.slots))


def _fitting(used: jax.Array, plan: LoopPlan) -> jax.Array:
    """Levels that so many slots in use need, a quarter being left free, [W]."""
    wider = range(1, len(plan.slots) + 1)
    enough = np.asarray([narrower(plan.slots, level) for level in wider], np.int32)
    return jnp.sum(used[:, None] > enough[None, :], axis=1, dtype=np.int32)


def next_levels(lanes: Lane, plan: LoopPlan, level: jax.Array | int) -> jax.Array:
    """Of each lane: wider if it lacks a slot, narrower if that would leave a quarter of it free."""
    level = jnp.asarray(level, jnp.int32)
    fitting = _fitting(jnp.max(_occupied(lanes), axis=1), plan)
    wider = jnp.minimum(level + 1, np.int32(len(plan.slots) - 1))
    return jnp.where(lanes.halt == WANTS_SLOT, wider, jnp.minimum(fitting, level))
