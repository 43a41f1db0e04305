"""What a scheduler decides, on real numbers, so that it can be differentiated."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array, lax

from jaxsched.policies import Running, View
from jaxsched.policies.family import RANGES
from jaxsched.policies.interface import AdmissionKey, Estimate, EvictionKey, Refine, Reserve


@dataclasses.dataclass(frozen=True)
class SoftPolicy:
    """The choices of a `jaxsched.Policy` on floats instead of integers.

    The functions have the signatures of `Policy`, get `View` and `Running` with floats, and read
    their numbers from `params`, any pytree of floats: ten weights or those of a network.

    Attributes:
      name: For messages.
      estimate: View -> initial estimate of the output length, of shape [n].
      admission_key: (estimate, View) -> key; the smallest (key, index) is admitted first.
      reserve: (estimate, View) -> length reserved; brought to 1 … memory - prompt.
      eviction_key: (estimate, Running) -> key; the smallest (key, index) is evicted first.
      refine: (estimate, Running) -> estimate after an eviction.
    """

    name: str
    estimate: Estimate
    admission_key: AdmissionKey
    reserve: Reserve
    eviction_key: EvictionKey
    refine: Refine


def _number(view: View | Running, name: str) -> Array:
    """A number of the family in its range; outside it is constant, at the ends it is not."""
    value, (low, high) = getattr(view.params, name), RANGES[name]
    inside = (value >= low) & (value <= high)
    return jnp.where(inside, value, lax.stop_gradient(jnp.clip(value, low, high)))


def _estimate(view: View) -> Array:
    return view.lower + _number(view, "start") * (view.upper - view.lower)


def _admission_key(estimate: Array, view: View) -> Array:
    run = jnp.minimum(estimate, view.memory)
    area = (view.prompt * run + run * (run + 1) / 2) / view.memory
    return (
        estimate + _number(view, "admit_prompt") * view.prompt + _number(view, "admit_area") * area
    )


def _reserve(estimate: Array, view: View) -> Array:
    return jnp.maximum(_number(view, "reserve_factor") * estimate, _number(view, "reserve_floor"))


def _eviction_key(estimate: Array, running: Running) -> Array:
    grown = jnp.maximum(estimate, _number(running, "run_growth") * running.generated)
    return (
        _number(running, "evict_estimate") * grown
        + _number(running, "evict_progress") * running.generated
        + _number(running, "evict_prompt") * running.prompt
    )


def _refine(estimate: Array, running: Running) -> Array:
    return jnp.maximum(estimate, running.generated) * (1 + _number(running, "evict_growth"))


A_MIN_FAMILY = SoftPolicy(
    name="a_min_family",
    estimate=_estimate,
    admission_key=_admission_key,
    reserve=_reserve,
    eviction_key=_eviction_key,
    refine=_refine,
)
"""The family of `jaxsched.a_min_family`, without its fixed point; params are a `FamilyParams`."""
