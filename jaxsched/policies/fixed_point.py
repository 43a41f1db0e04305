"""Numbers of policies in fixed point, so that every engine computes with the same integers."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def module_of(tree: Any) -> Any:
    """`jax.numpy` if any leaf is traced, else `numpy`."""
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))
    return jnp if traced else np


def fixed_point(
    name: str,
    value: Any,
    shape: tuple[int, ...],
    limits: tuple[float, float],
    unit: int,
    module: Any,
) -> Any:
    """The value in whole units, int32; what is out of the limits is brought to the nearest.

    Args:
      name: For errors.
      value: A number or an array of this shape.
      shape: What is expected.
      limits: Least and largest value.
      unit: Units in 1.
      module: `numpy` or `jax.numpy`; it multiplies in float32 in either case.

    Raises:
      ValueError: If the shape is another, or a concrete value is NaN.
    """
    if np.shape(value) != shape:
        raise ValueError(
            f"{name} has shape {list(np.shape(value))}; expected {list(shape)} (use jax.vmap)"
        )
    if not isinstance(value, jax.core.Tracer) and np.isnan(value).any():
        raise ValueError(f"{name} is or holds NaN; expected numbers")
    scaled = module.asarray(exact(name, value), np.float32) * np.float32(unit)
    low, high = (np.float32(limit * unit) for limit in limits)
    return module.rint(module.clip(scaled, low, high)).astype(np.int32)


def limited(params: Any, limit: int) -> Any:
    """Numbers of a policy as int32, those beyond its limit brought to it; floats as they are."""

    def within(leaf: Any) -> Any:
        module = module_of(leaf)
        leaf = module.asarray(leaf)
        if not jnp.issubdtype(leaf.dtype, np.integer):
            return leaf
        kind = np.iinfo(leaf.dtype)
        low, high = (leaf.dtype.type(x) for x in (max(-limit, kind.min), min(limit, kind.max)))
        return module.clip(leaf, low, high).astype(np.int32)

    return jax.tree.map(within, params)


def exact(who: str, tree: Any) -> Any:
    """The same; an error where somebody takes a derivative with respect to it.

    A simulation jumps where a number of its policy changes, and is computed in whole numbers: its
    derivative would be 0, and wrong.
    """

    def guarded(leaf: Any) -> Any:
        real = isinstance(leaf, jax.core.Tracer) and jnp.issubdtype(leaf.dtype, np.floating)
        return _without_derivative(who, leaf) if real else leaf

    return jax.tree.map(guarded, tree)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _without_derivative(who: str, value: Any) -> Any:
    return value


@_without_derivative.defjvp
def _refuse(who: str, primals: Any, tangents: Any) -> Any:
    raise TypeError(
        f"{who}: an exact simulation has no derivative, neither in the numbers of a policy nor in "
        "clocks and arrivals; jaxsched.relaxation.soft_simulate has one"
    )
