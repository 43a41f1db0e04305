"""What a step of the JAX engine costs, by its number of slots."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.hlo import Loop, largest_loop
from benchmarks.instances import draw
from benchmarks.scale import Scale
from benchmarks.section import Job, Row, Section
from jaxsched import Instance, Policy, policy
from jaxsched.engine import make_plan, pool
from jaxsched.engine.source import Table, make_table
from jaxsched.engine.state import DONE, NEVER, Event, Plan
from jaxsched.instance import MAX_ROUND, canonical

INSTANCES = 64
MAX_LEVELS = 4


def _jobs(scale: Scale) -> list[Job]:
    return [
        Job(f"steps, {name}, {setting}", functools.partial(_steps, scale, name, setting))
        for name in scale.some
        for setting in scale.settings[:1]
    ]


@dataclasses.dataclass
class Level:
    """Chunks of one number of slots.

    Attributes:
      run: Runs a chunk, compiled when first used.
      loop: What its loop consists of.
      steps: Steps taken so far.
      seconds: Time that they took.
    """

    run: Callable[[pool.Pool], Any] | None = None
    loop: Loop | None = None
    steps: int = 0
    seconds: float = 0.0


def _steps(scale: Scale, name: str, setting: str) -> list[Row]:
    """Drives the engine from here, chunk by chunk, on one device."""
    chosen, plan, table = _prepare(scale, name, setting)
    nothing = jnp.zeros((INSTANCES,), bool)
    border = jax.jit(lambda state, log: pool._border(state, log, table, plan, nothing))
    levels = [Level() for _ in plan.slots]
    borders, waited = 0, 0.0
    for repeat in range(2):  # the first one compiles
        state = jax.jit(lambda: pool._start(table, plan, nothing))()
        if repeat:
            borders, waited = 0, 0.0
            levels = [Level(level.run, level.loop) for level in levels]
        while bool(jnp.any(state.lanes.halt != DONE)) or int(state.next_row) < INSTANCES:
            i = int(state.level)
            if levels[i].run is None:
                levels[i].run, levels[i].loop = _compile(state, table, chosen, plan, i)
            begun = time.perf_counter()
            state, log = jax.block_until_ready(levels[i].run(state))
            levels[i].seconds += time.perf_counter() - begun
            levels[i].steps += _taken(log)
            begun = time.perf_counter()
            state = jax.block_until_ready(border(state, log))
            waited, borders = waited + time.perf_counter() - begun, borders + 1
    common = {"policy": name, "setting": setting, "lanes": plan.pool}
    rows = [
        {**common, **_cost(level, plan, count)}
        for level, count in zip(levels, plan.slots, strict=True)
        if level.steps
    ]
    rows[-1] |= {"borders": borders * plan.pool / INSTANCES, "border_us": 1e6 * waited / borders}
    return rows


def _prepare(scale: Scale, name: str, setting: str) -> tuple[Policy, Plan, Table]:
    instance = canonical(draw(setting, INSTANCES, scale.n, scale.memory))
    plan, chosen = make_plan(scale.n, INSTANCES, False), policy(name)
    table = jax.jit(lambda flat: make_table(flat, jnp.int32(MAX_ROUND), chosen))(instance)
    return chosen, plan, table


def _compile(
    state: pool.Pool, table: Table, chosen: Policy, plan: Plan, level: int
) -> tuple[Callable[[pool.Pool], Any], Loop]:
    def chunk(table: Table, state: pool.Pool) -> tuple[pool.Pool, Event]:
        return pool._chunk(table, chosen, plan, level, state)

    compiled = jax.jit(chunk).lower(table, state).compile()
    loop = largest_loop(compiled.as_text(), INSTANCES * plan.n)
    return functools.partial(compiled, table), loop


def _taken(log: Event) -> int:
    """Steps that a chunk took; only rows that were never written say nothing at time 0."""
    used = (log.time > 0) | (log.admitted != NEVER) | (log.evicted != NEVER)
    return int(np.sum(np.any(used, axis=1)))


def _cost(level: Level, plan: Plan, slots: int) -> Row:
    return {
        "slots": slots,
        "fusions": level.loop.fusions,
        "copies": level.loop.copies,
        "others": level.loop.others,
        "kilobytes": level.loop.bytes / 1e3 / plan.pool,
        "steps": level.steps * plan.pool / INSTANCES,
        "step_us": 1e6 * level.seconds / level.steps / plan.pool,
    }


def _loop_jobs(scale: Scale) -> list[Job]:
    return [Job(f"memory in the loop, n = {n:,}", functools.partial(_loop_memory, scale, n))
            for n in sorted({scale.n, *scale.growth_n})]  # fmt: skip


def _loop_memory(scale: Scale, n: int) -> list[Row]:
    """From the shapes of what the loop carries."""
    lanes = scale.wide
    row = jax.ShapeDtypeStruct((lanes, n), jnp.int32)
    one = jax.ShapeDtypeStruct((lanes,), jnp.int32)
    instance = dict.fromkeys(("prompt", "output", "lower", "upper"), row)
    flat = Instance(**instance, memory=one, num_requests=one)
    plan, chosen = make_plan(n, lanes, False), policy(scale.some[-1])
    limit = jax.ShapeDtypeStruct((), jnp.int32)
    table = jax.eval_shape(lambda flat, limit: make_table(flat, limit, chosen), flat, limit)
    skip = jax.ShapeDtypeStruct((lanes,), bool)
    state = jax.eval_shape(lambda table, skip: pool._start(table, plan, skip), table, skip)
    return [
        {
            "n": n,
            "narrow": _bytes(state.lanes, plan.slots[0]) / plan.pool / 1e3,
            "lane": _bytes(state.lanes) / plan.pool / 1e3,
            "queue": _bytes(state.queues) / plan.pool / 1e3,
            "log": 4 * 4 * plan.chunk / 1e3,
            "instance": (_bytes(table) + _bytes(state.records)) / lanes / 1e3,
            "loop": (_bytes(state.lanes) + _bytes(state.queues)) / plan.pool / 1e3
            + 16 * plan.chunk / 1e3,
        }
    ]


def _bytes(tree: Any, slots: int = 2**30) -> int:
    """Bytes of all leaves, arrays of slots cut to so many of them."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shape = (*leaf.shape[:1], *(min(size, slots) for size in leaf.shape[1:]))
        total += int(np.prod(shape)) * leaf.dtype.itemsize
    return total


