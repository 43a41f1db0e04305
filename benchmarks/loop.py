"""Memory that a lane takes in the loop of the JAX engine, from the shapes of what it carries."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.scale import Scale
from benchmarks.section import Job, Row, Section
from benchmarks.steps import LIMITS
from jaxsched import Instance, policy
from jaxsched.engines.xla import Numbers, loop, make_plan
from jaxsched.engines.xla.inputs import make_table


def _jobs(scale: Scale) -> list[Job]:
    return [
        Job(f"memory in the loop, n = {n:,}", functools.partial(_row, scale, n))
        for n in sorted({scale.n, *scale.growth_n})
    ]


def _row(scale: Scale, n: int) -> list[Row]:
    lanes, chosen = scale.wide, policy(scale.some[-1])
    plan = make_plan(n, lanes, False)
    lay_out = functools.partial(
        make_table, limits=LIMITS, choices=chosen.choices, numbers=Numbers()
    )
    table = jax.eval_shape(lay_out, _shapes(lanes, n))
    skip = jax.ShapeDtypeStruct((lanes,), bool)
    state = jax.eval_shape(lambda table, skip: loop._start(table, plan, skip), table, skip)
    lane, queue = _bytes(state.lanes) / plan.pool, _bytes(state.queues) / plan.pool
    log = 4 * 4 * plan.chunk
    per_instance = (_bytes(table) + _bytes(state.records)) / lanes
    narrow = _bytes(state.lanes, plan.slots[0]) / plan.pool
    sizes = {"narrow": narrow, "lane": lane, "queue": queue, "log": log}
    sizes |= {"loop": lane + queue + log, "instance": per_instance}
    return [{"n": n} | {name: size / 1e3 for name, size in sizes.items()}]


def _shapes(lanes: int, n: int) -> Instance:
    """A backlog in canonical form, without its values."""
    row, one = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((lanes, n), (lanes,)))
    return Instance(prompt=row, output=row, lower=row, upper=row, memory=one, num_requests=one)


def _bytes(tree: Any, slots: int = 2**30) -> int:
    """Bytes of all leaves, arrays of slots cut to so many of them."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shape = (*leaf.shape[:1], *(min(size, slots) for size in leaf.shape[1:]))
        total += int(np.prod(shape)) * leaf.dtype.itemsize
    return total


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
    jobs=_jobs,
)
