"""Two shapes of code that decide how well XLA:CPU compiles a step.

A masked reduction over the minor axis compiles to a scalar loop. Folding the axis first, eight
parts elementwise into one, leaves a vector loop and a reduction of an eighth of the length; it was
measured at two to five times the speed for 256 slots.

A decision taken per lane is recomputed inside every loop over the slots that it is fused into,
which also keeps that loop from being vectorized; `lax.optimization_barrier` is dropped before
fusion. XLA never fuses a division by a variable into a loop that would repeat it, so dividing by a
one that it cannot see through keeps the decision outside.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PARTS = 8
"""Slot and buffer counts are multiples of this."""


def _fold(combine: Callable[[jax.Array, jax.Array], jax.Array], values: jax.Array) -> jax.Array:
    return functools.reduce(combine, jnp.split(values, PARTS))


def lowest(values: jax.Array) -> jax.Array:
    """Minimum of int32 values of shape [S], S a multiple of `PARTS`."""
    return jnp.min(_fold(jnp.minimum, values))


def highest(values: jax.Array) -> jax.Array:
    """Maximum of int32 values of shape [S], S a multiple of `PARTS`."""
    return jnp.max(_fold(jnp.maximum, values))


def total(values: jax.Array) -> jax.Array:
    """Sum of int32 values of shape [S], S a multiple of `PARTS`."""
    return jnp.sum(_fold(jnp.add, values), dtype=np.int32)


def settle(one: jax.Array, *values: jax.Array) -> tuple[jax.Array, ...]:
    """Scalars of a lane, int32 or bool, in a form that is not computed again at each use.

    Args:
      one: A traced 1.
      *values: Scalars.
    """
    return tuple(
        jax.lax.div(value, one)
        if value.dtype != jnp.bool_
        else jax.lax.div(value.astype(np.int32), one).astype(jnp.bool_)
        for value in values
    )


def put(old: Any, condition: jax.Array, place: jax.Array, new: Any) -> Any:
    """Values of shape [S] with `new` at `place` if `condition` holds; `None` of `None`.

    A scatter works in place, where a masked choice over all slots does not: XLA:CPU gives its
    result the memory of `old`, and LLVM then refuses to vectorize it.

    Args:
      old: Values, [S].
      condition: Whether to replace one, [].
      place: Where, [].
      new: What to put there, [].
    """
    if old is None:
        return None
    place = jnp.where(condition, place, np.int32(old.shape[-1]))
    return old.at[place].set(new, mode="drop")


def place_of_first(key: jax.Array, index: jax.Array, one: jax.Array) -> jax.Array:
    """Position of the smallest (key, index) pair; three minima are cheaper than one argmin.

    Args:
      key: int32 keys, [S].
      index: int32 tie-breaks, [S].
      one: A traced 1.
    """
    none = np.int32(2**31 - 1)
    (least,) = settle(one, lowest(key))
    (first,) = settle(one, lowest(jnp.where(key == least, index, none)))
    positions = jax.lax.iota(np.int32, key.shape[-1])
    here = (key == least) & (index == first)
    return lowest(jnp.where(here, positions, np.int32(key.shape[-1] - 1)))
