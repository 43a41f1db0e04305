"""A small network in A_min's place: it makes the same four choices, with a few hundred weights.

Each choice has a network of its own, net(x) = linear · x + output · relu(hidden x) in octaves
(powers of 2), on what the scheduler sees of a request:

    prompt      (log2 s - 7) / 4
    estimate    (log2 est - 7) / 4
    share       (log2((s + est) / M) + 7) / 4, of the memory, that it is expected to need
    evictions   its evictions so far / 4, up to 6
    progress    log2(k + 1) / 4, of an active request; 0 of others
    one         1

with s the prompt, M the memory and k the tokens generated since it was admitted. A net corrects
what A_min, refined on eviction, does; with outputs and linear weights of 0 nothing is left of it
but A_min itself:

    estimate at first   l
    admission key       log2 est + net_admit(x)
    reserve             est 2^net_reserve(x), at least 1
    eviction key        log2 est + net_evict(x)
    after an eviction   m 2^max(0, net_grow(x)), m = max(est, k)

All of it in integers, so that every engine agrees exactly: weights in units of 1/1024, features of
1/4096, log2 linear between the powers of 2, estimates up to 2^28 - 1. Upper bounds are never read.

No network evicts for ever: an eviction key never falls while a request runs. Of the networks for
evictions, progress enters a unit with the sign of the unit's output, and its linear weight is at
least 0; `jaxsched.tuning.space` has the argument.

What a scheduler may see and this one does not: the age of a waiting request, which grows by one a
round for all alike, and how full the memory is. Orders that follow them would change in every
round, where engines jump from event to event; and at an overflow the memory is always full.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsched.policies import LARGEST, Policy, Running, View

Array = jax.Array

HEADS = ("admit", "reserve", "evict", "grow")
FEATURES = ("prompt", "estimate", "share", "evictions", "progress", "one")
UNITS = 12
"""Hidden units of a head."""

EVICT, PROGRESS = HEADS.index("evict"), FEATURES.index("progress")
WIDEST = 8.0
"""Largest weight, and largest activation of a hidden unit."""

UNIT = 1024
"""Units in a weight of 1."""

SHAPES = {
    "linear": (len(HEADS), len(FEATURES)),
    "hidden": (len(HEADS), UNITS, len(FEATURES)),
    "output": (len(HEADS), UNITS),
}
"""Field of `NetworkParams` -> its shape."""

WEIGHTS = len(HEADS) * (len(FEATURES) + UNITS * (len(FEATURES) + 1))

ESTIMATE_BITS = 28
MOST_EVICTIONS = 6
LONGEST = 2**ESTIMATE_BITS - 1
"""Largest estimate."""


def _zeros(name: str) -> Any:
    return dataclasses.field(default_factory=lambda: np.zeros(SHAPES[name], np.float32))


@chex.dataclass(frozen=True, mappable_dataclass=False)
class NetworkParams:
    """The weights of a network, traced; the defaults are A_min, refined on eviction.

    Values beyond ±8 are brought to the nearest end, and rounded to 1/1024. Heads are in the order
    of `HEADS`, features in that of `FEATURES`.

    Attributes:
      linear: From features to a head's result, [4, 6].
      hidden: From features to hidden units, [4, 12, 6].
      output: From hidden units to a head's result, [4, 12].
    """

    linear: Any = _zeros("linear")
    hidden: Any = _zeros("hidden")
    output: Any = _zeros("output")


def a_min_network(params: NetworkParams | None = None) -> Policy:
    """A scheduler whose four choices a small network makes; thousands of them run as lanes.

    >>> import jax, jaxsched as js
    >>> instance = js.Instance(prompt=[2, 1, 3], output=[4, 6, 2], lower=[2, 1, 1], upper=[9, 9, 9],
    ...                        memory=9)
    >>> def total_latency(weights):
    ...     policy = js.a_min_network(js.NetworkParams(linear=weights))
    ...     return js.simulate(instance, policy).total_latency
    >>> jax.vmap(total_latency)(jax.random.normal(jax.random.key(0), (5, 4, 6))).shape
    (5,)

    Args:
      params: The weights; `None` for A_min itself, refined on eviction.
    """
    return Policy(
        name="a_min_network",
        estimate=_estimate,
        admission_key=_admission_key,
        reserve=_reserve,
        eviction_key=_eviction_key,
        refine=_refine,
        params=quantize(NetworkParams() if params is None else params),
    )


def quantize(params: NetworkParams) -> Any:
    """The weights in fixed point, int32 of shape [360]: head by head its linear weights, then for
    every unit those that lead to it and the one that leads on.

    From numpy's float32 if they are concrete, so that traced and concrete numbers agree.

    Raises:
      ValueError: If a field has another shape (use `jax.vmap`), or is concrete and holds a NaN.
    """
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(params))
    module = jnp if traced else np
    fixed = {name: _fixed_point(name, getattr(params, name), module) for name in SHAPES}
    rising = keep_rising(NetworkParams(**fixed), module)
    units = module.concatenate([rising.hidden, rising.output[..., None]], axis=-1)
    units = units.reshape(len(HEADS), -1)
    return module.concatenate([rising.linear, units], axis=-1).reshape(-1)


def keep_rising(params: NetworkParams, module: Any = np) -> NetworkParams:
    """The same with eviction keys that never fall as a request runs; see the head of this file."""
    linear, hidden = params.linear, params.hidden
    kept = np.zeros(SHAPES["hidden"], bool)
    kept[EVICT, :, PROGRESS] = True
    sign = module.sign(params.output)[..., None]
    hidden = module.where(kept, module.abs(hidden) * sign, hidden)
    return NetworkParams(
        linear=module.where(kept[:, 0], module.maximum(linear, 0), linear),
        hidden=hidden,
        output=params.output,
    )


def _fixed_point(name: str, value: Any, module: Any) -> Any:
    if np.shape(value) != SHAPES[name]:
        raise ValueError(
            f"{name} has shape {list(np.shape(value))}; expected {list(SHAPES[name])} "
            "(use jax.vmap)"
        )
    if not isinstance(value, jax.core.Tracer) and np.isnan(value).any():
        raise ValueError(f"{name} has a NaN; expected numbers")
    within = module.clip(module.asarray(value, np.float32), np.float32(-WIDEST), np.float32(WIDEST))
    return module.rint(within * np.float32(UNIT)).astype(np.int32)


# What the engines carry as the estimate of a request is evictions << 28 | estimate.


def _estimate(view: View) -> Array:
    return jnp.minimum(view.lower, LONGEST)


def _admission_key(state: Array, view: View) -> Array:
    return _key("admit", state, view, jnp.zeros_like(view.prompt))


def _reserve(state: Array, view: View) -> Array:
    octaves = _net("reserve", state, view, jnp.zeros_like(view.prompt))
    return jnp.maximum(_stretched(state & LONGEST, octaves, LARGEST), 1)


def _eviction_key(state: Array, running: Running) -> Array:
    return _key("evict", state, running, running.generated)


def _refine(state: Array, running: Running) -> Array:
    octaves = jnp.maximum(_net("grow", state, running, running.generated), 0)
    seen = jnp.maximum(state & LONGEST, running.generated)
    evictions = jnp.minimum((state >> ESTIMATE_BITS) + 1, np.int32(MOST_EVICTIONS))
    return (evictions << ESTIMATE_BITS) | _stretched(seen, octaves, LONGEST)


def _key(head: str, state: Array, seen: View | Running, generated: Array) -> Array:
    """log2 of the estimate and the net, in units of 2^-24; kept within 64 octaves of the first."""
    octaves = jnp.clip(_net(head, state, seen, generated), -(2**26), 2**26)
    return _log2(state & LONGEST, 24) + (octaves << 4)


def _net(head: str, state: Array, seen: View | Running, generated: Array) -> Array:
    """Result of a head in units of 2^-20, int32; no sum in it comes to 2^31."""
    estimate = state & LONGEST
    features = (
        _log2(seen.prompt, 10) - np.int32(7 << 10),
        _log2(estimate, 10) - np.int32(7 << 10),
        _log2(seen.prompt + estimate, 10) - _log2(seen.memory, 10) + np.int32(7 << 10),
        (state >> ESTIMATE_BITS) << 10,
        _log2(generated + 1, 10),
        jnp.full_like(state, 1 << 12),
    )
    weights = seen.params.reshape(len(HEADS), -1)[HEADS.index(head)]
    linear, units = weights[: len(FEATURES)], weights[len(FEATURES) :].reshape(UNITS, -1)
    # Units before requests, so that compilers find long loops over these.
    units = units.T.reshape(-1, UNITS, *(1 for _ in state.shape))
    inputs = [jnp.expand_dims(feature, 0) for feature in features]
    active = jnp.clip(_dot(units, inputs) >> 12, 0, int(WIDEST * UNIT))
    through = jnp.sum(units[-1] * active, axis=0, dtype=np.int32)
    return (_dot(linear, features) >> 2) + through


def _dot(weights: Array, features: Sequence[Array]) -> Array:
    """Sum of weights[i] * features[i], in units of 2^-22."""
    products = (weights[i] * feature for i, feature in enumerate(features))
    return functools.reduce(operator.add, products)


def _log2(value: Array, bits: int) -> Array:
    """log2 of values from 1 on in units of 2^-bits, linear between the powers of 2."""
    value = jnp.maximum(value, 1)
    whole = np.int32(31) - lax.clz(value)
    rest = value ^ (jnp.ones_like(value) << whole)
    rest = (rest << jnp.maximum(np.int32(bits) - whole, 0)) >> jnp.maximum(whole - bits, 0)
    return (whole << bits) + rest


def _stretched(value: Array, octaves: Array, largest: int) -> Array:
    """value 2^octaves, rounded down, at most `largest`; octaves in units of 2^-20, up to ±16."""
    with jax.enable_x64(True):
        octaves = jnp.clip(octaves >> 10, -(2**14), 2**14).astype(jnp.int64)
        whole = octaves >> np.int64(10)
        scaled = value.astype(jnp.int64) * (np.int64(1024) + (octaves & np.int64(1023)))
        scaled = scaled << jnp.maximum(whole, np.int64(0))
        scaled = scaled >> (np.int64(10) + jnp.maximum(-whole, np.int64(0)))
        return jnp.minimum(scaled, np.int64(largest)).astype(jnp.int32)
