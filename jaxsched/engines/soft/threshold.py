"""Shares of requests up to a threshold that memory sets.

A scheduler takes requests in the order of a key until memory is full. Softly, request i is taken
to the share sigmoid((z - key_i) / temperature), and memory says where the threshold z lies: at the
root of an increasing function. The root is found by bisection; its derivative is that of an
implicit function, so that a request that moves up in the order pushes others out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

SAVED = "threshold"
"""Name of what checkpoints keep: the roots, which are dear to find again."""

SPAN = 16.0
"""How far beyond the outermost key a threshold may lie, in temperatures."""

ITERATIONS = 24
"""Bisections of a bracket; a Newton step in the end squares what is left of the error."""

_FAR = 1e6
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
    function: Callable[..., Array],
    ends: tuple[Array, Array],
    *arguments: Any,
    least_slope: Callable[[Array], Array] | None = None,
) -> Array:
    """The z between the ends with function(z, *arguments) = 0, or one far beyond if there is none.

    Args:
      function: Increasing in z.
      ends: Least and largest z.
      arguments: What the derivative of z is with respect to; 0 where there is no root.
      least_slope: z -> a slope of the function that its derivative is at least taken to have, to
        damp the derivative of z; `None` for that derivative as it is.
    """
    ends, fixed = lax.stop_gradient((ends, arguments))
    none, all_ = function(ends[0], *fixed) >= 0, function(ends[1], *fixed) <= 0

    def halve(_: int, between: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = between
        middle = (low + high) / 2
        over = function(middle, *fixed) > 0
        return jnp.where(over, low, middle), jnp.where(over, middle, high)

    low, high = lax.fori_loop(0, ITERATIONS, halve, ends)
    z = checkpoint_name((low + high) / 2, SAVED)
    value, slope = jax.jvp(lambda z: function(z, *fixed), (z,), (jnp.ones_like(z),))
    steep = slope > 1e-9
    slope = jnp.where(steep, slope, 1.0)
    # Twice the width that bisection leaves: a Newton step is for the last digits only.
    step = jnp.clip(value / slope, low - high, high - low)
    damped = slope if least_slope is None else jnp.maximum(slope, least_slope(z))
    implicit = (function(z, *arguments) - value) / lax.stop_gradient(damped)
    z = z - jnp.where(steep, step + implicit, 0.0)
    return jnp.where(none, -_FAR, jnp.where(all_, _FAR, z))


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
