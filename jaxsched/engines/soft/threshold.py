"""Shares of requests up to a threshold that memory sets.

A scheduler takes requests in the order of a key until memory is full. Softly, request i is taken
to the share sigmoid((z - key_i) / temperature), and memory says where the threshold z lies: at the
root of an increasing function. The root is found by Newton's method within a bracket; its
derivative is that of an implicit function, so that a request that moves up in the order pushes
others out.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero

SAVED = "threshold"
"""Name of what checkpoints keep: roots and sums over the requests, small and dear to find again."""

SPAN = 16.0
"""How far beyond the outermost key a threshold may lie, in temperatures."""

BEYOND = 1e6
"""A threshold beyond all keys, and with a minus before them."""

TRIES = 60
"""Most steps of a search for a root, about twice what halving alone takes."""

_VARIANCE_FLOOR = 256e-6
_BLOCK = 32
_SHARPENED = 10.0


def saved(value: Array) -> Array:
    """The value, which the way back does not find again."""
    return checkpoint_name(value, SAVED)


def standardize(key: Array, mass: Array) -> Array:
    """(key - mean) / deviation over the mass, of shape [n].

    The hard order does not change when all keys are scaled or shifted; so neither does the soft.
    """
    whole = saved(total(mass)) + 1e-6
    centred = key - spread(saved(total(mass * key)) / whole, key)
    variance = saved(total(mass * centred**2)) / whole
    return centred * spread(1 / jnp.sqrt(variance + _VARIANCE_FLOOR), key)


def bracket(key: Array, mass: Array, temperature: Array) -> tuple[Array, Array]:
    """Thresholds so low and so high that all keys with any mass lie within."""
    present = mass > 1e-6
    low = jnp.min(jnp.where(present, key, BEYOND))
    high = jnp.max(jnp.where(present, key, -BEYOND))
    some = low <= high
    low, high = jnp.where(some, low, -1.0), jnp.where(some, high, 1.0)
    return low - SPAN * temperature, high + SPAN * temperature


def root(
    key: Array,
    weight: Array,
    amount: Array,
    temperature: Array,
    ends: tuple[Array, Array],
    guess: Array,
) -> Array:
    """The z where the shares sigmoid((z - key) / temperature) of the weights come to an amount.

    Newton's method on the logit of the part of all weights that is taken: of one key that is a
    straight line in z, and of many it is nearly one. Where it leaves the bracket, or its steps do
    not halve, the bracket is halved. Without a derivative, which `implicit` has.

    Args:
      key: Of shape [n], like the weights; not negative ones.
      weight: As above.
      amount: Of shape [].
      temperature: Of shape [].
      ends: Least and largest z.
      guess: Where to begin, if it lies between.

    Returns:
      z, of shape []; -BEYOND if the amount is not above 0, BEYOND if all weights do not come to it.
    """
    # Before the first key and beyond the last one the shares come to this little, or lack it.
    whole, little = total(weight), math.exp(-SPAN)
    none, all_ = amount <= little * whole, amount >= (1 - little) * whole
    eps = float(jnp.finfo(key.dtype).eps)
    # All in temperatures from here on.
    key, low, high, guess = (x / temperature for x in (key, *ends, guess))
    odds = (whole - amount) / jnp.where(none, 1.0, amount)

    def unsettled(state: Array) -> Array:
        _, _, z, step, count = state
        # A step of Newton's method squares the error, which on logits is less still.
        return (jnp.abs(step) > jnp.maximum(eps**0.42, 4 * eps * jnp.abs(z))) & (count < TRIES)

    def improve(state: Array) -> Array:
        low, high, z, last, count = state
        part = jax.nn.sigmoid(z - key)
        shares = weight * part
        taken, slope = total(shares), total(shares - shares * part)
        left = whole - taken
        low, high = jnp.where(taken > amount, low, z), jnp.where(taken > amount, z, high)
        known = (taken > 0) & (left > 0) & (slope > 0)
        ratio = jnp.where(known, taken * odds / jnp.where(known, left, 1.0), 1.0)
        newton = jnp.log(ratio) * taken * left / (whole * jnp.where(known, slope, 1.0))
        good = (2 * jnp.abs(newton) <= jnp.abs(last)) & known
        good &= (low <= z - newton) & (z - newton <= high)
        step = jnp.where(good, newton, z - (low + high) / 2)
        return jnp.stack([low, high, z - step, step, count + 1])

    z = jnp.where((low < guess) & (guess < high), guess, (low + high) / 2)
    # One array, not five: under `vmap` each is a pass of its own.
    start = jnp.stack([low, high, z, jnp.where(none | all_, 0.0, high - low), jnp.zeros_like(z)])
    z = lax.while_loop(unsettled, improve, start)[2] * temperature
    return jnp.where(none, -BEYOND, jnp.where(all_, BEYOND, z))


@jax.custom_jvp
def implicit(
    z: Array,
    key: Array,
    weight: Array,
    amount: Array,
    temperature: Array,
    least: Array | None = None,
) -> Array:
    """A root z with the derivative of an implicit function.

    Going forth it takes nothing: what its derivative needs is found where that is.

    Args:
      z: From `root`, whose arguments follow; its derivative is with respect to these.
      key: As there.
      weight: As there.
      amount: As there.
      temperature: As there.
      least: Weights whose shares rise with z at least as fast as those of `weight` are taken to,
        to damp the derivative of z; `None` for those as they are.
    """
    return z


@functools.partial(implicit.defjvp, symbolic_zeros=True)
def _implicit_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    z, key, weight, _, temperature, least = primals
    _, key_dot, weight_dot, amount_dot, temperature_dot, _ = tangents
    distance = (z - key) / temperature
    part = jax.nn.sigmoid(distance)
    steepness = part * (1 - part) / temperature
    slope = total(weight * steepness)
    steep = slope > 1e-9
    if least is not None:
        slope = jnp.maximum(slope, total(least * steepness))
    # How much more the shares come to than the amount, were z to stand still.
    terms = [
        (weight_dot, lambda dot: total(part * dot)),
        (key_dot, lambda dot: -total(weight * steepness * dot)),
        (temperature_dot, lambda dot: -total(weight * steepness * distance) * dot),
        (amount_dot, lambda dot: -dot),
    ]
    given = [term(dot) for dot, term in terms if not isinstance(dot, SymbolicZero)]
    more = sum(given, start=jnp.zeros_like(z))
    return z, -more * jnp.where(steep, 1 / jnp.where(steep, slope, 1.0), 0.0)


@jax.custom_vjp
def share(distance: Array, mass: Array, temperature: Array) -> Array:
    """sigmoid(distance / temperature), sharpened to a power below a temperature of 0.01.

    A request at the threshold fits in part. The hard simulator takes it whole or not at all, and
    it is the latter, since it did not fit: the power 1 / hardness tends to that, slower than the
    temperature, so that requests of nearly equal keys are told apart before. While many lie at the
    threshold, a part of each stands for some of them, and there is no power.
    """
    cold = temperature < 1 / _SHARPENED**2
    return lax.cond(cold, _sharpened, _plain, distance, mass, temperature)


def _plain(distance: Array, mass: Array, temperature: Array) -> Array:
    return jax.nn.sigmoid(distance / temperature)


def _sharpened(distance: Array, mass: Array, temperature: Array) -> Array:
    part = jax.nn.sigmoid(distance / temperature)
    many = jnp.maximum(1.0, total(4 * mass * part * (1 - part)))
    hardness = 1 - (1 - _SHARPENED * jnp.sqrt(temperature)) / many
    return jnp.exp(-jax.nn.softplus(-distance / temperature) / hardness)


def _share_forth(*given: Array) -> tuple[Array, Any]:
    found = share(*given)
    return found, (found, *given)


def _share_back(given: Any, slope: Array) -> Any:
    def plain(part: Array, distance: Array, mass: Array, temperature: Array) -> Any:
        of_it = slope * part * (1 - part) / temperature
        return of_it, jnp.zeros_like(mass), -total(of_it * distance) / temperature

    def sharpened(_: Array, *given: Array) -> Any:
        return jax.vjp(_sharpened, *given)[1](slope)

    # Nothing of the rarer one is kept, so that the other one is as fast as it alone.
    return lax.cond(given[-1] < 1 / _SHARPENED**2, sharpened, plain, *given)


share.defvjp(_share_forth, _share_back)


def total(values: Array) -> Array:
    """The sum of values of shape [n], as a product.

    XLA:CPU takes what leads to a sum into it, and is slower with both than one after the other.
    """
    return jnp.matmul(values, np.ones(values.shape[-1], values.dtype), precision="highest")


def spread(value: Array, like: Array) -> Array:
    """A value of shape [] for each of [n]; what a derivative brings back is added by `total`."""
    return jnp.matmul(value[None], np.ones((1, *like.shape), like.dtype), precision="highest")


def cumulative(values: Array) -> Array:
    """Running sums along the last axis; short ones as products with a triangle of ones.

    `jnp.cumsum` takes several times as long on CPUs, and this is most of a step.
    """
    length = values.shape[-1]
    lead, rows = values.shape[:-1], -(-length // _BLOCK)
    padded = jnp.pad(values, [(0, 0)] * len(lead) + [(0, rows * _BLOCK - length)])
    blocks = padded.reshape(*lead, rows, _BLOCK)
    ones = np.triu(np.ones((_BLOCK, _BLOCK), values.dtype))
    all_before = np.triu(np.ones((rows, rows), values.dtype), 1)
    # Accelerators would round what goes into a product.
    within = jnp.matmul(blocks, ones, precision="highest")
    before = jnp.matmul(within[..., -1], all_before, precision="highest")
    return (within + before[..., None]).reshape(*lead, rows * _BLOCK)[..., :length]
