"""64-bit integers as two 32-bit halves: JAX has no others by default."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def to_limbs(total: jax.Array) -> jax.Array:
    """Splits int64 of shape [...] into uint32 limbs of shape [..., 2], high first."""
    with jax.enable_x64(True):
        bits = total.astype(jnp.uint64)
        high = (bits >> np.uint64(32)).astype(jnp.uint32)
        return jnp.stack([high, bits.astype(jnp.uint32)], axis=-1)


def split(total: np.ndarray) -> np.ndarray:
    """The same for a numpy array."""
    bits = total.astype(np.uint64)
    return np.stack([bits >> np.uint64(32), bits & np.uint64(2**32 - 1)], axis=-1).astype(np.uint32)


def join(limbs: Any) -> Any:
    """int64 of shape [...] from uint32 limbs of shape [..., 2]; JAX's if they are traced."""
    if isinstance(limbs, jax.core.Tracer):
        return join_traced(limbs)
    high, low = (np.asarray(limbs)[..., i].astype(np.int64) for i in (0, 1))
    return (high << np.int64(32)) | low


def join_traced(limbs: jax.Array) -> jax.Array:
    """The same as JAX's int64 whether traced or not."""
    with jax.enable_x64(True):
        high, low = (limbs[..., i].astype(jnp.int64) for i in (0, 1))
        return (high << np.int64(32)) | low
