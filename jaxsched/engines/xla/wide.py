"""A step as loops of XLA over thousands of lanes, as few and as large kernels as can be.

On an accelerator what counts is how many kernels a step launches and how often arrays of all slots
are read. Plain reductions of the same slots become one kernel, and a masked choice over all slots
is fused with its neighbours, where a scatter or a gather is a kernel of its own.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsched.engines.xla.fold import Loops, ascending
from jaxsched.engines.xla.home import Masked, places_of


class Wide(Masked, Loops):
    """What a step stands on in a loop of XLA over a wide pool, under `vmap` over the lanes."""

    def first_places(
        self, free: jax.Array, count: int, several: jax.Array | None = None
    ) -> list[jax.Array]:
        """The lowest place of each of `count` parts of the slots, in order."""
        width = free.shape[-1]
        none, part = np.int32(width), -(-width // count)
        places = jnp.where(free, places_of(free), none)
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


def _first(key: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The smallest (key, index) and its place, in one reduction."""
    most = np.int32(2**31 - 1)

    def smaller(a: Any, b: Any) -> Any:
        before = (a[0] < b[0]) | ((a[0] == b[0]) & (a[1] < b[1]))
        before |= (a[0] == b[0]) & (a[1] == b[1]) & (a[2] < b[2])
        return tuple(jnp.where(before, x, y) for x, y in zip(a, b, strict=True))

    found = lax.reduce((key, index, places_of(key)), (most, most, most), smaller, (0,))
    return tuple(found)
