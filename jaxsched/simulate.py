"""`simulate`: the one way to run simulations, whatever engine and however many devices."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxsched.engine import NO_CAP, Limits, simulate_lanes
from jaxsched.instance import (
    MAX_ROUND,
    Instance,
    canonical,
    check_instance,
    check_shapes,
    is_traced,
    valid_lanes,
)
from jaxsched.policies import SHIPPED, Policy, check_policy_functions
from jaxsched.result import Result, split

ENGINES = ("auto", "jax", "native")


def simulate(
    instance: Instance,
    policy: Policy,
    *,
    max_rounds: int = MAX_ROUND,
    max_batch: int | None = None,
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
      max_batch: Most requests that run together, as serving engines have it; `None` for no cap.
        A cap stops admission where a failed look-ahead test does, and evicts nobody.
      engine: "jax" runs on the default JAX backend, with the lanes spread over all its local
        devices; "native" is a compiled event loop for the CPU, for shipped policies only, and
        needs numba (the extra `native`); "auto" takes "native" on a CPU if it can.

    Returns:
      A `Result` of lane shape [...]. Arrays are numpy from "native" and JAX from "jax".

    Raises:
      TypeError: If a field of the instance does not hold integers, an argument has a wrong type, or
        a choice of the policy does not give int32 of its arguments' shape.
      ValueError: If a shape, a value, the limit or the engine is wrong, if a request can never
        finish, or if the policy needs a point prediction that is missing.
      ImportError: If "native" is asked for and numba cannot be imported.
    """
    _check_arguments(instance, policy, max_rounds, max_batch, engine)
    check_policy_functions(policy)
    if is_traced(instance):
        check_shapes(instance, policy.needs_point)
    else:
        check_instance(instance, policy.needs_point)
    lanes = instance.lanes
    flat = _reshape(canonical(instance), len(lanes), (math.prod(lanes),))
    limits = Limits(np.int32(max_rounds), np.int32(NO_CAP if max_batch is None else max_batch))
    run = _runner(policy, _choose(engine, policy), max_batch is not None)
    result = run(flat, limits)
    return _reshape(result, 1, lanes)


def _check_arguments(
    instance: Any, policy: Any, max_rounds: Any, max_batch: Any, engine: Any
) -> None:
    if not isinstance(instance, Instance):
        raise TypeError(f"instance is {instance!r}; expected an Instance")
    if not isinstance(policy, Policy):
        raise TypeError(f"policy is {policy!r}; expected a Policy such as jaxsched.a_min()")
    _check_limit("max_rounds", max_rounds, MAX_ROUND)
    if max_batch is not None:
        _check_limit("max_batch", max_batch, NO_CAP)
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}; expected one of {', '.join(ENGINES)}")


def _check_limit(name: str, value: Any, largest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {value!r}; expected an integer")
    if not 1 <= value <= largest:
        raise ValueError(f"{name} is {value}; expected 1 to {largest}")


def _choose(engine: str, policy: Policy) -> str:
    """The engine to use; native code knows the shipped policies only."""
    known = policy.name in SHIPPED and SHIPPED[policy.name]() == policy
    if engine == "native" and not known:
        raise ValueError(
            f'engine "native" does not know the policy {policy.name!r}; use engine="jax"'
        )
    if engine != "auto":
        return engine
    return "native" if known and jax.default_backend() == "cpu" and _native_works() else "jax"


@functools.cache
def _native_works() -> bool:
    """Whether numba is there and can be imported."""
    try:
        from jaxsched import native  # noqa: F401, PLC0415 - numba is optional and slow to import
    except Exception:  # a numba that does not fit the numpy at hand raises what it likes
        return False
    return True


def _reshape(tree: Any, axes: int, lanes: tuple[int, ...]) -> Any:
    """Replaces the first `axes` axes of every leaf by lane axes."""
    return jax.tree.map(lambda leaf: leaf.reshape(lanes + leaf.shape[axes:]), tree)


Run = Callable[[Instance, Limits], Result]
"""From canonical instances of lane shape [N] to results."""


@functools.lru_cache(maxsize=256)
def _runner(policy: Policy, engine: str, capped: bool) -> Run:
    """Runs instances that may be traced."""
    if engine == "native":
        plain = functools.partial(_native, policy)
        traced = _batched(functools.partial(_native_callback, policy))
    else:
        compiled = jax.jit(functools.partial(simulate_lanes, policy=policy, capped=capped))
        plain, traced = _sharded(compiled), _batched(compiled)
    return lambda flat, limits: (traced if is_traced(flat) else plain)(flat, limits)


def _batched(run: Run) -> Run:
    """Teaches `run` that an axis of `vmap` is just more lanes."""

    def call(flat: Instance, limits: Limits) -> Result:
        leaves, structure = jax.tree.flatten(flat)

        @jax.custom_batching.custom_vmap
        def on_leaves(*leaves: jax.Array) -> Result:
            return run(structure.unflatten(leaves), limits)

        @on_leaves.def_vmap
        def _rule(size: int, mapped: list[bool], *leaves: jax.Array) -> tuple[Result, Result]:
            if size == 0:
                raise ValueError("simulate: got a vmap axis of length 0; expected at least 1")
            whole = [
                leaf if has else jnp.broadcast_to(leaf, (size, *leaf.shape))
                for leaf, has in zip(leaves, mapped, strict=True)
            ]
            result = call(_reshape(structure.unflatten(whole), 2, (-1,)), limits)
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

    def sharded(flat: Instance, limits: Limits) -> Result:
        devices, lanes = tuple(jax.local_devices()), flat.prompt.shape[0]
        if len(devices) == 1 or lanes < len(devices):
            return run(flat, limits)
        # Dealt out one by one, so that a batch sorted by cost does not load one device.
        deal = np.arange(-(-lanes // len(devices)) * len(devices)).reshape(-1, len(devices)).T
        order = deal.reshape(-1)
        dealt = jax.tree.map(lambda leaf: leaf[np.minimum(order, lanes - 1)], flat)
        idle = order >= lanes
        dealt = dealt.replace(num_requests=np.where(idle, 0, dealt.num_requests).astype(np.int32))
        back = np.argsort(order)[:lanes]
        return jax.tree.map(lambda leaf: leaf[back], compiled(devices)(dealt, limits))

    return sharded


def _native(policy: Policy, flat: Instance, limits: Limits) -> Result:
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
        max_rounds=int(limits.max_rounds),
        max_batch=int(limits.max_batch),
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


def _native_callback(policy: Policy, flat: Instance, limits: Limits) -> Result:
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
    result = jax.pure_callback(functools.partial(_native, policy), shape, marked, limits)
    return result.replace(num_requests=flat.num_requests)
