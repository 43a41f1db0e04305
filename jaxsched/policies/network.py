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
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxsched.arrays import Pytree
from jaxsched.policies.arithmetic import least, log2, most, once, real, shift, stretch
from jaxsched.policies.fixed_point import fixed_point, module_of
from jaxsched.policies.interface import Policy
from jaxsched.policies.view import View

HEADS = ("admit", "reserve", "evict", "grow")
FEATURES = ("prompt", "estimate", "share", "evictions", "progress", "one")
HIDDEN_UNITS = 12
"""Hidden units of a head, by default and in files."""

ADMIT, RESERVE, EVICT, GROW = range(4)
PROGRESS = FEATURES.index("progress")
WIDEST = 8.0
"""Largest weight, and largest activation of a hidden unit."""

UNIT = 1024
"""Units in a weight of 1."""


def shapes(units: int) -> dict[str, tuple[int, ...]]:
    """Field of `NetworkParams` -> its shape, with so many hidden units."""
    return {
        "linear": (len(HEADS), len(FEATURES)),
        "hidden": (len(HEADS), units, len(FEATURES)),
        "output": (len(HEADS), units),
    }


SHAPES = shapes(HIDDEN_UNITS)
WEIGHTS = sum(math.prod(shape) for shape in SHAPES.values())
"""Weights by default."""

MOST_EVICTIONS = 6
LONGEST = 2**28 - 1
"""Largest estimate."""


def _zeros(name: str) -> Any:
    return dataclasses.field(default_factory=lambda: np.zeros(SHAPES[name], np.float32))


class NetworkParams(Pytree):
    """The weights of a network, traced; the defaults are A_min, refined on eviction.

    Values beyond ±8 are brought to the nearest end, and rounded to 1/1024. Heads are in the order
    of `HEADS`, features in that of `FEATURES`. There may be another number of hidden units than 12;
    rules in files have 12.

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
        "a_min_network",
        estimate=estimate,
        admission_key=admission_key,
        reserve=reserve,
        eviction_key=eviction_key,
        refine=refine,
        limit=int(WIDEST) * UNIT,
        params=quantize(NetworkParams() if params is None else params),
    )


def quantize(params: NetworkParams) -> Any:
    """The weights in fixed point, int32 of shape [360] with 12 hidden units.

    Head by head its linear weights, then for every unit those that lead to it and the one that
    leads on. From numpy's float32 if they are concrete, so that traced and concrete numbers agree.

    Raises:
      ValueError: If a field has another shape (use `jax.vmap`), or is concrete and holds a NaN.
    """
    module = module_of(params)
    fixed = {
        name: fixed_point(name, getattr(params, name), shape, (-WIDEST, WIDEST), UNIT, module)
        for name, shape in shapes(units_of(params)).items()
    }
    return _in_line(NetworkParams(**fixed), module)


def units_of(params: NetworkParams) -> int:
    """Hidden units of a head."""
    shape = np.shape(params.hidden)
    return shape[1] if len(shape) == len(SHAPES["hidden"]) else HIDDEN_UNITS


def unrounded(params: NetworkParams) -> Any:
    """The same in floats for the relaxation, not rounded."""
    kept = {
        name: jnp.clip(jnp.asarray(getattr(params, name)), -WIDEST, WIDEST) * UNIT
        for name in SHAPES
    }
    return _in_line(NetworkParams(**kept), jnp)


def _in_line(params: NetworkParams, module: Any) -> Any:
    rising = keep_rising(params, module)
    units = module.concatenate([rising.hidden, rising.output[..., None]], axis=-1)
    units = units.reshape(len(HEADS), -1)
    return module.concatenate([rising.linear, units], axis=-1).reshape(-1)


def keep_rising(params: NetworkParams, module: Any) -> NetworkParams:
    """The same with eviction keys that never fall as a request runs; see the head of this file."""
    linear, hidden = params.linear, params.hidden
    kept = np.zeros(np.shape(hidden), bool)
    kept[EVICT, :, PROGRESS] = True
    sign = module.sign(params.output)[..., None]
    hidden = module.where(kept, module.abs(hidden) * sign, hidden)
    return NetworkParams(
        linear=module.where(kept[:, 0], module.maximum(linear, 0), linear),
        hidden=hidden,
        output=params.output,
    )


def estimate(r: View) -> Any:
    return least(r.lower, LONGEST)


def admission_key(r: View) -> Any:
    return _key(ADMIT, r)


def reserve(r: View) -> Any:
    return stretch(r.estimate, shift(_net(RESERVE, r), 10))


def eviction_key(r: View) -> Any:
    return _key(EVICT, r)


def refine(r: View) -> Any:
    octaves = most(shift(_net(GROW, r), 10), 0)
    return least(stretch(most(r.estimate, r.generated), octaves), LONGEST)


def _key(head: int, r: View) -> Any:
    """log2 of the estimate and the net, in units of 2^-24; kept within 64 octaves of the first."""
    octaves = most(-(2**26), least(_net(head, r), 2**26))
    return log2(r.estimate, 24) + 16 * octaves


def _net(head: int, r: View) -> Any:
    """Result of a head in units of 2^-20; no sum in it comes to 2^31."""
    progress = log2(r.generated + 1, 10) if head in (EVICT, GROW) else 0
    features = (
        log2(r.prompt, 10) - 7 * 1024,
        log2(r.estimate, 10) - 7 * 1024,
        log2(r.prompt + least(r.estimate, LONGEST), 10) - log2(r.memory, 10) + 7 * 1024,
        1024 * least(r.evictions, MOST_EVICTIONS),
        progress,
        4096,
    )
    count = len(r.params) // len(HEADS)
    first = head * count
    if real(r.params):
        return _products(r.params[first : first + count], features)
    total = shift(_dot(r, first, features), 2)
    for place in range(first + len(FEATURES), first + count, len(FEATURES) + 1):
        active = most(least(shift(_dot(r, place, features), 12), int(WIDEST) * UNIT), 0)
        total = total + r.params[place + len(FEATURES)] * active
    return total


def _products(weights: Any, features: tuple[Any, ...]) -> Any:
    """The same from weights in floats, as products of matrices.

    Weight by weight, a derivative takes several times as long to compile and twice as long to run.
    """
    linear, units = weights[: len(FEATURES)], weights[len(FEATURES) :]
    units = units.reshape(-1, len(FEATURES) + 1)
    hidden, output = units[:, :-1], units[:, -1]
    product = functools.partial(jnp.matmul, precision="highest")
    seen = jnp.stack(jnp.broadcast_arrays(*map(jnp.asarray, features))) / 4096
    seen = once(seen, weights[0])
    active = jnp.clip(product(hidden, seen), 0.0, WIDEST * UNIT)
    return once(UNIT * product(linear, seen) + product(output, active), weights[0])


def _dot(r: View, place: int, features: tuple[Any, ...]) -> Any:
    """Sum of weights times features, in units of 2^-22."""
    return sum(r.params[place + i] * feature for i, feature in enumerate(features))
