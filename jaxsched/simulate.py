"""`simulate`: the one way to run simulations, whatever engine and however many devices."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxsched.arrays import join, split
from jaxsched.clocks import Clock, check_clock, ticks, valid_clock
from jaxsched.engines.xla import (
    NO_CAP,
    SIZES,
    Numbers,
    RunLimits,
    Sizes,
    compiler_options,
    ranks,
    simulate_lanes,
    valid_numbers,
)
from jaxsched.instance import (
    MAX_MEMORY,
    MAX_ROUND,
    Instance,
    any_traced,
    canonical,
    check_instance,
    check_shapes,
    valid_lanes,
)
from jaxsched.machine.cores import cores
from jaxsched.machine.optional import can_import
from jaxsched.policies import Policy
from jaxsched.policies.fixed_point import exact, limited
from jaxsched.policies.program import Choices
from jaxsched.result import Result
from jaxsched.workers.settings import Worker, checked, in_blocks

ENGINES = ("auto", "jax", "native")


def _give_callbacks_a_thread() -> None:
    """On a single core XLA has one thread, and a callback on it can wait for itself for ever.

    Two threads are enough for one caller; XLA reads the variable when JAX first touches a device.
    """
    if cores() == 1:
        os.environ.setdefault("PJRT_NPROC", "2")


_give_callbacks_a_thread()


def simulate(
    instance: Instance,
    policy: Policy,
    *,
    clock: Clock | None = None,
    worker: Worker | None = None,
    max_rounds: int = MAX_ROUND,
    max_batch: int | None = None,
    history: bool = False,
    engine: str = "auto",
    plan: Mapping[str, Any] | None = None,
) -> Result:
    """Runs a scheduler on every lane of a batch of instances, exactly (see docs/model.md).

    Works inside the caller's `jax.jit` and `jax.vmap`. Outside, a bad instance is refused before
    anything is compiled; inside, its lane gets `Status.INVALID`. A lane's result does not depend
    on the other lanes, on the engine, or on the number of devices.

    Args:
      instance: Instances with request arrays of shape [..., n].
      policy: The scheduler, such as `a_min()`. Its numbers may be traced: `jax.vmap` over a batch
        of policies runs them as lanes.
      clock: How long a round lasts, such as `jaxsched.clocks.llama2_70b_2xa100()`; arrivals are
        then in seconds, and the result has times. Its coefficients may be traced. `None` counts
        rounds. Floats that go through the caller's `jit`, coefficients and arrivals, are float32
        unless `jax_enable_x64` is on.
      worker: What holds for memory, prompts and evicted requests: `jaxsched.workers.paper()`, the
        default, or that of a serving engine, such as `jaxsched.workers.vllm()`. `memory` is then
        rounded down to whole blocks. Its numbers may be traced.
      max_rounds: Rounds from this one on are not run; lanes that would need them get
        `Status.ROUND_LIMIT`, as do those that reach the end of the clock after 53 days.
      max_batch: Most requests that run together, as serving engines have it; `None` for no cap.
        A cap stops admission where a failed look-ahead test does, and evicts nobody.
      history: Whether the result lists every evicted run; not inside `jit` or `vmap`. Simulates
        twice, as the list's length has to be known first.
      engine: "jax" runs on the default JAX backend, with the lanes spread over all its local
        devices, or over the cores where a CPU is its only one; "native" is a compiled event loop
        for the CPU, and needs numba; "auto" takes "native" on a CPU if it can, and says why if
        it cannot.
      plan: Sizes of the JAX engine by name, such as `{"pool": 32, "slots": (64, 2000), "chunk":
        64}`, in place of those it chooses for the backend; for tests and measurements, since no
        result depends on them (see `jaxsched.engines.xla.SIZES`).

    Returns:
      A `Result` of lane shape [...]. Arrays are numpy from "native" and JAX from "jax".

    Raises:
      TypeError: If a field of the instance does not hold integers (under a clock, arrivals that are
        not in floating point), an argument has a wrong type, a function of the policy does not give
        a whole number, or it is differentiated: `jaxsched.relaxation.soft_simulate` can be.
      ValueError: If a shape, a value, the limit, the clock, the engine or the plan is wrong, if a
        request can never finish, or if the policy needs a point prediction that is missing.
      ImportError: If "native" is asked for and numba cannot be imported.
    """
    _check_arguments(instance, policy, worker, max_rounds, max_batch, engine)
    traced = any_traced((instance, policy, clock, worker))
    if traced:
        instance, policy, clock, worker = exact("simulate", (instance, policy, clock, worker))
    choices = policy.choices
    if worker is not None and worker.blocks:
        instance = in_blocks(instance, worker)
    _check_instance(instance, policy, clock)
    if policy.planned:
        _check_planned(policy, traced, clock, worker, max_batch)
        options = {"max_rounds": max_rounds, "history": history, "engine": engine, "plan": plan}
        return _planned(instance, policy, options)
    lanes = instance.lanes
    flat = _reshape(canonical(instance), len(lanes), (math.prod(lanes),))
    if traced and flat.arrival is not None and flat.arrival.dtype == np.int64:
        flat = flat.replace(arrival=split(flat.arrival))  # a clock is traced, they are not
    numbers = _numbers(policy, clock, worker, flat)
    limits = RunLimits(np.int32(max_rounds), np.int32(NO_CAP if max_batch is None else max_batch))
    chosen = engine_for(engine, policy)
    sizes = _sizes(plan, chosen)
    run = _runner(choices, chosen, max_batch is not None, 0, traced, sizes)
    result = run(flat, numbers, limits)
    if history:
        if traced:
            raise ValueError("history: not inside jit or vmap; expected concrete instances")
        room = _room(int(np.max(np.asarray(result.evictions))))
        run = _runner(choices, chosen, max_batch is not None, room, traced, sizes)
        result = run(flat, numbers, limits)
    return _reshape(result, 1, lanes)


def _check_arguments(
    instance: Any, policy: Any, worker: Any, max_rounds: Any, max_batch: Any, engine: Any
) -> None:
    if not isinstance(instance, Instance):
        raise TypeError(f"instance is {instance!r}; expected an Instance")
    if not isinstance(policy, Policy):
        raise TypeError(f"policy is {policy!r}; expected a Policy such as jaxsched.a_min()")
    if worker is not None:
        if not isinstance(worker, Worker):
            raise TypeError(f"worker is {worker!r}; expected one such as jaxsched.workers.vllm()")
        if worker.blocks:
            checked(worker)
    _check_limit("max_rounds", max_rounds, MAX_ROUND)
    if max_batch is not None:
        _check_limit("max_batch", max_batch, NO_CAP)
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}; expected one of {', '.join(ENGINES)}")


def _check_instance(instance: Instance, policy: Policy, clock: Clock | None) -> None:
    """Checks values where they are concrete, shapes and types always."""
    if policy.rank is not None and instance.arrival is not None:
        raise ValueError(
            f"policy {policy.name!r} orders a whole backlog; expected an instance without arrivals"
        )
    if any_traced(instance):
        check_shapes(instance, policy.needs_point, seconds=clock is not None)
    else:
        check_instance(instance, policy.needs_point, seconds=clock is not None)
    if clock is not None and not any_traced(clock):
        most = MAX_MEMORY if any_traced(instance) else int(np.max(np.asarray(instance.memory)))
        check_clock(clock, most)


def _check_planned(policy: Policy, traced: bool, clock: Any, worker: Any, max_batch: Any) -> None:
    """Refuses what no schedule is made for."""
    given = {"clock": clock, "max_batch": max_batch}
    given["worker of an engine"] = worker if worker is not None and worker.blocks else None
    given["jit or vmap"] = True if traced else None
    for what, wrong in given.items():
        if wrong is not None:
            raise ValueError(f"policy {policy.name!r} plans whole rounds; expected no {what}")


def _planned(instance: Instance, policy: Policy, options: dict[str, Any]) -> Result:
    """Makes a schedule and runs it: requests are held back until they are to start.

    As all lengths are known, the look-ahead test lets each one in at once, if all fit to the end.
    """
    from jaxsched.optimum import planned  # noqa: PLC0415 - numba is optional and slow to import

    start = planned(instance)
    held = instance.replace(arrival=start.astype(np.int32))
    runs = dataclasses.replace(policy, planned=False)
    result = simulate(held, runs, **options)
    waited = start if instance.arrival is None else start - np.asarray(instance.arrival)
    finished = np.asarray(result.completion) >= 0
    totals = np.array(result.totals)
    totals[..., 0] += np.where(finished, waited, 0).sum(axis=-1)
    return result.replace(totals=totals)


def _numbers(policy: Policy, clock: Clock | None, worker: Worker | None, flat: Instance) -> Numbers:
    """The numbers of all of them for each lane; those of the clock in pairs if traced."""
    lanes = flat.prompt.shape[0]

    def spread(leaf: Any) -> Any:
        module = jnp if isinstance(leaf, jax.core.Tracer) else np
        return module.broadcast_to(module.asarray(leaf), (lanes, *np.shape(leaf)))

    params = jax.tree.map(spread, limited(policy.params, policy.limit))
    blocks = None
    if worker is not None and worker.blocks:
        module = jnp if any_traced(worker) else np
        columns = [module.asarray(value, np.int32).reshape(-1) for value in worker.numbers]
        blocks = module.stack([module.broadcast_to(x, (lanes,)) for x in columns], axis=-1)
    if clock is None:
        return Numbers(params, None, blocks)
    coefficients = ticks(clock)
    if not any_traced((clock, flat)):
        return Numbers(params, spread(np.stack(coefficients)), blocks)
    with jax.enable_x64(True):
        good = valid_clock(clock, flat.memory)
        pairs = split(jnp.stack([jnp.asarray(tick, jnp.int64) for tick in coefficients]))
    # A coefficient that `valid_clock` refuses marks its lanes as -1, which no coefficient is.
    return Numbers(params, jnp.where(good[:, None, None], pairs, np.uint32(2**32 - 1)), blocks)


def _room(evictions: int) -> int:
    """Room for so many evicted runs, rounded up so that few programs are compiled."""
    return 1 << max(evictions - 1, 0).bit_length()


def _check_limit(name: str, value: Any, largest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {value!r}; expected an integer")
    if not 1 <= value <= largest:
        raise ValueError(f"{name} is {value}; expected 1 to {largest}")


def engine_for(engine: str, policy: Policy) -> str:
    """The engine to use.

    Raises:
      ValueError: If "native" is asked for and cannot run the policy; the text says why.
    """
    unknown = policy.choices.unknown
    if engine == "native" and unknown is not None:
        raise ValueError(
            f'engine "native" cannot compile the policy {policy.name!r}: {unknown}; use '
            'engine="jax"'
        )
    if engine != "auto":
        return engine
    if jax.default_backend() != "cpu":
        return "jax"
    if not can_import("jaxsched.engines.cpu"):
        _say_once(
            "numba cannot be imported, so the JAX engine runs, 10 to 50 times slower on a CPU; "
            "`pip install numba` or `python -c 'import numba'` tells why"
        )
        return "jax"
    if unknown is not None:
        _say_once(f"policy {policy.name!r} runs on the JAX engine: {unknown}")
        return "jax"
    return "native"


def _sizes(plan: Mapping[str, Any] | None, engine: str) -> Sizes:
    """The sizes of a plan, checked."""
    if plan is None:
        return ()
    if not isinstance(plan, Mapping):
        raise TypeError(f"plan is {plan!r}; expected names and sizes, such as {{'pool': 32}}")
    if engine != "jax":
        raise ValueError(f'plan: only engine="jax" has one; expected None for {engine!r}')
    if unknown := [name for name in plan if name not in SIZES]:
        raise ValueError(f"plan has {unknown[0]!r}; expected some of {', '.join(SIZES)}")
    # What is wrong with a size is found where the plan is made.
    return tuple(sorted((k, tuple(v) if isinstance(v, list) else v) for k, v in plan.items()))


@functools.lru_cache(maxsize=64)
def _say_once(text: str) -> None:
    """A warning about the caller's line, however many frames of our own lie between."""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == "jaxsched":
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)


