"""`simulate`: the one way to run simulations, whatever engine and however many devices."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxsched.engine import simulate_lanes
from jaxsched.instance import (
    MAX_ROUND,
    Instance,
    canonical,
    check_instance,
    check_shapes,
    is_traced,
    valid_lanes,
)
from jaxsched.policies import SHIPPED, Policy
from jaxsched.result import Result, split

ENGINES = ("auto", "jax", "native")


def simulate(
    instance: Instance,
    policy: Policy,
    *,
    max_rounds: int = MAX_ROUND,
    engine: str = "auto",
) -> Result:
    """Runs a scheduler on every lane of a batch of instances, exactly (see docs/model.md).

    Works inside the caller's `jax.jit` and `jax.vmap`. Outside, a bad instance is refused before
    anything is compiled; inside, its lane gets `Status.INVALID`. A lane's result does not depend
    on the other lanes, on the engine, or on the number of devices.

    Args:
      instance: Instances with request arrays of shape [..., n].
      policy: The scheduler, such as `a_min()`.
      max_rounds: Rounds from this one on are not run; lanes that would need them get
        `Status.ROUND_LIMIT`.
      engine: "jax" runs on the default JAX backend, with the lanes spread over all its local
        devices; "native" is a compiled event loop for the CPU, for shipped policies only, and
        needs `pip install jaxsched[native]`; "auto" takes "native" on a CPU if it can.

    Returns:
      A `Result` of lane shape [...]. Arrays are numpy from "native" and JAX from "jax".

    Raises:
      TypeError: If a field of the instance does not hold integers, or an argument has a wrong type.
      ValueError: If a shape, a value, the limit or the engine is wrong, if a request can never
        finish, or if the policy needs a point prediction that is missing.
      ImportError: If "native" is asked for and numba is not installed.
    """
    _check_arguments(policy, max_rounds, engine)
    if is_traced(instance):
        check_shapes(instance, policy.needs_point)
    else:
        check_instance(instance, policy.needs_point)
    lanes = instance.lanes
    flat = _reshape(canonical(instance), len(lanes), (math.prod(lanes),))
    result = _runner(policy, _choose(engine, policy))(flat, np.int32(max_rounds))
    return _reshape(result, 1, lanes)


def _check_arguments(policy: Any, max_rounds: Any, engine: Any) -> None:
    if not isinstance(policy, Policy):
        raise TypeError(f"policy is {policy!r}; expected a Policy such as jaxsched.a_min()")
    if isinstance(max_rounds, bool) or not isinstance(max_rounds, (int, np.integer)):
        raise TypeError(f"max_rounds is {max_rounds!r}; expected an integer")
    if not 1 <= max_rounds <= MAX_ROUND:
        raise ValueError(f"max_rounds is {max_rounds}; expected 1 to {MAX_ROUND}")
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}; expected one of {', '.join(ENGINES)}")


def _choose(engine: str, policy: Policy) -> str:
    """The engine to use; native code knows the shipped policies only."""
    known = policy.name in SHIPPED and SHIPPED[policy.name]() == policy
    if engine == "native" and not known:
        raise ValueError(
            f'engine "native" does not know the policy {policy.name!r}; use engine="jax"'
        )
    if engine != "auto":
        return engine
    there = importlib.util.find_spec("numba") is not None
    return "native" if known and there and jax.default_backend() == "cpu" else "jax"


def _reshape(tree: Any, axes: int, lanes: tuple[int, ...]) -> Any:
    """Replaces the first `axes` axes of every leaf by lane axes."""
    return jax.tree.map(lambda leaf: leaf.reshape(lanes + leaf.shape[axes:]), tree)


Run = Callable[[Instance, np.int32], Result]
"""From canonical instances of lane shape [N] and the round limit to results."""


@functools.lru_cache(maxsize=256)
def _runner(policy: Policy, engine: str) -> Run:
    """Runs instances that may be traced."""
    if engine == "native":
        plain = functools.partial(_native, policy)
        traced = _batched(functools.partial(_native_callback, policy))
    else:
        compiled = jax.jit(functools.partial(simulate_lanes, policy=policy))
        plain, traced = _sharded(compiled), _batched(compiled)
    return lambda flat, limit: (traced if is_traced(flat) else plain)(flat, limit)


def _batched(run: Run) -> Run:
    """Teaches `run` that an axis of `vmap` is just more lanes."""

    def call(flat: Instance, limit: np.int32) -> Result:
        leaves, structure = jax.tree.flatten(flat)

        @jax.custom_batching.custom_vmap
        def on_leaves(*leaves: jax.Array) -> Result:
            return run(structure.unflatten(leaves), jnp.int32(limit))

        @on_leaves.def_vmap
        def _rule(size: int, mapped: list[bool], *leaves: jax.Array) -> tuple[Result, Result]:
            whole = [
                leaf if has else jnp.broadcast_to(leaf, (size, *leaf.shape))
                for leaf, has in zip(leaves, mapped, strict=True)
            ]
            result = call(_reshape(structure.unflatten(whole), 2, (-1,)), limit)
            result = _reshape(result, 1, (size, result.status.shape[0] // size))
            return result, jax.tree.map(lambda _: True, result)

        return on_leaves(*leaves)

    return call


def _sharded(run: Run) -> Run:
    """Spreads the lanes over all local devices."""

    @functools.lru_cache(maxsize=8)
    def compiled(devices: tuple[jax.Device, ...]) -> Run:
        spec = PartitionSpec("lanes")
        mesh = Mesh(np.asarray(devices), ("lanes",))
        return jax.jit(
            jax.shard_map(
                run, mesh=mesh, in_specs=(spec, PartitionSpec()), out_specs=spec, check_vma=False
            )
        )

    def sharded(flat: Instance, limit: np.int32) -> Result:
        devices, lanes = tuple(jax.local_devices()), flat.prompt.shape[0]
        if len(devices) == 1 or lanes < len(devices):
            return run(flat, limit)
        # Dealt out one by one, so that a batch sorted by cost does not load one device.
        deal = np.arange(-(-lanes // len(devices)) * len(devices)).reshape(-1, len(devices)).T
        order = deal.reshape(-1)
        dealt = jax.tree.map(lambda leaf: leaf[np.minimum(order, lanes - 1)], flat)
        idle = order >= lanes
        dealt = dealt.replace(num_requests=np.where(idle, 0, dealt.num_requests).astype(np.int32))
        back = np.argsort(order)[:lanes]
        return jax.tree.map(lambda leaf: leaf[back], compiled(devices)(dealt, limit))

    return sharded


def _native(policy: Policy, flat: Instance, limit: np.int32) -> Result:
    """Runs the native engine on concrete arrays."""
    from jaxsched import native  # noqa: PLC0415 - numba is optional and slow to import

    fields = {
        name: np.asarray(value)
        for name in ("prompt", "output", "lower", "upper", "point", "arrival")
        if (value := getattr(flat, name)) is not None
    }
    count = np.asarray(flat.num_requests)
    found = native.run(
        policy.name,
        memory=np.asarray(flat.memory),
        num_requests=count,
        max_rounds=limit,
        **fields,
    )
    totals = np.stack([found.total_latency, found.wasted_tokens, found.memory_time], axis=-1)
    first = found.first_admission
    return Result(
        completion=found.completion,
        first_token=np.where(first < 0, -1, first + 1).astype(np.int32),
        preemptions=found.preemptions,
        evictions=found.evictions.astype(np.int32),
        peak_memory=found.peak_memory.astype(np.int32),
        rounds=found.rounds.astype(np.int32),
        status=found.status.astype(np.int32),
        limbs=split(totals),
        num_requests=count.astype(np.int32),
    )


def _native_callback(policy: Policy, flat: Instance, limit: np.int32) -> Result:
    """Runs the native engine from inside a traced computation."""
    lanes, n = flat.prompt.shape
    shapes = {
        "completion": (lanes, n),
        "first_token": (lanes, n),
        "preemptions": (lanes, n),
        **dict.fromkeys(("evictions", "peak_memory", "rounds", "status", "num_requests"), (lanes,)),
    }
    shape = Result(
        limbs=jax.ShapeDtypeStruct((lanes, 3, 2), jnp.uint32),
        **{name: jax.ShapeDtypeStruct(value, jnp.int32) for name, value in shapes.items()},
    )
    # It checks only what its kind of policy reads; a count below 0 makes it mark the lane.
    marked = flat.replace(num_requests=jnp.where(valid_lanes(flat), flat.num_requests, -1))
    result = jax.pure_callback(functools.partial(_native, policy), shape, marked, limit)
    return result.replace(num_requests=flat.num_requests)
