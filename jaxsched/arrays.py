"""Records of arrays, and 64-bit integers at the border of `jit`.

JAX has no 64-bit integers by default: what enters or leaves a traced computation is in pairs of
32-bit ones. These are arrivals and clocks in picoseconds, and the totals and times of a `Result`.
Outside `jit` all of them are numpy's int64.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Self, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np


@dataclass_transform(frozen_default=True)
class Pytree:
    """A base for frozen dataclasses whose fields are arrays, or trees of them: all are leaves."""

    def __init_subclass__(cls) -> None:
        jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True, eq=False)(cls))

    def replace(self, **changes: Any) -> Self:
        """The same but for some fields."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]


def split(whole: Any) -> Any:
    """int64 of shape [...] as uint32 of shape [..., 2], high first; JAX's if it is traced."""
    if isinstance(whole, jax.core.Tracer):
        with jax.enable_x64(True):
            wide = whole.astype(jnp.uint64)
            upper = (wide >> np.uint64(32)).astype(jnp.uint32)
            return jnp.stack([upper, wide.astype(jnp.uint32)], axis=-1)
    bits = np.asarray(whole).astype(np.uint64)
    return np.stack([bits >> np.uint64(32), bits & np.uint64(2**32 - 1)], axis=-1).astype(np.uint32)


def join(pairs: Any) -> Any:
    """The inverse of `split`."""
    if isinstance(pairs, jax.core.Tracer):
        with jax.enable_x64(True):
            upper, lower = (pairs[..., i].astype(jnp.int64) for i in (0, 1))
            return (upper << np.int64(32)) | lower
    high, low = (np.asarray(pairs)[..., i].astype(np.int64) for i in (0, 1))
    return (high << np.int64(32)) | low


def unpaired(value: Any) -> Any:
    """Integers, whether they are in pairs or not."""
    return join(value) if value.dtype == np.uint32 else value
