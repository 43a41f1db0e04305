"""What only some simulations ask for, written at each border from the log of a chunk.

Under a clock: when requests were admitted, gave their first token, and completed. Every round after
an admission and every completion is a step of its lane, so its time is in the log. And on request,
every run that ended in an eviction.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxsched.arrays import Pytree
from jaxsched.engines.xla.state import NEVER, Event


class Timed(Pytree):
    """Times in picoseconds, by instance."""

    # start of the round of the first admission, end of that of the first token, end of that of the
    # last token; -1 where not yet; [N, n, 3] int64
    times: chex.Array
    rounds: chex.Array  # rounds that have passed, [N]


class EvictedRuns(Pytree):
    """Evicted runs, by instance."""

    # request, round of admission and of eviction, on a worker with blocks tokens generated too; -1
    # where none; [N, E, 3 or 4]
    entries: chex.Array
    count: chex.Array  # entries of each instance, [N]


def wide_zeros(shape: tuple[int, ...]) -> jax.Array:
    """int64 zeros."""
    with jax.enable_x64(True):
        return jnp.zeros(shape, jnp.int64)


def where_wide(condition: jax.Array, new: jax.Array | np.int64, old: jax.Array) -> jax.Array:
    """Chooses among int64."""
    with jax.enable_x64(True):
        return jnp.where(condition, new, old)


def no_times(shape: tuple[int, int]) -> Timed:
    """Nothing has happened yet in instances of shape [N, n]."""
    with jax.enable_x64(True):
        times = jnp.full((*shape, 3), -1, jnp.int64)
    return Timed(times=times, rounds=jnp.zeros(shape[:1], jnp.int32))


def no_runs(total: int, capacity: int, blocks: bool) -> EvictedRuns:
    """No evicted runs, with room for `capacity` of each instance."""
    return EvictedRuns(
        entries=jnp.full((total, capacity, 4 if blocks else 3), -1, jnp.int32),
        count=jnp.zeros((total,), jnp.int32),
    )


def write_times(
    timed: Timed,
    log: Event,
    row: jax.Array,
    last: jax.Array,
    first: jax.Array,
    output: jax.Array,
) -> Timed:
    """Adds the times of a chunk.

    Args:
      timed: So far.
      log: Of the chunk, [chunk, W].
      row: Instance of each lane, [W].
      last: `Records.last` of those, [W, n].
      first: `Records.first` of those, [W, n].
      output: What they generate from their last admission on, [W, n].
    """
    begun = jnp.where((last >= 0) & (last % 2 == 1), last // 2, NEVER)
    completed = jnp.where(begun < NEVER - output, begun + output, NEVER)
    first_token = jnp.where(first != NEVER, first + 1, NEVER)
    find = jax.vmap(_time_of, in_axes=(1, 1, 0))
    found = [find(log.time, log.clock, rounds) for rounds in (first_token, completed)]
    with jax.enable_x64(True):
        old = timed.times[row]
        new = jnp.stack([old[..., 0], *found], axis=-1)
        times = timed.times.at[row].set(jnp.where(old >= 0, old, new))
        entered = times[..., 0].astype(jnp.uint64)  # -1 is the largest
        clock, admitted = log.clock.astype(jnp.uint64)[..., None], jnp.stack(log.admitted, axis=-1)
        entered = entered.at[row[None, :, None], admitted].min(clock, mode="drop")
        entered = entered.astype(jnp.int64)
        return timed.replace(times=times.at[..., 0].set(entered))


def _time_of(steps: jax.Array, clock: jax.Array, rounds: jax.Array) -> jax.Array:
    """When the round before each of some rounds ended: at its first step, if that is in the log.

    Args:
      steps: Round of each step of a lane, ascending, [chunk].
      clock: Picoseconds at each, [chunk].
      rounds: Rounds to look up, [n].

    Returns:
      int64 picoseconds, -1 where there is no such step.
    """
    place = jnp.searchsorted(steps, rounds, side="left")
    place = jnp.minimum(place.astype(jnp.int32), np.int32(steps.shape[0] - 1))
    there = (steps[place] == rounds) & (rounds != NEVER)
    with jax.enable_x64(True):
        return jnp.where(there, clock[place], np.int64(-1))


def write_runs(runs: EvictedRuns, log: Event, row: jax.Array) -> EvictedRuns:
    """Adds the evictions of a chunk; [chunk, W] the log, [W] the instance of each lane."""
    evicted = log.evicted != NEVER
    before = jnp.cumsum(evicted, axis=0, dtype=np.int32) - evicted.astype(np.int32)
    place = jnp.where(evicted, runs.count[row][None, :] + before, NEVER)
    columns = [log.evicted, log.time - log.lost, log.time]
    if log.served is not None:
        columns = [log.evicted, log.served.admitted, log.time, log.served.kept]
    entry = jnp.stack(columns, axis=-1)
    rows = jnp.broadcast_to(row[None, :], place.shape)
    return EvictedRuns(
        entries=runs.entries.at[rows, place].set(entry, mode="drop"),
        count=runs.count.at[row].add(jnp.sum(evicted, axis=0, dtype=np.int32)),
    )
