"""A pool of lanes stepped side by side until every instance is done.

Steps run in chunks. At the border between two chunks the log of events goes to the results, full
buffers are sorted into the returned runs, finished lanes take the next instance, and the number of
slots follows the busiest lane.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsched.arrays import Pytree
from jaxsched.engines.xla import log as events
from jaxsched.engines.xla.blocks import run_time
from jaxsched.engines.xla.fold import Loops
from jaxsched.engines.xla.inputs import LaneTable, Queue, gather, inputs_of, sorted_pairs
from jaxsched.engines.xla.queue import with_windows
from jaxsched.engines.xla.state import (
    DONE,
    NEVER,
    RUN,
    WANTS_BUFFER,
    WANTS_SLOT,
    Event,
    Lane,
    LoopPlan,
    Served,
    Stepper,
    empty_buffer,
    empty_round,
    empty_slots,
)
from jaxsched.engines.xla.turns import close_ranks, next_levels, put_back, rows_of, turn_of
from jaxsched.policies.program import Choices

_Run = tuple[jax.Array, jax.Array]
_Runs = tuple[_Run, ...]
Merged = tuple[_Runs, tuple[jax.Array, ...]]


class Records(Pytree):
    """What the log has told so far, by instance."""

    # 2 p + 1 for a request last admitted in round p, 2 t if last evicted in round t, -1 if never
    # admitted, [N, n]
    last: chex.Array
    first: chex.Array  # round of the first admission, NEVER if none, [N, n]
    preemptions: chex.Array  # evictions of each request, [N, n]
    lost: chex.Array  # tokens and token-rounds lost to evictions, [N, 2] int64
    peak: chex.Array  # largest per-round memory, [N]
    timed: events.Timed | None = None  # what a clock adds, or `None`
    runs: events.EvictedRuns | None = None  # evicted runs, or `None` if nobody asked for them
    # on a worker with blocks: tokens kept at the last eviction, [N, n], and the round of the last
    # admission if there are `runs`
    kept: chex.Array | None = None
    admitted: chex.Array | None = None


class Pool(Pytree):
    """W lanes at work."""

    lanes: Lane  # their small state, [W, ...]
    queues: Queue  # their returned requests, [W, ...]
    row: chex.Array  # instance that each works on, [W]
    next_row: chex.Array  # first instance not yet started, []
    level: chex.Array  # position in `LoopPlan.slots` of the slot count that each needs, [W]
    records: Records  # results so far


def run_pool(
    table: LaneTable, choices: Choices, plan: LoopPlan, skip: jax.Array, advance: Stepper
) -> Records:
    """Simulates every instance of a table.

    Args:
      table: N instances.
      choices: The scheduler.
      plan: Static sizes.
      skip: Instances that must not be simulated, [N] bool.
      advance: How a lane advances.
    """
    pool = _start(table, plan, skip)
    branches = [
        functools.partial(_chunk, table, choices, plan, advance, i) for i in range(len(plan.slots))
    ]

    def body(pool: Pool) -> Pool:
        if plan.kernel:
            pool, log = _kernels(table, choices, plan, advance, pool)
            return _border(pool, log, table, plan, skip)
        chosen, level = turn_of(pool.lanes, pool.level, plan)
        pool, log = lax.switch(level, branches, pool, chosen)
        return _border(pool, log, table, plan, skip, chosen)

    def unfinished(pool: Pool) -> jax.Array:
        return jnp.any(pool.lanes.halt != DONE) | (pool.next_row < np.int32(skip.shape[0]))

    return lax.while_loop(unfinished, body, pool).records


def _start(table: LaneTable, plan: LoopPlan, skip: jax.Array) -> Pool:
    lanes, total = plan.pool, table.memory.shape[0]
    zero = jnp.zeros((lanes,), jnp.int32)
    row = lax.iota(np.int32, lanes)
    idle = row >= np.int32(total)
    row = jnp.minimum(row, np.int32(total - 1))
    halt = jnp.where(idle | skip[row], DONE, RUN)
    shape = (total, plan.n)
    return Pool(
        lanes=Lane(
            slots=empty_slots(lanes, plan),
            buffer=empty_buffer(lanes, plan),
            time=zero,
            jump=zero,
            heads=_fresh_heads(plan, lanes),
            peak=zero,
            halt=halt,
            used=jnp.full_like(row, NEVER),
            clock=events.wide_zeros((lanes,)) if plan.clocked else None,
            prefill=zero if plan.clocked else None,
            round=empty_round((lanes,), plan),
        ),
        queues=_empty_queues(plan, lanes),
        row=row,
        next_row=jnp.int32(min(lanes, total)),
        level=zero,
        records=Records(
            last=jnp.full(shape, -1, jnp.int32),
            first=jnp.full(shape, NEVER),
            preemptions=jnp.zeros(shape, jnp.int32),
            lost=events.wide_zeros((total, 2)),
            peak=jnp.zeros((total,), jnp.int32),
            timed=events.no_times(shape) if plan.clocked else None,
            runs=events.no_runs(total, plan.history, plan.blocks) if plan.history else None,
            kept=jnp.zeros(shape, jnp.int32) if plan.blocks else None,
            admitted=jnp.zeros(shape, jnp.int32) if plan.blocks and plan.history else None,
        ),
    )


def _fresh_heads(plan: LoopPlan, lanes: int) -> tuple[jax.Array, ...]:
    """Nothing taken from the fresh order; the returned runs are empty, that is all taken."""
    return tuple(jnp.full((lanes,), taken, jnp.int32) for taken in (0, *plan.runs))


def _empty_queues(plan: LoopPlan, lanes: int) -> Queue:
    never = [jnp.full((lanes, capacity), NEVER) for capacity in plan.runs]
    zeros = jnp.zeros((lanes, plan.n), jnp.int32)
    return Queue(
        runs=tuple((run, run) for run in never),
        estimate=zeros,
        evictions=zeros if plan.counts_evictions else None,
        kept=zeros if plan.blocks else None,
    )


def _chunk(
    table: LaneTable,
    choices: Choices,
    plan: LoopPlan,
    advance: Stepper,
    level: int,
    pool: Pool,
    chosen: jax.Array | None = None,
) -> tuple[Pool, Event]:
    """Steps lanes until each stands still, `plan.chunk` times at most."""
    narrow = jax.tree.map(lambda array: array[:, : plan.slots[level]], pool.lanes.slots)
    lanes = rows_of(pool.lanes.replace(slots=narrow), chosen)
    queues, row, before = rows_of((pool.queues, pool.row, pool.level), chosen)
    # Who needs more slots than this is not in its turn.
    turn = before <= np.int32(level)
    lanes = lanes.replace(halt=jnp.where(turn | (lanes.halt != RUN), lanes.halt, WANTS_BUFFER))

    def look_ahead(lane: Lane, queue: Queue, row: jax.Array) -> tuple[Queue, tuple[jax.Array, ...]]:
        return with_windows(lane.heads, queue, inputs_of(table, row, plan.wide), choices, plan)

    def begin(lane: Lane, queue: Queue, row: jax.Array) -> Lane:
        return advance.begin(lane, queue, inputs_of(table, row, plan.wide), choices, plan)

    def one(lane: Lane, queue: Queue, row: jax.Array) -> tuple[Lane, Event]:
        return advance.step(lane, queue, inputs_of(table, row, plan.wide), choices, plan)

    def body(lanes: Lane, _: None) -> tuple[Lane, Event]:
        return jax.vmap(one)(lanes, queues, row)

    if plan.window:
        queues, firsts = jax.vmap(look_ahead)(lanes, queues, row)
        lanes = lanes.replace(heads=tuple(map(jnp.subtract, lanes.heads, firsts)))
    lanes = jax.vmap(begin)(lanes, queues, row)
    lanes, log = _scans(body, lanes, plan)
    lanes = lanes.replace(front=None)
    if plan.window:
        lanes = lanes.replace(heads=tuple(map(jnp.add, lanes.heads, firsts)))
    lanes = close_ranks(lanes, plan) if level else lanes
    following = jnp.where(turn, next_levels(lanes, plan, level), before)
    lanes, levels = put_back((pool.lanes, pool.level), chosen, (lanes, following))
    return pool.replace(lanes=lanes, level=levels), log


def _scans(
    body: Callable[[Lane, None], tuple[Lane, Event]], lanes: Lane, plan: LoopPlan
) -> tuple[Lane, Event]:
    """A chunk as scans of `plan.scan` steps, no more of them than it takes.

    Steps of scans that were not needed have NEVER as their time in the log.
    """
    if plan.scan == plan.chunk:
        return lax.scan(body, lanes, length=plan.chunk)

    def one(carry: tuple[jax.Array, Lane, Event]) -> tuple[jax.Array, Lane, Event]:
        i, lanes, log = carry
        lanes, events = lax.scan(body, lanes, length=plan.scan)
        return i + 1, lanes, jax.tree.map(lambda rows, row: rows.at[i].set(row), log, events)

    def unfinished(carry: tuple[jax.Array, Lane, Event]) -> jax.Array:
        i, lanes, _ = carry
        return (i < plan.chunk // plan.scan) & jnp.any(lanes.halt == RUN)

    log = _empty_log(plan, (plan.chunk // plan.scan, plan.scan, plan.width))
    _, lanes, log = lax.while_loop(unfinished, one, (jnp.int32(0), lanes, log))
    return lanes, jax.tree.map(lambda steps: steps.reshape(-1, plan.width), log)


def _empty_log(plan: LoopPlan, shape: tuple[int, ...]) -> Event:
    never, zeros = jnp.full(shape, NEVER), jnp.zeros(shape, jnp.int32)
    clock = events.wide_zeros(shape) if plan.clocked else None
    admitted = (never,) * plan.party
    served = Served(never, zeros, zeros, zeros, zeros) if plan.blocks else None
    return Event(
        admitted=admitted, evicted=never, time=never, lost=zeros, clock=clock, served=served
    )


def _kernels(
    table: LaneTable, choices: Choices, plan: LoopPlan, advance: Stepper, pool: Pool
) -> tuple[Pool, Event]:
    """The same in kernels, one for each number of slots; a lane takes part in that of its own.

    The widest comes first: a lane that needs fewer goes on in the next.
    """
    from jaxsched.engines.xla import kernel  # noqa: PLC0415 - Pallas, which only kernels need

    lanes, log = pool.lanes, _empty_log(plan, (plan.pool, plan.chunk))
    turn = kernel.Turn(level=pool.level, steps=jnp.zeros_like(pool.level))
    for level in reversed(range(len(plan.slots))):
        lanes, log, turn = kernel.run_chunk(
            table, choices, plan, advance, level, pool.queues, pool.row, lanes, log, turn
        )
    return pool.replace(lanes=lanes, level=turn.level), jax.tree.map(lambda rows: rows.T, log)


def _border(
    pool: Pool,
    log: Event,
    table: LaneTable,
    plan: LoopPlan,
    skip: jax.Array,
    chosen: jax.Array | None = None,
) -> Pool:
    records = _record(pool, log, table, plan, chosen)
    taken = jnp.sum(pool.lanes.buffer.key != NEVER, axis=-1, dtype=np.int32)
    crowded = jnp.any((taken > np.int32(plan.buffer // 2)) & (pool.lanes.halt != DONE))

    def flush(lanes: Lane, queues: Queue) -> tuple[Lane, Queue]:
        own = lanes.replace(slots=None), queues
        flushed = put_back(own, chosen, _flush(plan, *rows_of(own, chosen)))
        return flushed[0].replace(slots=lanes.slots), flushed[1]

    lanes, queues = lax.cond(crowded, flush, lambda *args: args, pool.lanes, pool.queues)
    waits = (lanes.halt == WANTS_SLOT) | (lanes.halt == WANTS_BUFFER)
    lanes = lanes.replace(halt=jnp.where(waits, RUN, lanes.halt))
    pool = pool.replace(lanes=lanes, queues=queues, records=records)
    if skip.shape[0] == plan.pool:
        return pool
    more = jnp.any(lanes.halt == DONE) & (pool.next_row < np.int32(skip.shape[0]))
    return lax.cond(more, lambda pool: _reload(pool, plan, skip), lambda pool: pool, pool)


def _record(
    pool: Pool, log: Event, table: LaneTable, plan: LoopPlan, chosen: jax.Array | None
) -> Records:
    """Writes a chunk's log to the results."""
    rows, time, peak = rows_of((pool.row, pool.lanes.time, pool.lanes.peak), chosen)
    records = pool.records
    row = jnp.broadcast_to(rows[None, :], log.time.shape)
    drop = {"mode": "drop"}
    starts = log.admitted if log.served is None else (log.served.begun,)
    begun, each = jnp.stack(starts, axis=-1), row[..., None]
    last = records.last.at[each, begun].max(2 * log.time[..., None] + 1, **drop)
    last = last.at[row, log.evicted].max(2 * log.time, **drop)
    first = records.first.at[each, begun].min(log.time[..., None], **drop)
    timed, runs, kept, admitted = records.timed, records.runs, records.kept, records.admitted
    if log.served is not None:
        kept = kept.at[row, log.evicted].max(log.served.kept, **drop)
        if admitted is not None:
            admitted = admitted.at[row, log.admitted[0]].max(log.time, **drop)
    if plan.clocked:
        output = table.fields["output"].reshape(last.shape)[rows]
        if kept is not None:
            output = output - kept[rows]
        timed = events.write_times(timed, log, rows, last[rows], first[rows], output)
        timed = timed.replace(rounds=timed.rounds.at[rows].set(time))
    if plan.history:
        runs = events.write_runs(runs, log, rows)
    evicted = log.evicted != NEVER
    prompt = gather(Loops(table.one), table.fields["prompt"], table, row, log.evicted)
    with jax.enable_x64(True):
        tokens = jnp.where(evicted, log.lost, np.int32(0)).astype(jnp.int64)
        if log.served is None:
            area = tokens * prompt.astype(jnp.int64) + tokens * (tokens + 1) // 2
        else:
            block = table.worker[None, rows, 3]
            area = run_time(log.lost, prompt + log.served.entered, block)
            area = jnp.where(evicted, area, np.int64(0)) + log.served.piece.astype(jnp.int64)
        lost = jnp.stack([jnp.sum(tokens, axis=0), jnp.sum(area, axis=0)], axis=-1)
        lost = records.lost.at[rows].add(lost)
    return Records(
        last=last,
        first=first,
        preemptions=records.preemptions.at[row, log.evicted].add(1, **drop),
        lost=lost,
        peak=records.peak.at[rows].max(peak),
        timed=timed,
        runs=runs,
        kept=kept,
        admitted=admitted,
    )


