"""Shares of requests up to a threshold that memory sets.

A scheduler takes requests in the order of a key until memory is full. Softly, request i is taken
to the share sigmoid((z - key_i) / temperature), and memory says where the threshold z lies: at the
root of an increasing function. The root is found by Newton's method within a bracket; its
derivative is that of an implicit function, so that a request that moves up in the order pushes
others out.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

SAVED = "threshold"
"""Name of what checkpoints keep: the roots, which are dear to find again."""

SPAN = 16.0
"""How far beyond the outermost key a threshold may lie, in temperatures."""

FAR = 1e6
"""A threshold beyond all keys, and with a minus before them."""

MOST = 60
"""Most steps of a search for a root, about twice what halving alone takes."""

_VARIANCE_FLOOR = 256e-6
_BLOCK = 32


def standardize(key: Array, mass: Array) -> Array:
    """(key - mean) / deviation over the mass, of shape [n].

    The hard order does not change when all keys are scaled or shifted; so neither does the soft.
    """
    total = jnp.sum(mass) + 1e-6
    mean = jnp.sum(mass * key) / total
    variance = jnp.sum(mass * (key - mean) ** 2) / total
    return (key - mean) / jnp.sqrt(variance + _VARIANCE_FLOOR)


def bracket(key: Array, mass: Array, temperature: Array) -> tuple[Array, Array]:
    """Thresholds so low and so high that all keys with any mass lie within."""
    present = mass > 1e-6
    some = jnp.any(present)
    low = jnp.where(some, jnp.min(jnp.where(present, key, np.inf)), -1.0)
    high = jnp.where(some, jnp.max(jnp.where(present, key, -np.inf)), 1.0)
    return low - SPAN * temperature, high + SPAN * temperature


def root(
    function: Callable[[Array], tuple[Array, Array]],
    ends: tuple[Array, Array],
    guess: Array,
    temperature: Array,
    sought: Array,
) -> Array:
    """The z between the ends where the function is 0, of shape [] and without a derivative.

    Newton's method; where it leaves the bracket, or its steps do not halve, the bracket is halved.

    Args:
      function: z -> (value, slope), the value increasing from below 0 to above it.
      ends: Least and largest z.
      guess: Where to begin, if it lies between.
      temperature: How z is scaled: what is left after a step of sqrt(eps) temperatures is eps.
      sought: Whether there is a root; where not, nothing is spent on it.
    """
    low, high = ends
    z = jnp.where((low < guess) & (guess < high), guess, (low + high) / 2)
    eps = float(jnp.finfo(z.dtype).eps)

    def unsettled(state: tuple[Array, ...]) -> Array:
        _, _, z, step, count = state
        small = jnp.maximum(eps**0.5 * temperature, 4 * eps * jnp.abs(z))
        return (jnp.abs(step) > small) & (count < MOST)

    def improve(state: tuple[Array, ...]) -> tuple[Array, ...]:
        low, high, z, last, count = state
        value, slope = function(z)
        low, high = jnp.where(value > 0, low, z), jnp.where(value > 0, z, high)
        newton = value / jnp.where(slope > 0, slope, 1.0)
        good = (2 * jnp.abs(newton) <= jnp.abs(last)) & (slope > 0)
        good &= (low <= z - newton) & (z - newton <= high)
        step = jnp.where(good, newton, z - (low + high) / 2)
        return low, high, z - step, step, count + 1

    start = low, high, z, jnp.where(sought, high - low, 0.0), jnp.zeros((), np.int32)
    found = lax.while_loop(unsettled, improve, lax.stop_gradient(start))[2]
    return checkpoint_name(found, SAVED)


def implicit(z: Array, value: Array, slope: Array) -> Array:
    """A root z with the derivative of an implicit function.

    Args:
      z: Where a function of z and of some arguments is 0, of shape [].
      value: The function there, with the derivative with respect to the arguments.
      slope: Its derivative with respect to z, or more, which damps the derivative of z; where it
        is 0, so is that.
    """
    steep = slope > 1e-9
    moved = (value - lax.stop_gradient(value)) / jnp.where(steep, lax.stop_gradient(slope), 1.0)
    return z - jnp.where(steep, moved, 0.0)


def share(distance: Array, mass: Array, temperature: Array) -> Array:
    """sigmoid(distance / temperature), sharpened to a power as the temperature falls.

    A request at the threshold fits in part. The hard simulator takes it whole or not at all, and
    it is the latter, since it did not fit: the power 1 / hardness tends to that, slower than the
    temperature, so that requests of nearly equal keys are told apart before. While many lie at the
    threshold, a part of each stands for some of them, and there is no power.
    """
    part = jax.nn.sigmoid(distance / temperature)
    many = jnp.maximum(1.0, jnp.sum(4 * mass * part * (1 - part)))
    hardness = 1 - (1 - jnp.minimum(1.0, 10 * jnp.sqrt(temperature))) / many
    return jnp.exp(-jax.nn.softplus(-distance / temperature) / hardness)


def cumulative(values: Array) -> Array:
    """Running sums along the last axis; short ones as products with a triangle of ones.

    `jnp.cumsum` takes several times as long on CPUs, and this is most of a step.
    """
    length = values.shape[-1]
    lead, rows = values.shape[:-1], -(-length // _BLOCK)
    padded = jnp.pad(values, [(0, 0)] * len(lead) + [(0, rows * _BLOCK - length)])
    within = padded.reshape(*lead, rows, _BLOCK) @ np.triu(np.ones((_BLOCK, _BLOCK), values.dtype))
    before = within[..., -1] @ np.triu(np.ones((rows, rows), values.dtype), 1)
    return (within + before[..., None]).reshape(*lead, rows * _BLOCK)[..., :length]
