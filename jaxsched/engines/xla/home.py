"""What the scheduler's step stands on, in three forms.

A step is written once, for one lane. It looks numbers up in tables, puts one number into an array,
and reduces arrays.

- `fold.Loops`, a loop of XLA over a pool of lanes: gathers, scatters and folded reductions, which a
  CPU compiles well.
- `wide.Wide`, such a loop over thousands of lanes: gathers, masked choices and plain reductions,
  which are few kernels.
- `kernel.Chip`, a kernel that has a lane's arrays in registers: loads, masked choices and plain
  reductions, and what is not needed is branched over.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_T = TypeVar("_T")


class Home(abc.ABC):
    """The operations; arrays of slots have shape [S], everything else is a scalar."""

    @abc.abstractmethod
    def lowest(self, values: jax.Array) -> jax.Array:
        """Minimum of int32 values, [S]."""

    @abc.abstractmethod
    def highest(self, values: jax.Array) -> jax.Array:
        """Maximum of int32 values, [S]."""

    @abc.abstractmethod
    def total(self, values: jax.Array) -> jax.Array:
        """Sum of int32 values, [S]."""

    @abc.abstractmethod
    def settle(self, *values: jax.Array) -> tuple[jax.Array, ...]:
        """Scalars, int32 or bool, in a form that is not computed again at each use."""

    @abc.abstractmethod
    def put(self, old: Any, condition: jax.Array, place: jax.Array, new: Any) -> Any:
        """Values [S] with `new` at `place` if `condition` holds; `None` of `None`."""

    @abc.abstractmethod
    def put_all(self, old: _T, places: Sequence[jax.Array], new: Sequence[_T]) -> _T:
        """Arrays [S] with these at those places; past the end for who is left out, as the last."""

    @abc.abstractmethod
    def pick(self, array: Any, place: jax.Array) -> Any:
        """The value at a place of an array that is carried, [S]; `None` of `None`."""

    @abc.abstractmethod
    def lookup(self, table: Any, place: jax.Array) -> jax.Array:
        """The value at a place of a table that is only read."""

    @abc.abstractmethod
    def each(self, function: Callable[[Any], _T], count: int) -> list[_T]:
        """What a function of scalars gives for 0, 1, ..., `count` - 1."""

    @abc.abstractmethod
    def first_places(
        self, free: jax.Array, count: int, several: jax.Array | None = None
    ) -> list[jax.Array]:
        """At most `count` places where a mask [S] holds, ascending, then S; one if there is any.

        Unless `several` are asked for, one may be all; `None` if `count` is 1.
        """

    @abc.abstractmethod
    def when(self, condition: jax.Array, function: Callable[[_T], _T], state: _T) -> _T:
        """`function(state)`, which must give back the state if the condition does not hold."""

    def first(self, key: jax.Array, index: jax.Array) -> tuple[Any, jax.Array]:
        """Where the smallest (key, index) pair is, in a form for `put` and `pick`, and its index.

        Of several equal ones, which place does not matter.
        """
        place = self.place_of_first(key, index)
        return place, self.pick(index, place)

    def place_of_first(self, key: jax.Array, index: jax.Array) -> jax.Array:
        """Position of the smallest (key, index) pair, [S]; three minima are cheaper than argmin."""
        none = np.int32(2**31 - 1)
        (least,) = self.settle(self.lowest(key))
        (first,) = self.settle(self.lowest(jnp.where(key == least, index, none)))
        here = (key == least) & (index == first)
        return self.lowest(jnp.where(here, places_of(key), np.int32(key.shape[-1] - 1)))


class Masked(Home):
    """Masked choices and plain reductions, for where arrays of slots are read as a whole anyway.

    A place may also be given as where it is, [S] bool.
    """

    def lowest(self, values: jax.Array) -> jax.Array:
        return jnp.min(values)

    def highest(self, values: jax.Array) -> jax.Array:
        return jnp.max(values)

    def total(self, values: jax.Array) -> jax.Array:
        return jnp.sum(values, dtype=np.int32)

    def settle(self, *values: jax.Array) -> tuple[jax.Array, ...]:
        return values

    def put(self, old: Any, condition: jax.Array, place: jax.Array, new: Any) -> Any:
        return None if old is None else jnp.where(_at(old, place) & condition, new, old)

    def put_all(self, old: _T, places: Sequence[jax.Array], new: Sequence[_T]) -> _T:
        for place, values in zip(places, new, strict=True):
            old = jax.tree.map(
                lambda a, x, place=place: jnp.where(_at(a, place), x, a), old, values
            )
        return old

    def pick(self, array: Any, place: jax.Array) -> Any:
        return None if array is None else self.total(jnp.where(_at(array, place), array, 0))


def places_of(array: jax.Array) -> jax.Array:
    """0, 1, ..., S - 1 of an array [S]."""
    return lax.iota(np.int32, array.shape[-1])


def _at(array: jax.Array, place: jax.Array) -> jax.Array:
    return place if place.ndim else places_of(array) == place
