"""The exact engine: fixed-shape state stepped from event to event inside `jax.lax` loops."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsched.arrays import split
from jaxsched.engines.xla import loop
from jaxsched.engines.xla.hindsight import IN_ORDER
from jaxsched.engines.xla.inputs import (
    NO_CAP,
    LaneTable,
    Numbers,
    RunLimits,
    make_table,
    ranks,
    valid_numbers,
)
from jaxsched.engines.xla.plan import compiler_options, make_plan
from jaxsched.engines.xla.serving import simulate_serving
from jaxsched.engines.xla.step import ANY_ORDER
from jaxsched.instance import Instance, valid_lanes
from jaxsched.policies.program import Choices
from jaxsched.result import Result, Status

__all__ = [
    "NO_CAP",
    "Numbers",
    "RunLimits",
    "compiler_options",
    "make_plan",
    "ranks",
    "simulate_lanes",
    "valid_numbers",
]

GROUP_REQUESTS = 2**17
"""Requests of the lanes that a CPU works on at a time."""


def simulate_lanes(
    instance: Instance,
    numbers: Numbers,
    limits: RunLimits,
    choices: Choices,
    capped: bool = False,
    history: int = 0,
) -> Result:
    """Simulates canonical instances of lane shape [N]; traceable.

    On a CPU the lanes are taken in groups: XLA hands a lookup to several threads, at ten times its
    cost, once the table that it reads from is large.

    Args:
      instance: Instances in canonical form, request arrays of shape [N, n].
      numbers: Those of the policy and the clock, [N, ...].
      limits: Round limit and cap on running requests.
      choices: The scheduler.
      capped: Whether there is such a cap.
      history: Evicted runs of a lane to keep.
    """
    run = functools.partial(
        _simulate_group, limits=limits, choices=choices, capped=capped, history=history
    )
    lanes = instance.lanes[0]
    group = max(1, GROUP_REQUESTS // instance.n)
    if jax.default_backend() != "cpu" or lanes <= group:
        return run(instance, numbers)
    count = -(-lanes // group)
    fill = count * group - lanes
    grouped = jax.tree.map(lambda leaf: _in_groups(leaf, fill, count), (instance, numbers))
    result = lax.map(lambda part: run(*part), grouped)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:lanes], result)


def _in_groups(leaf: jax.Array, fill: int, count: int) -> jax.Array:
    """Adds `fill` lanes of zeros, which have no requests, and splits the lanes."""
    padded = jnp.pad(leaf, ((0, fill), *((0, 0) for _ in leaf.shape[1:])))
    return padded.reshape(count, -1, *leaf.shape[1:])


def _simulate_group(
    instance: Instance,
    numbers: Numbers,
    limits: RunLimits,
    choices: Choices,
    capped: bool,
    history: int,
) -> Result:
    valid = valid_lanes(instance) & valid_numbers(numbers)
    arrivals, clocked = instance.arrival is not None, numbers.clock is not None
    if numbers.worker is not None:
        table = make_table(instance, limits, choices, numbers)
        return simulate_serving(table, numbers.worker, choices, arrivals, ~valid, history)
    counts_evictions = "evictions" in choices.reads
    whole = choices.unknown is None
    plan = make_plan(
        instance.n, instance.lanes[0], arrivals, clocked, history, counts_evictions, whole
    )
    in_order = choices.shortest_first and not (arrivals or clocked or capped)
    if in_order:
        plan = dataclasses.replace(plan, party=1)
    table = make_table(instance, limits, choices, numbers)
    records = loop.run_pool(table, choices, plan, ~valid, IN_ORDER if in_order else ANY_ORDER)
    return _summary(table, records, valid)


def _summary(table: LaneTable, records: loop.Records, valid: jax.Array) -> Result:
    """Turns the log's records into completion times and totals."""
    shape = records.last.shape
    output, prompt, arrival = (
        table.fields[name].reshape(shape) for name in ("output", "prompt", "arrival")
    )
    position = lax.broadcasted_iota(np.int32, output.shape, 1)
    real = (position < table.count[:, None]) & valid[:, None]
    # A last record 2 p + 1 is odd: the final run began in round p.
    running = real & (records.last >= 0) & (records.last % 2 == 1)
    begun = records.last // 2
    timed, runs = records.timed, records.runs
    last_round = table.limits.max_rounds if timed is None else timed.rounds[:, None]
    done = running & (output <= last_round - begun)
    completion = jnp.where(done, begun + output, -1)
    with jax.enable_x64(True):
        # A run that the round limit cut off used memory too.
        tokens = jnp.where(done, output, jnp.where(running, last_round - begun, np.int32(0)))
        tokens, prompt = tokens.astype(jnp.int64), prompt.astype(jnp.int64)
        counts = done if timed is None else jnp.zeros_like(done)
        latency = jnp.where(counts, completion - arrival, np.int32(0)).astype(jnp.int64)
        area = prompt * tokens + tokens * (tokens + 1) // 2
        totals = jnp.stack(
            [
                jnp.sum(latency, axis=-1),
                records.lost[:, 0],
                jnp.sum(area, axis=-1) + records.lost[:, 1],
            ],
            axis=-1,
        )
    finished = jnp.all(done | ~real, axis=-1)
    status = jnp.where(finished, np.int32(Status.FINISHED), np.int32(Status.ROUND_LIMIT))
    return Result(
        completion=completion,
        first_token=jnp.where(records.first != np.int32(2**31 - 1), records.first + 1, -1),
        preemptions=records.preemptions,
        evictions=jnp.sum(records.preemptions, axis=-1, dtype=np.int32),
        peak_memory=records.peak,
        rounds=jnp.maximum(jnp.max(completion, axis=-1), 0),
        status=jnp.where(valid, status, np.int32(Status.INVALID)),
        totals=split(totals),
        num_requests=table.count,
        times=None if timed is None else split(timed.times),
        history=None if runs is None else runs.entries,
    )