STEPS = Section(
    name="steps",
    title="A step of the JAX engine on the CPU",
    note=(
        f"{INSTANCES} instances on one device, driven chunk by chunk; the pool holds `lanes` of "
        "them. Kernels are read from the compiled body of the loop, kB are what they read and "
        "write in a step and lane (of tables only what is looked up counts, as nothing). Steps are "
        "per instance, times per step and lane; a border is where chunks meet, per pool."
    ),
    columns={
        "policy": ("policy", "s"),
        "setting": ("predictions", "s"),
        "lanes": ("lanes", "d"),
        "slots": ("slots", ",d"),
        "fusions": ("fusions", "d"),
        "copies": ("copies", "d"),
        "others": ("others", "d"),
        "kilobytes": ("kB per step and lane", ".1f"),
        "steps": ("steps per instance", ",.0f"),
        "step_us": ("µs per step and lane", ".2f"),
        "border_us": ("µs per border", ",.0f"),
    },
    jobs=_jobs,
)

LOOP = Section(
    name="loop",
    title="Memory per lane in the loop of the JAX engine",
    note=(
        "From the shapes of what the loop carries, in kB per lane of the pool: its small state "
        "with the fewest slots and with all, the queue of those that returned, the log of a chunk; "
        "and per instance, the table and the results."
    ),
    columns={
        "n": ("n", ",d"),
        "narrow": ("state, fewest slots", ".1f"),
        "lane": ("state", ",.1f"),
        "queue": ("queue", ",.1f"),
        "log": ("log", ".1f"),
        "loop": ("in the loop", ",.1f"),
        "instance": ("per instance", ",.1f"),
    },
    jobs=_loop_jobs,
)
