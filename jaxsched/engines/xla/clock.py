"""A clock over jumps: how long the rounds of a jump last, and before which round a time comes.

Between two changes only the tokens generated grow, by one a round for each of D requests. With a
the length of the first of m rounds, and c_kv the time of a token in cache, they last

    m a + c_kv D m (m - 1) / 2

picoseconds, exactly. The prompts admitted count in the first round only; a jump over a round with
prompts is one round long.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxsched.clocks import Ticks, round_ticks

LAST_TICK = np.int64(2**62)
"""No round starts at this picosecond or later."""


def first_round(
    clock: jax.Array | tuple[jax.Array, ...], prefill: jax.Array, count: jax.Array, used: jax.Array
) -> jax.Array:
    """Picoseconds of a round.

    Args:
      clock: The six coefficients, int64.
      prefill: Prompt tokens admitted in it.
      count: Active requests.
      used: Memory in use.
    """
    with jax.enable_x64(True):
        return round_ticks(Ticks(*clock), *(x.astype(jnp.int64) for x in (prefill, count, used)))


def elapsed(first: jax.Array, growth: jax.Array, rounds: jax.Array) -> jax.Array:
    """Picoseconds of `rounds` rounds, the first lasting `first`, each `growth` longer; int64."""
    with jax.enable_x64(True):
        one = np.int64(1)
        return rounds * first + growth * ((rounds * (rounds - one)) >> one)


def rounds_until(
    need: jax.Array, first: jax.Array, growth: jax.Array, most: jax.Array
) -> jax.Array:
    """Fewest rounds, at least 1 and at most `most`, that last `need` picoseconds or longer.

    The root of the quadratic in float64 is off by less than one round in 2^30; integers decide.

    Args:
      need: int64, more than 0.
      first: Picoseconds of the first round, int64.
      growth: How much longer each is than the one before it, int64.
      most: int32.
    """
    with jax.enable_x64(True):
        a, b, c = (x.astype(jnp.float64) for x in (first, growth, need))
        linear = a - b * np.float64(0.5)
        root = np.float64(2) * c / (linear + jnp.sqrt(linear * linear + np.float64(2) * b * c))
        whole = most.astype(jnp.int64)
        guess = jnp.clip(root, np.float64(1), most.astype(jnp.float64)).astype(jnp.int64)
        found = jnp.maximum(guess - np.int64(1), np.int64(0))
        for _ in range(3):
            found = found + (elapsed(first, growth, found) < need).astype(jnp.int64)
        return jnp.clip(found, np.int64(1), jnp.maximum(whole, np.int64(1))).astype(jnp.int32)