def _reshape(tree: Any, axes: int, lanes: tuple[int, ...]) -> Any:
    """Replaces the first `axes` axes of every leaf by lane axes."""
    return jax.tree.map(lambda leaf: leaf.reshape(lanes + leaf.shape[axes:]), tree)


Runner = Callable[[Instance, Numbers, RunLimits], Result]
"""From canonical instances of lane shape [N] to results."""


@functools.lru_cache(maxsize=256)
def _runner(
    choices: Choices, engine: str, capped: bool, history: int, traced: bool, sizes: Sizes
) -> Runner:
    """Runs instances with numbers; traced if any of both is."""
    if engine == "native":
        if traced:
            return _batched(functools.partial(_native_callback, choices))
        return functools.partial(_native, choices, history=history)
    run = functools.partial(
        simulate_lanes, choices=choices, capped=capped, history=history, sizes=sizes
    )
    if traced:
        return _batched(jax.jit(run))
    return _at_border(_sharded(run), choices.unknown is not None)


def _at_border(run: Runner, wide: bool) -> Runner:
    """Gives a compiled function 64-bit integers in pairs, and takes them so from it.

    A function of the policy that JAX itself has to run gets 64 bits throughout, if `wide`.
    """

    def call(flat: Instance, numbers: Numbers, limits: RunLimits) -> Result:
        if numbers.clock is not None:
            numbers = numbers._replace(clock=split(numbers.clock))
            if flat.arrival is not None:
                flat = flat.replace(arrival=split(flat.arrival))
        with jax.enable_x64(True) if wide else contextlib.nullcontext():
            found = run(flat, numbers, limits)
        times = None if found.times is None else join(found.times)
        return found.replace(totals=join(found.totals), times=times)

    return call


