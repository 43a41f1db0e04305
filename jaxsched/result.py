"""What a simulation says: completion times and exact totals per lane."""

from __future__ import annotations

import enum
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np


class Status(enum.IntEnum):
    """How a lane ended."""

    FINISHED = 0
    """Every request completed."""
    ROUND_LIMIT = 1
    """The lane reached its round limit with requests unfinished; their completion is -1."""
    INVALID = 2
    """The lane failed a check inside `jit` and was not simulated (outside, it is refused)."""


@chex.dataclass(frozen=True, mappable_dataclass=False)
class Result:
    """The outcome of a batch of simulations; leading axes are lanes.

    Totals can pass 2**31 and JAX has no 64-bit integers by default, so they are carried as two
    32-bit limbs and joined on reading. Outside `jit` that gives exact numpy int64. Inside `jit` it
    gives a 64-bit JAX array that is exact when returned, but unless `jax_enable_x64` is on, JAX
    cuts integer arithmetic on it to 32 bits, with a warning: return it, or use `mean_latency`.

    Attributes:
      completion: Round in which each request left, of shape [..., n] int32; -1 where it did not
        finish, and for padding.
      first_token: Round after which a client has the first token (first admission + 1), of shape
        [..., n] int32; -1 where the request was never admitted.
      preemptions: Evictions of each request, of shape [..., n] int32.
      evictions: Evictions of a lane, of shape [...] int32.
      peak_memory: Largest per-round use of the KV cache, in tokens, of shape [...] int32.
      rounds: Largest completion round, of shape [...] int32; 0 when nothing finished.
      status: A `Status` per lane, of shape [...] int32.
      limbs: High and low 32 bits of the totals, of shape [..., 3, 2] uint32.
      num_requests: Real requests of each lane, of shape [...] int32.
    """

    completion: chex.Array
    first_token: chex.Array
    preemptions: chex.Array
    evictions: chex.Array
    peak_memory: chex.Array
    rounds: chex.Array
    status: chex.Array
    limbs: chex.Array
    num_requests: chex.Array

    @property
    def total_latency(self) -> Any:
        """Sum over finished requests of completion minus arrival, in rounds, of shape [...]."""
        return _join(self.limbs, 0)

    @property
    def wasted_tokens(self) -> Any:
        """Tokens lost to evictions, of shape [...]."""
        return _join(self.limbs, 1)

    @property
    def memory_time(self) -> Any:
        """Sum over the rounds of the KV cache in use, in token-rounds, of shape [...].

        Complete, evicted and cut-off runs all count.
        """
        return _join(self.limbs, 2)

    @property
    def mean_latency(self) -> Any:
        """Total latency over the requests of the lane, in rounds, of shape [...].

        A number for finished lanes: the total leaves out requests that the round limit cut off.
        0 for a lane without requests; float32 inside `jit`, float64 outside.
        """
        if isinstance(self.limbs, jax.core.Tracer):
            total = self.total_latency.astype(jnp.float32)
            return total / jnp.maximum(self.num_requests, 1).astype(jnp.float32)
        return self.total_latency / np.maximum(np.asarray(self.num_requests), 1)


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


def _join(limbs: Any, which: int) -> Any:
    if isinstance(limbs, jax.core.Tracer):
        with jax.enable_x64(True):
            high, low = (limbs[..., which, i].astype(jnp.int64) for i in (0, 1))
            return (high << np.int64(32)) | low
    high, low = (np.asarray(limbs)[..., which, i].astype(np.int64) for i in (0, 1))
    return (high << np.int64(32)) | low
