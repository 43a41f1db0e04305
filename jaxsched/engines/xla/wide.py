"""A step as loops of XLA over thousands of lanes, as few and as large kernels as can be.

On an accelerator what counts is how many kernels a step launches and how often arrays of all slots
are read. Plain reductions of the same slots become one kernel, and a masked choice over all slots
is fused with its neighbours, where a scatter or a gather is a kernel of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsched.engines.xla.fold import Loops, ascending

_T = TypeVar("_T")


class Wide(Loops):
    """What a step stands on in a loop of XLA over a wide pool, under `vmap` over the lanes."""

    def lowest(self, values: jax.Array) -> jax.Array:
        return jnp.min(values)

    def highest(self, values: jax.Array) -> jax.Array:
        return jnp.max(values)

    def total(self, values: jax.Array) -> jax.Array:
        return jnp.sum(values, dtype=np.int32)

    def settle(self, *values: jax.Array) -> tuple[jax.Array, ...]:
        return values

    def put(self, old: Any, condition: jax.Array, place: jax.Array, new: Any) -> Any:
        return None if old is None else jnp.where((_places(old) == place) & condition, new, old)

    def put_all(self, old: _T, places: Sequence[jax.Array], new: Sequence[_T]) -> _T:
        for place, values in zip(places, new, strict=True):
            here = _places(jax.tree.leaves(old)[0]) == place
            old = jax.tree.map(lambda a, x, here=here: jnp.where(here, x, a), old, values)
        return old

    def pick(self, array: Any, place: jax.Array) -> Any:
        return None if array is None else self.total(jnp.where(_places(array) == place, array, 0))

    def first_places(
        self, free: jax.Array, count: int, several: jax.Array | None = None
    ) -> list[jax.Array]:
        """The lowest place of each of `count` parts of the slots, in order."""
        width = free.shape[-1]
        none, part = np.int32(width), -(-width // count)
        places = jnp.where(free, _places(free), none)
        found = [
            self.lowest(jnp.where((places >= first) & (places < first + part), places, none))
            for first in range(0, count * part, part)
        ]
        return ascending(found)

    def place_of_first(self, key: jax.Array, index: jax.Array) -> jax.Array:
        return _first(key, index)[2]

    def first(self, key: jax.Array, index: jax.Array) -> tuple[Any, jax.Array]:
        _, index, place = _first(key, index)
        return place, index


def _places(array: jax.Array) -> jax.Array:
    return lax.iota(np.int32, array.shape[-1])


def _first(key: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The smallest (key, index) and its place, in one reduction."""
    most = np.int32(2**31 - 1)

    def smaller(a: Any, b: Any) -> Any:
        before = (a[0] < b[0]) | ((a[0] == b[0]) & (a[1] < b[1]))
        before |= (a[0] == b[0]) & (a[1] == b[1]) & (a[2] < b[2])
        return tuple(jnp.where(before, x, y) for x, y in zip(a, b, strict=True))

    found = lax.reduce((key, index, _places(key)), (most, most, most), smaller, (0,))
    return tuple(found)
