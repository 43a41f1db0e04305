"""The network around A_min on real numbers, for the relaxation (see docs/relaxation.md)."""

from __future__ import annotations

from typing import Any

import chex
import jax.numpy as jnp
from jax import Array, lax

from jaxsched.engines.soft import SoftPolicy
from jaxsched.policies import Running, View
from jaxsched.policies.network import (
    HEADS,
    LONGEST,
    MOST_EVICTIONS,
    WIDEST,
    NetworkParams,
    keep_rising,
)

KEY_UNITS = 1024
"""In an octave: what settles ties adds up to 1/32 to a key."""


@chex.dataclass(frozen=True, mappable_dataclass=False)
class Carried:
    """What a request carries in place of an estimate; shares of it mix as estimates do.

    Attributes:
      estimate: Of the output in tokens, [n].
      evictions: So far, [n].
    """

    estimate: Any
    evictions: Any

    def __add__(self, other: Carried) -> Carried:
        return Carried(
            estimate=self.estimate + other.estimate, evictions=self.evictions + other.evictions
        )

    def __sub__(self, other: Carried) -> Carried:
        return self + -1.0 * other

    def __rmul__(self, share: Array | float) -> Carried:
        return Carried(estimate=share * self.estimate, evictions=share * self.evictions)


def _estimate(view: View) -> Carried:
    estimate = jnp.minimum(view.lower, LONGEST)
    return Carried(estimate=estimate, evictions=jnp.zeros_like(estimate))


def _admission_key(carried: Carried, view: View) -> Array:
    return _key("admit", carried, view, jnp.zeros_like(view.prompt))


def _reserve(carried: Carried, view: View) -> Array:
    octaves = _net("reserve", carried, view, jnp.zeros_like(view.prompt))
    return carried.estimate * _exp2(octaves)


def _eviction_key(carried: Carried, running: Running) -> Array:
    return _key("evict", carried, running, running.generated)


def _refine(carried: Carried, running: Running) -> Carried:
    octaves = jnp.maximum(_net("grow", carried, running, running.generated), 0.0)
    seen = jnp.maximum(carried.estimate, running.generated)
    return Carried(
        estimate=jnp.minimum(seen * _exp2(octaves), LONGEST),
        evictions=jnp.minimum(carried.evictions + 1.0, MOST_EVICTIONS),
    )


def _key(head: str, carried: Carried, seen: View | Running, generated: Array) -> Array:
    octaves = jnp.clip(_net(head, carried, seen, generated), -64.0, 64.0)
    return KEY_UNITS * (_log2(carried.estimate) + octaves)


def _net(head: str, carried: Carried, seen: View | Running, generated: Array) -> Array:
    """Result of a head in octaves, of shape [n]."""
    estimate = carried.estimate
    features = [
        (_log2(seen.prompt) - 7.0) / 4,
        (_log2(estimate) - 7.0) / 4,
        (_log2(seen.prompt + estimate) - _log2(seen.memory) + 7.0) / 4,
        carried.evictions / 4,
        _log2(generated + 1.0) / 4,
        jnp.ones_like(estimate),
    ]
    inputs = jnp.stack(features)
    params, place = _risen(seen.params), HEADS.index(head)
    active = jnp.clip(params.hidden[place] @ inputs, 0.0, WIDEST)
    return params.linear[place] @ inputs + params.output[place] @ active


def _risen(params: NetworkParams) -> NetworkParams:
    """As `quantize` has it, without rounding."""
    kept = {name: jnp.clip(value, -WIDEST, WIDEST) for name, value in vars(params).items()}
    return keep_rising(NetworkParams(**kept), jnp)


def _log2(value: Array) -> Array:
    """log2 of values from 1 on, linear between the powers of 2."""
    value = jnp.maximum(value, 1.0)
    # Where rounding takes a power of 2 for the one before, the line goes through the same point.
    whole = jnp.floor(jnp.log2(lax.stop_gradient(value)))
    return whole + value * jnp.exp2(-whole) - 1.0


def _exp2(octaves: Array) -> Array:
    """Its inverse, for up to ±16 octaves."""
    octaves = jnp.clip(octaves, -16.0, 16.0)
    whole = lax.stop_gradient(jnp.floor(octaves))
    return (1.0 + octaves - whole) * jnp.exp2(whole)


A_MIN_NETWORK = SoftPolicy(
    name="a_min_network",
    estimate=_estimate,
    admission_key=_admission_key,
    reserve=_reserve,
    eviction_key=_eviction_key,
    refine=_refine,
)
"""The network of `jaxsched.a_min_network`, without rounding; params are a `NetworkParams`."""