def _flush(plan: LoopPlan, lanes: Lane, queues: Queue) -> tuple[Lane, Queue]:
    """Empties the buffers into the returned runs."""
    buffer = lanes.buffer
    row = lax.broadcasted_iota(np.int32, buffer.key.shape, 0)
    estimate, evictions, kept = (
        None if old is None else old.at[row, buffer.index].set(new, mode="drop")
        for old, new in (
            (queues.estimate, buffer.estimate), (queues.evictions, buffer.evictions),
            (queues.kept, buffer.kept),
        )
    )  # fmt: skip
    runs, heads = _insert_from(0, plan, queues.runs, lanes.heads, (buffer.key, buffer.index))
    lanes = lanes.replace(buffer=empty_buffer(buffer.key.shape[0], plan), heads=heads)
    return lanes, Queue(runs=runs, estimate=estimate, evictions=evictions, kept=kept)


def _insert_from(
    i: int, plan: LoopPlan, runs: _Runs, heads: tuple[jax.Array, ...], incoming: _Run
) -> Merged:
    """Merges pairs into run i, or with all of run i into the next if they might not fit."""
    position = lax.broadcasted_iota(np.int32, runs[i][0].shape, 1)
    taken = position < heads[i + 1][:, None]
    left, other = (jnp.where(taken, NEVER, array) for array in runs[i])
    pairs = (
        jnp.concatenate([left, incoming[0]], axis=1),
        jnp.concatenate([other, incoming[1]], axis=1),
    )
    merged_heads = (*heads[: i + 1], jnp.zeros_like(heads[0]), *heads[i + 2 :])

    def merge() -> Merged:
        key, index = (array[:, : plan.runs[i]] for array in sorted_pairs(*pairs))
        return (*runs[:i], (key, index), *runs[i + 1 :]), merged_heads

    def pass_on() -> Merged:
        never = jnp.full_like(left, NEVER)
        rest = (*runs[:i], (never, never), *runs[i + 1 :])
        return _insert_from(i + 1, plan, rest, merged_heads, pairs)

    if i + 1 == len(plan.runs):
        return merge()
    count = jnp.sum(pairs[0] != NEVER, axis=1, dtype=np.int32)
    return lax.cond(jnp.any(count > np.int32(plan.runs[i])), pass_on, merge)


