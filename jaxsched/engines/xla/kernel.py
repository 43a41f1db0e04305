"""A chunk of steps as one kernel on a GPU: a program a lane, which holds the lane's arrays on chip.

The step is that of the loop. A program loads a lane, steps it until it stands still or the chunk is
over, writes a row of the log after each step, and stores the lane. Every number of slots has a
kernel of its own; a program whose lane needs another number leaves at once. Those in use come to
the front when a lane is stored, so that their number decides, and not where they were.

What it is compiled with is in `triton.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl

from jaxsched.arrays import Pytree
from jaxsched.engines.xla.home import Masked, places_of
from jaxsched.engines.xla.inputs import Inputs, LaneTable, Queue
from jaxsched.engines.xla.state import (
    RUN,
    WANTS_SLOT,
    Event,
    Lane,
    LoopPlan,
    Slots,
    Stepper,
    narrower,
)
from jaxsched.engines.xla.triton import compiler_params
from jaxsched.policies.program import Choices

_T = TypeVar("_T")


class Chip(Masked):
    """What a step stands on in a kernel: registers, and references to tables in memory."""

    def put_all(self, old: _T, places: Sequence[jax.Array], new: Sequence[_T]) -> _T:
        """The first, and the others where there are any."""
        old = super().put_all(old, places[:1], new[:1])
        if len(places) == 1:
            return old
        several = places[1] < np.int32(jax.tree.leaves(old)[0].shape[-1])
        others = super().put_all
        return self.when(several, lambda tree: others(tree, places[1:], new[1:]), old)

    def first(self, key: jax.Array, index: jax.Array) -> tuple[Any, jax.Array]:
        smallest = key == self.lowest(key)
        found = self.lowest(jnp.where(smallest, index, np.int32(2**31 - 1)))
        return smallest & (index == found), found

    def lookup(self, table: Any, place: jax.Array) -> jax.Array:
        return table[place]

    def each(self, function: Callable[[Any], _T], count: int) -> list[_T]:
        return [function(np.int32(i)) for i in range(count)]

    def first_places(
        self, free: jax.Array, count: int, several: jax.Array | None = None
    ) -> list[jax.Array]:
        none = np.int32(free.shape[-1])
        places = jnp.where(free, places_of(free), none)

        def others(found: list[jax.Array]) -> list[jax.Array]:
            found, last = [], first
            for _ in range(count - 1):
                last = self.lowest(jnp.where(places > last, places, none))
                found.append(last)
            return found

        first = self.lowest(places)
        if several is None:
            return [first]
        return [first, *self.when(several, others, [jnp.full_like(first, none)] * (count - 1))]

    def when(self, condition: jax.Array, function: Callable[[_T], _T], state: _T) -> _T:
        def solid(tree: _T) -> _T:
            # The lowering of `cond` takes no constants; the compiler takes this choice out again.
            return jax.tree.map(lambda x: x if x.shape else lax.select(condition, x, x), tree)

        return lax.cond(condition, lambda s: solid(function(s)), lambda s: s, solid(state))


class _Row:
    """A row of a table in memory, as a flat array of which single elements are read."""

    def __init__(self, table: Any, row: jax.Array) -> None:
        self._table, self._row, self.shape = table, row, table.shape[1:]

    def reshape(self, _: int) -> _Row:
        """Itself."""
        return self

    def __getitem__(self, place: Any) -> jax.Array:
        return self._table[self._row, place]


class Turn(Pytree):
    """How far lanes are in a chunk."""

    level: chex.Array  # position in `LoopPlan.slots` of the number of slots that each needs, [W]
    steps: chex.Array  # steps taken, [W]


def run_chunk(
    table: LaneTable,
    choices: Choices,
    plan: LoopPlan,
    advance: Stepper,
    level: int,
    queues: Queue,
    row: jax.Array,
    lanes: Lane,
    log: Event,
    turn: Turn,
) -> tuple[Lane, Event, Turn]:
    """Steps lanes until each stands still or needs fewer slots, `plan.chunk` times at most.

    Args:
      table: N instances.
      choices: The scheduler.
      plan: Static sizes.
      advance: How a lane advances.
      level: Position in `plan.slots` of the number of slots that the kernel has.
      queues: Returned requests of the lanes, [W, ...].
      row: Instance that each works on, [W].
      lanes: Their small state, [W, ...].
      log: Of shape [W, chunk], with nothing in it from `turn.steps` on.
      turn: Lanes that need another number of slots stay as they are.
    """
    table = table.replace(
        params=jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0], -1), table.params),
        limits=jax.tree.map(lambda leaf: jnp.reshape(leaf, 1), table.limits),
        one=jnp.reshape(table.one, 1),
    )
    read = (table, queues, row)
    written = (lanes, log, turn)
    count, few = plan.slots[level], np.int32(narrower(plan.slots, level))

    def body(refs: tuple[Any, Any], out: tuple[Lane, Event, Turn]) -> None:
        me = pl.program_id(0)
        pl.when(out[2].level[me] == np.int32(level))(lambda: mine(me, refs[0], out))

    def mine(me: jax.Array, read: Any, out: tuple[Lane, Event, Turn]) -> None:
        (table, queues, row), (lanes, log, turn) = read, out
        lane = jax.tree.map(lambda ref: _load(ref, me), lanes)
        lane = lane.replace(slots=jax.tree.map(lambda ref: _load(ref, me, count), lanes.slots))
        queue = jax.tree.map(lambda ref: _Row(ref, me), queues)
        inputs = _inputs(table, row[me])
        lane = advance.begin(lane, queue, inputs, choices, plan)

        def unfinished(carry: tuple[jax.Array, Lane]) -> jax.Array:
            i, lane = carry
            return (i < np.int32(plan.chunk)) & (lane.halt == RUN) & (lane.used > few)

        def one(carry: tuple[jax.Array, Lane]) -> tuple[jax.Array, Lane]:
            i, lane = carry
            lane, event = advance.step(lane, queue, inputs, choices, plan)
            _store(log, event, (me, i))
            return i + np.int32(1), lane

        turn.steps[me], lane = lax.while_loop(unfinished, one, (turn.steps[me], lane))
        used, places = _compact(lane)
        following = np.int32(level) - (used <= few).astype(np.int32)
        turn.level[me] = jnp.where(lane.halt == WANTS_SLOT, np.int32(level + 1), following)
        _store(lanes.slots, lane.slots, (me, places))
        _store(lanes.replace(slots=None), lane.replace(slots=None, front=None), me)

    found: tuple[Lane, Event, Turn] = _call(body, plan, count, read, written)
    return found


def _compact(lane: Lane) -> tuple[jax.Array, jax.Array]:
    """How many slots are in use, and a new place for each slot, [S]: those in use first."""
    slots: Slots = lane.slots
    taken = (slots.end > lane.time) | (slots.finish > lane.time)
    before = jnp.cumsum(taken.astype(np.int32), dtype=np.int32)
    used = jnp.sum(taken, dtype=np.int32)
    return used, jnp.where(taken, before - np.int32(1), used + places_of(before) - before)


def _inputs(table: LaneTable, row: jax.Array) -> Inputs:
    clock = None if table.clock is None else tuple(table.clock[row, i] for i in range(6))
    worker = None if table.worker is None else tuple(table.worker[row, i] for i in range(6))
    return Inputs(
        home=Chip(),
        table=table,
        row=row,
        num_requests=table.count[row],
        memory=table.memory[row],
        params=jax.tree.map(lambda ref: _Row(ref, row), table.params),
        clock=clock,
        limits=jax.tree.map(lambda ref: ref[0], table.limits),
        worker=worker,
    )


def _load(ref: Any, me: jax.Array, count: int | None = None) -> jax.Array:
    if len(ref.shape) == 1:
        with jax.enable_x64(True):
            return ref[me]
    return ref[me, pl.ds(0, count or ref.shape[1])]


def _store(refs: Any, values: Any, place: Any) -> None:
    for ref, value in zip(jax.tree.leaves(refs), jax.tree.leaves(values), strict=True):
        whole = value.ndim and not isinstance(place, tuple)
        _write(ref, (place, pl.ds(0, value.shape[0])) if whole else place, value)


def _write(ref: Any, place: Any, value: jax.Array) -> None:
    """A clock has 64 bits."""
    with jax.enable_x64(True) if value.dtype == np.int64 else contextlib.nullcontext():
        ref[place] = value


def _call(body: Callable[..., None], plan: LoopPlan, slots: int, read: Any, written: Any) -> Any:
    """Runs a body for every lane on references to what is read and to what is written in place."""
    given, structure = jax.tree.flatten((read, written))
    outputs, out_structure = jax.tree.flatten(written)
    first = len(given) - len(outputs)

    def kernel(*refs: Any) -> None:
        inputs = jax.tree.unflatten(structure, refs[: len(given)])
        body(inputs, jax.tree.unflatten(out_structure, refs[len(given) :]))

    call = pl.pallas_call(
        kernel,
        out_shape=[jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in outputs],
        grid=(plan.pool,),
        input_output_aliases={first + i: i for i in range(len(outputs))},
        interpret=plan.kernel == "interpret",
        compiler_params=compiler_params(slots),
        name=f"steps_{slots}",
    )
    return jax.tree.unflatten(out_structure, call(*given))