def _batched(run: Runner) -> Runner:
    """Teaches `run` that an axis of `vmap` is just more lanes."""

    def call(flat: Instance, numbers: Numbers, limits: RunLimits) -> Result:
        leaves, structure = jax.tree.flatten((flat, numbers))

        @jax.custom_batching.custom_vmap
        def on_leaves(*leaves: jax.Array) -> Result:
            flat, numbers = jax.tree.unflatten(structure, leaves)
            return run(flat, numbers, limits)

        @on_leaves.def_vmap
        def _rule(size: int, mapped: list[bool], *leaves: jax.Array) -> tuple[Result, Result]:
            if size == 0:
                raise ValueError("simulate: got a vmap axis of length 0; expected at least 1")
            whole = [
                leaf if has else jnp.broadcast_to(leaf, (size, *leaf.shape))
                for leaf, has in zip(leaves, mapped, strict=True)
            ]
            flat, numbers = _reshape(jax.tree.unflatten(structure, whole), 2, (-1,))
            result = call(flat, numbers, limits)
            result = _reshape(result, 1, (size, result.status.shape[0] // size))
            return result, jax.tree.map(lambda _: True, result)

        return on_leaves(*leaves)

    return call


THREAD_LANES = 16
"""Lanes that are worth a thread of their own on a CPU."""


def _sharded(run: Runner) -> Runner:
    """Spreads the lanes over all local devices, on the one of a CPU over the cores."""
    options = compiler_options(jax.default_backend())
    alone = jax.jit(run, compiler_options=options)

    @functools.lru_cache(maxsize=8)
    def compiled(devices: tuple[jax.Device, ...]) -> Runner:
        spec, all_of_it = PartitionSpec("lanes"), PartitionSpec()
        mesh = Mesh(np.asarray(devices), ("lanes",))
        specs = (spec, spec, all_of_it)
        return jax.jit(
            jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=spec, check_vma=False),
            compiler_options=options,
        )

    def in_threads(shares: int, flat: Instance, numbers: Numbers, limits: RunLimits) -> Result:
        config: Any = jax.config  # of this thread, and made as it goes
        wide, compiling = config.jax_enable_x64, threading.Lock()

        def share(i: int) -> Result:
            mine = jax.tree.map(lambda leaf: np.split(leaf, shares)[i], (flat, numbers))
            # A call returns once it is compiled; XLA then runs those of several threads at once.
            with jax.enable_x64(wide), compiling:
                found = alone(*mine, limits)
            return jax.block_until_ready(found)

        with ThreadPoolExecutor(shares) as threads:
            parts = list(threads.map(share, range(shares)))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def sharded(flat: Instance, numbers: Numbers, limits: RunLimits) -> Result:
        devices, lanes = tuple(jax.local_devices()), flat.prompt.shape[0]
        shares = len(devices)
        if shares == 1 and devices[0].platform == "cpu" and jax.process_count() == 1:
            shares = max(1, min(cores(), lanes // THREAD_LANES))
        if shares == 1 or lanes < shares:
            return alone(flat, numbers, limits)
        # Dealt out one by one, so that a batch sorted by cost does not load one device.
        deal = np.arange(-(-lanes // shares) * shares).reshape(-1, shares).T
        order = deal.reshape(-1)
        pick = np.minimum(order, lanes - 1)
        dealt, numbers = jax.tree.map(lambda leaf: leaf[pick], (flat, numbers))
        idle = order >= lanes
        dealt = dealt.replace(num_requests=np.where(idle, 0, dealt.num_requests).astype(np.int32))
        back = np.argsort(order)[:lanes]
        if len(devices) > 1:
            found = compiled(devices)(dealt, numbers, limits)
        else:
            found = in_threads(shares, dealt, numbers, limits)
        return jax.tree.map(lambda leaf: jnp.asarray(leaf[back]), found)

    return sharded


def _native(
    choices: Choices, flat: Instance, numbers: Numbers, limits: RunLimits, history: int = 0
) -> Result:
    """Runs the native engine on concrete arrays."""
    from jaxsched.engines import cpu  # noqa: PLC0415 - numba is optional and slow to import

    rank = None if choices.rank is None else _compiled_ranks(choices)(flat, numbers.params)
    return cpu.simulate_lanes(flat, rank, numbers, limits, choices, history)


@functools.lru_cache(maxsize=64)
def _compiled_ranks(choices: Choices) -> Callable[[Instance, Any], jax.Array]:
    return jax.jit(functools.partial(ranks, choices))


def _native_callback(
    choices: Choices, flat: Instance, numbers: Numbers, limits: RunLimits
) -> Result:
    """Runs the native engine from inside a traced computation."""
    lanes, n = flat.prompt.shape
    shapes = {
        "completion": (lanes, n),
        "first_token": (lanes, n),
        "preemptions": (lanes, n),
        **dict.fromkeys(("evictions", "peak_memory", "rounds", "status", "num_requests"), (lanes,)),
    }
    times = jax.ShapeDtypeStruct((lanes, n, 3, 2), jnp.uint32)
    shape = Result(
        totals=jax.ShapeDtypeStruct((lanes, 3, 2), jnp.uint32),
        times=None if numbers.clock is None else times,
        **{name: jax.ShapeDtypeStruct(value, jnp.int32) for name, value in shapes.items()},
    )

    def run(*arguments: Any) -> Result:
        from jaxsched.engines import cpu  # noqa: PLC0415 - as above

        found = cpu.simulate_lanes(*arguments, choices)
        times = None if found.times is None else split(found.times)
        return found.replace(totals=split(found.totals), times=times)

    # A count below 0 makes it mark the lane.
    valid = valid_lanes(flat) & valid_numbers(numbers)
    marked = flat.replace(num_requests=jnp.where(valid, flat.num_requests, -1))
    rank = None if choices.rank is None else ranks(choices, flat, numbers.params)
    result = jax.pure_callback(run, shape, marked, rank, numbers, limits)
    return result.replace(num_requests=flat.num_requests)
