"""64-bit integers as pairs of 32-bit ones, at the border of `jit`: JAX has no others by default.

Only what enters or leaves a traced computation is in pairs: arrivals and clocks in picoseconds, and
the totals and times of a `Result`. Outside `jit` all of them are numpy's int64.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def split(whole: Any) -> Any:
    """int64 of shape [...] as uint32 of shape [..., 2], high first; JAX's if it is traced."""
    if isinstance(whole, jax.core.Tracer):
        with jax.enable_x64(True):
            bits = whole.astype(jnp.uint64)
            high = (bits >> np.uint64(32)).astype(jnp.uint32)
            return jnp.stack([high, bits.astype(jnp.uint32)], axis=-1)
    bits = np.asarray(whole).astype(np.uint64)
    return np.stack([bits >> np.uint64(32), bits & np.uint64(2**32 - 1)], axis=-1).astype(np.uint32)


def join(pairs: Any) -> Any:
    """The inverse of `split`."""
    if isinstance(pairs, jax.core.Tracer):
        with jax.enable_x64(True):
            high, low = (pairs[..., i].astype(jnp.int64) for i in (0, 1))
            return (high << np.int64(32)) | low
    high, low = (np.asarray(pairs)[..., i].astype(np.int64) for i in (0, 1))
    return (high << np.int64(32)) | low


def whole(value: Any) -> Any:
    """Integers, whether they are in pairs or not."""
    return join(value) if value.dtype == np.uint32 else value
