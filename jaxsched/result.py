"""What a simulation says: completion times and exact totals per lane."""

from __future__ import annotations

import enum
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsched.arrays import Pytree, unpaired
from jaxsched.clocks.formula import TICKS_PER_SECOND


class Status(enum.IntEnum):
    """How a lane ended."""

    FINISHED = 0
    """Every request completed."""
    ROUND_LIMIT = 1
    """The lane reached its round limit with requests unfinished; their completion is -1."""
    INVALID = 2
    """The lane failed a check inside `jit` and was not simulated (outside, it is refused)."""


class Result(Pytree):
    """The outcome of a batch of simulations; leading axes are lanes.

    Totals can pass 2**31. Outside `jit` they are numpy's int64. JAX has no 64-bit integers by
    default, so they leave a `jit` in pairs (`jaxsched.arrays`) and are joined on reading. Inside
    that gives a 64-bit JAX array that is exact when returned, but unless `jax_enable_x64` is on,
    JAX cuts integer arithmetic on it to 32 bits, with a warning: return it, or use `mean_latency`.

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
      totals: What `total_latency`, `wasted_tokens` and `memory_time` read, of shape [..., 3] int64,
        or in pairs.
      num_requests: Real requests of each lane, of shape [...] int32.
      times: Under a clock what `ticks` reads, of shape [..., n, 3] int64, or in pairs; else `None`.
      history: Every evicted run: request, round of admission, round of eviction, in order of
        eviction and -1 padded, of shape [..., E, 3] int32; `None` unless it was asked for. On the
        worker of a serving engine a fourth number is the tokens that the request has at the end of
        the run, and the last n rows are the runs in which requests completed.
    """

    completion: chex.Array
    first_token: chex.Array
    preemptions: chex.Array
    evictions: chex.Array
    peak_memory: chex.Array
    rounds: chex.Array
    status: chex.Array
    totals: chex.Array
    num_requests: chex.Array
    times: chex.Array | None = None
    history: chex.Array | None = None

    @property
    def total_latency(self) -> Any:
        """Sum over finished requests of completion minus arrival, in rounds, of shape [...].

        Raises:
          ValueError: Under a clock, where arrivals are no rounds.
        """
        self._expect_clock(False, "total_latency")
        return unpaired(self.totals)[..., 0][()]

    @property
    def wasted_tokens(self) -> Any:
        """Tokens lost to evictions, of shape [...]."""
        return unpaired(self.totals)[..., 1][()]

    @property
    def memory_time(self) -> Any:
        """Sum over the rounds of the KV cache in use, in token-rounds, of shape [...].

        Complete, evicted and cut-off runs all count.
        """
        return unpaired(self.totals)[..., 2][()]

    @property
    def mean_latency(self) -> Any:
        """Total latency over the requests of the lane, in rounds, of shape [...].

        A number for finished lanes: the total leaves out requests that the round limit cut off.
        0 for a lane without requests; float32 inside `jit`, float64 outside.

        Raises:
          ValueError: Under a clock; use `completion_seconds`, or `jaxsched.metrics`.
        """
        if isinstance(self.totals, jax.core.Tracer):
            total = self.total_latency.astype(jnp.float32)
            return total / jnp.maximum(self.num_requests, 1).astype(jnp.float32)
        return self.total_latency / np.maximum(np.asarray(self.num_requests), 1)

    @property
    def ticks(self) -> Any:
        """Times in picoseconds, int64 of shape [..., n, 3]; -1 where there was none.

        The start of the round of the first admission, the end of the round of the first token in
        the first run, and the end of the round of the last token.

        Raises:
          ValueError: Without a clock.
        """
        self._expect_clock(True, "ticks")
        return unpaired(self.times)

    @property
    def admission_seconds(self) -> Any:
        """Start of the round in which each request was first admitted, of shape [..., n].

        In seconds, -1 where there was none; float32 inside `jit` unless `jax_enable_x64` is on.
        """
        return self._seconds(0)

    @property
    def first_token_seconds(self) -> Any:
        """When a client has the first token of each request, as `admission_seconds`."""
        return self._seconds(1)

    @property
    def completion_seconds(self) -> Any:
        """When a client has the last token of each request, as `admission_seconds`."""
        return self._seconds(2)

    def _seconds(self, which: int) -> Any:
        ticks = self.ticks[..., which]
        if not isinstance(ticks, jax.core.Tracer):
            return np.where(ticks < 0, -1.0, ticks / TICKS_PER_SECOND)
        with jax.enable_x64(True):
            exact = ticks.astype(jnp.float64) / np.float64(TICKS_PER_SECOND)
            seconds = jnp.where(ticks < 0, np.float64(-1), exact)
        return (
            seconds
            if jax.config.read("jax_enable_x64")
            else lax.convert_element_type(seconds, np.float32)
        )

    def _expect_clock(self, clock: bool, name: str) -> None:
        if (self.times is not None) != clock:
            state = "without a clock" if clock else "under a clock"
            raise ValueError(f"{name}: there is none {state}; see the docstring of Result")