def _reload(pool: Pool, plan: LoopPlan, skip: jax.Array) -> Pool:
    """Gives finished lanes the next instances."""
    total = np.int32(skip.shape[0])
    lanes = pool.lanes
    done = lanes.halt == DONE
    row = pool.next_row + jnp.cumsum(done, dtype=np.int32) - 1
    fresh = done & (row < total)
    row = jnp.where(fresh, row, pool.row)
    clear = lambda array: jnp.where(fresh[:, None], 0, array)  # noqa: E731
    clock, prefill = lanes.clock, lanes.prefill
    if plan.clocked:
        clock = events.where_wide(fresh, np.int64(0), clock)
        prefill = jnp.where(fresh, 0, prefill)
    return pool.replace(
        lanes=Lane(
            slots=lanes.slots.replace(end=clear(lanes.slots.end), finish=clear(lanes.slots.finish)),
            buffer=lanes.buffer.replace(
                key=jnp.where(fresh[:, None], NEVER, lanes.buffer.key),
                index=jnp.where(fresh[:, None], NEVER, lanes.buffer.index),
            ),
            time=jnp.where(fresh, 0, lanes.time),
            jump=jnp.where(fresh, 0, lanes.jump),
            heads=jax.tree.map(
                lambda new, old: jnp.where(fresh, new, old),
                _fresh_heads(plan, plan.pool),
                lanes.heads,
            ),
            peak=jnp.where(fresh, 0, lanes.peak),
            halt=jnp.where(fresh & ~skip[row], RUN, lanes.halt),
            used=jnp.where(fresh, NEVER, lanes.used),
            clock=clock,
            prefill=prefill,
            round=jax.tree.map(
                lambda new, old: jnp.where(fresh, new, old),
                empty_round((plan.pool,), plan),
                lanes.round,
            ),
        ),
        row=row,
        next_row=pool.next_row + jnp.sum(fresh, dtype=np.int32),
    )
