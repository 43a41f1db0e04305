"""Refuses a policy whose choices cannot be simulated, before anything is compiled."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsched.policies.interface import Array, Policy, Running, View


def check_policy_functions(policy: Policy) -> None:
    """Refuses a policy whose choices cannot be simulated, or that is not what it says.

    Raises:
      TypeError: If a choice does not give int32 of its arguments' shape; the text names it.
      ValueError: If the policy reads `point` without `needs_point`, or says `shortest_first`
        without estimating, ordering and reserving by the true output.
    """
    leaves, structure = jax.tree.flatten(policy.params)
    shapes = tuple((np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    _check_choices(dataclasses.replace(policy, params=None), structure, shapes)


@functools.lru_cache(maxsize=256)
def _check_choices(policy: Policy, structure: Any, shapes: tuple[Any, ...]) -> None:
    """Calls the choices on made-up numbers; zeros stand for the policy's own."""
    params = structure.unflatten([np.zeros(shape, dtype) for shape, dtype in shapes])
    numbers = np.arange(1, 4, dtype=np.int32)
    with jax.ensure_compile_time_eval():
        params = jax.tree.map(jnp.asarray, params)
        view, memory = _Watched(params), jnp.int32(100)
        running = Running(*(jnp.asarray(numbers + 7 * i) for i in range(3)), memory, params)
        estimate = _choice(policy, "estimate", view)
        by_estimate = {
            name: _choice(policy, name, estimate, view) for name in ("admission_key", "reserve")
        }
        _choice(policy, "eviction_key", estimate, running)
        _choice(policy, "refine", estimate, running)
        if policy.headroom is not None:
            _check_headroom(policy, view)
        if policy.rank is not None:
            _choice(policy, "rank", estimate, view, jnp.ones(3, bool))
        if policy.quantum is not None:
            _choice(policy, "quantum", estimate, running)
        if policy.shortest_first:
            for name, value in {"estimate": estimate, **by_estimate}.items():
                if (value != view.output).any():
                    raise ValueError(
                        f"policy {policy.name!r}: {name} is not the true output; "
                        "expected that of a policy with shortest_first=True"
                    )
    if "point" in view.read and not policy.needs_point:
        raise ValueError(
            f"policy {policy.name!r} reads view.point; expected needs_point=True in that case"
        )


def _check_headroom(policy: Policy, view: Any) -> None:
    """Unlike the choices it may be one number for all requests."""
    value = policy.headroom(view)
    shape, dtype = jnp.shape(value), getattr(value, "dtype", type(value).__name__)
    if shape not in ((3,), ()) or dtype != np.int32:
        raise TypeError(
            f"policy {policy.name!r}: headroom gives {dtype}{list(shape)} for requests of shape "
            "[3]; expected int32[3] or int32[]"
        )


class _Watched:
    """A `View` of three made-up requests that remembers which fields were read."""

    def __init__(self, params: Any) -> None:
        names = [field.name for field in dataclasses.fields(View)[:-2]]
        values = {name: np.asarray([7, 3, 5], np.int32) + 11 * i for i, name in enumerate(names)}
        self._values = {name: jnp.asarray(value) for name, value in values.items()}
        self._values |= {"memory": jnp.int32(100), "params": params}
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Array:
        if name.startswith("_") or name not in self._values:
            raise AttributeError(f"View has no {name!r}; expected one of {list(self._values)}")
        self.read.add(name)
        return self._values[name]


def _choice(policy: Policy, name: str, *arguments: Any) -> Array:
    """One of the policy's functions on three requests, its result checked."""
    value = getattr(policy, name)(*arguments)
    shape, dtype = jnp.shape(value), getattr(value, "dtype", type(value).__name__)
    if shape != (3,) or dtype != np.int32:
        raise TypeError(
            f"policy {policy.name!r}: {name} gives {dtype}{list(shape)} for requests of shape [3]; "
            "expected int32[3]"
        )
    return value
