"""The choices that the shipped policies are made of; element by element, on int32 arrays."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxsched.policies.interface import LARGEST, Array, Estimate, Running, View


def estimate_by(who: str, by: str) -> Estimate:
    """The estimate that is a field of `View`, given by its name; errors say who asked."""
    estimates = {"output": output, "point": point, "lower": lower, "upper": upper}
    if not isinstance(by, str) or by not in estimates:
        raise ValueError(f"{who}: by is {by!r}; expected one of {sorted(estimates)}")
    return estimates[by]


def output(view: View) -> Array:
    return view.output


def upper(view: View) -> Array:
    return view.upper


def lower(view: View) -> Array:
    return view.lower


def point(view: View) -> Array:
    return view.point


def one(view: View) -> Array:
    return jnp.ones_like(view.prompt)


def by_estimate(estimate: Array, view: View) -> Array:
    return estimate


def by_arrival(estimate: Array, view: View) -> Array:
    return view.arrival


def by_volume(estimate: Array, view: View) -> Array:
    return volume(view.prompt, estimate, view.memory)


def evict_by_estimate(estimate: Array, running: Running) -> Array:
    return estimate


def evict_by_progress(estimate: Array, running: Running) -> Array:
    return jnp.maximum(estimate, running.generated)


def evict_by_admission(estimate: Array, running: Running) -> Array:
    return running.admitted


def evict_by_volume(estimate: Array, running: Running) -> Array:
    return volume(running.prompt, estimate, running.memory)


def larger(estimate: Array, running: Running) -> Array:
    return jnp.maximum(estimate, running.generated)


def keep(estimate: Array, running: Running) -> Array:
    return estimate


def share_of_memory(view: View) -> Array:
    with jax.enable_x64(True):
        share = view.memory.astype(jnp.int64) * view.params.astype(jnp.int64)
        return (share >> np.int64(10)).astype(jnp.int32)


def volume(prompt: Array, estimate: Array, memory: Array) -> Array:
    """Memory-time s r + r (r + 1) / 2 of a run of r = min(estimate, memory) tokens, token-rounds.

    Of the shape of `prompt`, int32; what is larger counts as 2^31 - 2.
    """
    with jax.enable_x64(True):
        s, r = (array.astype(jnp.int64) for array in (prompt, jnp.minimum(estimate, memory)))
        exact = s * r + ((r * (r + np.int64(1))) >> np.int64(1))
        return jnp.minimum(exact, np.int64(LARGEST)).astype(jnp.int32)
