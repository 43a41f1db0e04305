"""The order of the expected ends, which a step sorts once."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxsched.machine.optional import can_import


def descending(values: Array) -> Array:
    """The order of values of shape [n] that are not negative, the largest first; int32.

    They are packed with their indices into integers, for XLA:CPU takes five times as long to sort
    floats, or pairs. That rounds them, to eps times the largest times their number at the worst; of
    equal ones the first goes first.
    """
    bits = (values.size - 1).bit_length()
    integer = np.dtype(f"int{8 * values.dtype.itemsize}")
    levels = 2.0 ** (8 * integer.itemsize - 1 - bits) * (1 - 2.0**-20)
    rank = (levels * (1 - values / jnp.maximum(jnp.max(values), 1.0))).astype(integer)
    packed = rank << bits | jnp.arange(values.size, dtype=integer)
    return (_sorted(packed) & integer.type(2**bits - 1)).astype(np.int32)


def _sorted(values: Array) -> Array:
    if values.dtype != np.int32 or not can_import("jaxsched.engines.soft.sorting"):
        return _by_xla(values)
    from jaxsched.engines.soft import sorting  # noqa: PLC0415 - numba is optional, slow to import

    return lax.platform_dependent(values, cpu=sorting.sort, default=_by_xla)


def _by_xla(values: Array) -> Array:
    return lax.sort(values, is_stable=False)
