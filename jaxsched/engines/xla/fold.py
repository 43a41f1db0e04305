"""A step as loops of XLA over a pool of lanes, and what decides how well XLA:CPU compiles them.

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
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsched.engines.xla.home import Home

_T = TypeVar("_T")

PARTS = 8
"""Slot and buffer counts are multiples of this."""

_LONGEST = 32
"""XLA:CPU fuses a reduction of so many elements with what feeds it; a longer one it takes apart."""


def _fold(combine: Callable[[jax.Array, jax.Array], jax.Array], values: jax.Array) -> jax.Array:
    parts = max(PARTS, values.shape[-1] // _LONGEST)
    return functools.reduce(combine, jnp.split(values, parts))


def lowest(values: jax.Array) -> jax.Array:
    """Minimum of int32 values of shape [S], S a multiple of `PARTS`."""
    return jnp.min(_fold(jnp.minimum, values))


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


def put(old: jax.Array, condition: jax.Array, place: jax.Array, new: Any) -> jax.Array:
    """Values of shape [S] with `new` at `place` if `condition` holds.

    A scatter works in place, where a masked choice over all slots does not: XLA:CPU gives its
    result the memory of `old`, and LLVM then refuses to vectorize it.

    Args:
      old: Values, [S].
      condition: Whether to replace one, [].
      place: Where, [].
      new: What to put there, [].
    """
    place = jnp.where(condition, place, np.int32(old.shape[-1]))
    return old.at[place].set(new, mode="drop")


def ascending(values: list[jax.Array]) -> list[jax.Array]:
    """A few scalars, ascending."""
    for last in range(len(values) - 1, 0, -1):
        for i in range(last):
            pair = values[i], values[i + 1]
            values[i], values[i + 1] = jnp.minimum(*pair), jnp.maximum(*pair)
    return values


class Loops(Home):
    """What a step stands on in a loop of XLA, under `vmap` over the lanes.

    Args:
      one: A 1 that the compiler cannot see through.
    """

    def __init__(self, one: jax.Array) -> None:
        self._one = one

    def lowest(self, values: jax.Array) -> jax.Array:
        return lowest(values)

    def highest(self, values: jax.Array) -> jax.Array:
        return jnp.max(_fold(jnp.maximum, values))

    def total(self, values: jax.Array) -> jax.Array:
        return jnp.sum(_fold(jnp.add, values), dtype=np.int32)

    def settle(self, *values: jax.Array) -> tuple[jax.Array, ...]:
        return settle(self._one, *values)

    def put(self, old: Any, condition: jax.Array, place: jax.Array, new: Any) -> Any:
        return None if old is None else put(old, condition, place, new)

    def put_all(self, old: _T, places: Sequence[jax.Array], new: Sequence[_T]) -> _T:
        where = jnp.stack(places)
        return jax.tree.map(
            lambda array, *values: array.at[where].set(jnp.stack(values), mode="drop"), old, *new
        )

    def pick(self, array: Any, place: jax.Array) -> Any:
        return None if array is None else array.at[place].get(mode="promise_in_bounds")

    def lookup(self, table: Any, place: jax.Array) -> jax.Array:
        (place,) = self.settle(place)
        return table.at[place].get(mode="promise_in_bounds")

    def each(self, function: Callable[[Any], _T], count: int) -> list[_T]:
        found = jax.vmap(function)(lax.iota(np.int32, count))
        return [jax.tree.map(lambda leaf, i=i: leaf[i], found) for i in range(count)]

    def first_places(
        self, free: jax.Array, count: int, several: jax.Array | None = None
    ) -> list[jax.Array]:
        """The lowest place of each of `count` parts of the slots, in order."""
        width = free.shape[-1]
        places = jnp.where(free, lax.iota(np.int32, width), np.int32(width))
        folded = _fold(jnp.minimum, places)
        if folded.shape[-1] % count:
            return [jnp.min(folded), *[jnp.int32(width)] * (count - 1)]
        found = list(jnp.min(folded.reshape(count, -1), axis=1))
        return ascending(found)

    def when(self, condition: jax.Array, function: Callable[[_T], _T], state: _T) -> _T:
        return function(state)
