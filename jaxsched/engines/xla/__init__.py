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
from jaxsched.engines.xla.blocks import run_time
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
from jaxsched.engines.xla.plan import SIZES, Sizes, compiler_options, make_plan
from jaxsched.engines.xla.serving import IN_ROUNDS
from jaxsched.engines.xla.step import ANY_ORDER
from jaxsched.instance import Instance, valid_lanes
from jaxsched.policies.program import Choices
from jaxsched.result import Result, Status

__all__ = [
    "NO_CAP",
    "SIZES",
    "Numbers",
    "RunLimits",
    "Sizes",
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
    sizes: Sizes = (),
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
      sizes: Of the plan, where they are not to be those of the backend.
    """
    run = functools.partial(
        _simulate_group,
        limits=limits,
        choices=choices,
        capped=capped,
        history=history,
        sizes=sizes,
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
    sizes: Sizes,
) -> Result:
    valid = valid_lanes(instance) & valid_numbers(numbers)
    arrivals, clocked = instance.arrival is not None, numbers.clock is not None
    counts_evictions, blocks = "evictions" in choices.reads, numbers.worker is not None
    whole = choices.unknown is None
    plan = make_plan(
        instance.n, instance.lanes[0], arrivals, clocked, history, counts_evictions, whole, blocks,
        choices.headroom is not None, sizes=sizes,
    )  # fmt: skip
    in_order = choices.shortest_first and not (arrivals or clocked or capped or blocks)
    if in_order:
        plan = dataclasses.replace(plan, party=1, window=0)
    table = make_table(instance, limits, choices, numbers)
    advance = IN_ROUNDS if blocks else IN_ORDER if in_order else ANY_ORDER
    records = loop.run_pool(table, choices, plan, ~valid, advance)
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
    timed, runs, kept = records.timed, records.runs, records.kept
    last_round = table.limits.max_rounds if timed is None else timed.rounds[:, None]
    left = output if kept is None else output - kept
    done = running & (left <= last_round - begun)
    completion = jnp.where(done, begun + left, -1)
    history = None if runs is None else runs.entries
    if runs is not None and kept is not None:
        history = jnp.concatenate([runs.entries, _last_runs(completion, records, output)], axis=1)
    with jax.enable_x64(True):
        # A run that the round limit cut off used memory too.
        tokens = jnp.where(done, left, jnp.where(running, last_round - begun, np.int32(0)))
        if kept is None:
            tokens, prompt = tokens.astype(jnp.int64), prompt.astype(jnp.int64)
            area = prompt * tokens + tokens * (tokens + 1) // 2
        else:
            since = prompt + kept
            area = run_time(since + tokens - 1, since, table.worker[:, 3:4])
        counts = done if timed is None else jnp.zeros_like(done)
        latency = jnp.where(counts, completion - arrival, np.int32(0)).astype(jnp.int64)
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
        history=history,
    )


def _last_runs(completion: jax.Array, records: loop.Records, output: jax.Array) -> jax.Array:
    """The runs in which requests completed on a worker with blocks, [N, n, 4]."""
    who = lax.broadcasted_iota(np.int32, completion.shape, 1)
    last = jnp.stack([who, records.admitted, completion, output], axis=-1)
    return jnp.where((completion >= 0)[..., None], last, np.int32(-1))
