"""The read-only side of a lane: its instance, and the requests that returned to the queue."""

from __future__ import annotations

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsched.arrays import Pytree, join
from jaxsched.engines.xla.choices import Read, ask
from jaxsched.engines.xla.fold import Loops
from jaxsched.engines.xla.home import Home
from jaxsched.engines.xla.wide import Wide
from jaxsched.instance import Instance
from jaxsched.policies.program import Choices
from jaxsched.policies.view import View
from jaxsched.workers.settings import LARGEST_BLOCK, MOST

NO_CAP = 2**31 - 1
"""A cap on running requests that never binds."""


class RunLimits(NamedTuple):
    """Numbers that hold for all lanes; scalars, int32."""

    max_rounds: jax.Array | np.int32
    max_batch: jax.Array | np.int32


class Numbers(NamedTuple):
    """Numbers of a policy, a clock and a worker that may differ from lane to lane."""

    # `Policy.params`, each leaf with an axis of lanes before its own, [N, ...]
    params: chex.ArrayTree = None
    # the six of `jaxsched.clocks.Ticks` in pairs, [N, 6, 2] uint32; `None` for rounds
    clock: jax.Array | None = None
    # block, max_num_seqs, budget and watermark of a worker with blocks, [N, 4] int32; `None` for
    # the papers'
    worker: jax.Array | None = None


class LaneTable(Pytree):
    """All instances of a simulation.

    What is looked up by request is flat: XLA:CPU would fuse a reshape into the lookup, count the
    whole table as read, and hand the lookup to several threads at ten times its cost.
    """

    # what the policies may see, one array per field of `View`, [N * n]
    fields: dict[str, chex.Array]
    # requests in the order in which they enter: by admission key for a backlog, by arrival
    # otherwise; ties by index, padding last, [N * n]
    order: chex.Array
    count: chex.Array  # real requests, [N]
    memory: chex.Array  # KV cache in tokens, [N]
    params: chex.ArrayTree  # numbers of the policy, [N, ...]
    clock: chex.Array | None  # coefficients of a clock in picoseconds, [N, 6] int64, or `None`
    # arrivals in picoseconds, [N * n] int64, or `None` without a clock or in a backlog
    due: chex.Array | None
    limits: RunLimits  # round limit and cap on running requests
    one: chex.Array  # A 1 that the compiler cannot see through, for `settle`, []
    # cap, budget, watermark and `blocks.BlockSize` of a worker with blocks, or `None`, [N, 6]
    worker: chex.Array | None


class Inputs(NamedTuple):
    """One lane's row of the table; scalars but for the table and the policy's numbers."""

    home: Home
    table: LaneTable
    row: jax.Array
    num_requests: jax.Array
    memory: jax.Array
    params: chex.ArrayTree
    clock: jax.Array | tuple[jax.Array, ...] | None  # six coefficients
    limits: RunLimits
    worker: jax.Array | tuple[jax.Array, ...] | None  # six numbers


class Queue(Pytree):
    """Requests that returned to a lane's queue before the last border."""

    # (key, index) sorted ascending, NEVER-padded, each pair of shape [capacity]
    runs: tuple[tuple[chex.Array, chex.Array], ...]
    estimate: chex.Array  # refined estimates by request, [n]
    # evictions by request, [n]; `None` if the policy does not read them
    evictions: chex.Array | None
    kept: chex.Array | None  # tokens generated so far, [n]; `None` on the papers' worker
    # of `queue.Window`, for the fresh order and each run, in a chunk of a plan that has them
    windows: Any = None


def make_table(
    instance: Instance, limits: RunLimits, choices: Choices, numbers: Numbers
) -> LaneTable:
    """Lays out canonical instances of lane shape [N] for one policy."""
    clock = due = None
    arrivals = instance.arrival is not None
    if numbers.clock is not None:
        clock = join(numbers.clock)
        due = join(instance.arrival) if arrivals else None
        if arrivals:
            instance = instance.replace(arrival=_turns(due, instance.num_requests))
    position = lax.broadcasted_iota(np.int32, instance.prompt.shape, 1)
    real = position < instance.num_requests[:, None]
    fields = view_fields(instance)
    if choices.rank is not None:
        fields["rank"] = ranks(choices, instance, numbers.params)
    elif "rank" in choices.reads:
        fields["rank"] = jnp.zeros_like(instance.prompt)

    def first_keys(fields: dict[str, jax.Array], memory: jax.Array, params: Any) -> jax.Array:
        if arrivals:
            return fields["arrival"]
        read, shape = reader(fields, memory=memory), fields["prompt"].shape
        estimate = ask(choices, "estimate", read, params, shape)
        nothing = jnp.zeros(shape, jnp.int32)
        read = reader(
            fields, memory=memory, estimate=estimate, evictions=nothing, generated=nothing
        )
        return ask(choices, "admission_key", read, params, shape)

    key = jax.vmap(first_keys)(fields, instance.memory, numbers.params)
    return LaneTable(
        fields={name: array.reshape(-1) for name, array in fields.items()},
        order=sorted_pairs(jnp.where(real, key, np.int32(2**31 - 1)), None)[1].reshape(-1),
        count=instance.num_requests,
        memory=instance.memory,
        params=numbers.params,
        clock=clock,
        due=None if due is None else due.reshape(-1),
        limits=limits,
        one=1 + (jnp.sum(instance.memory > 0, dtype=np.int32) < 0).astype(np.int32),
        worker=None if numbers.worker is None else _rules(numbers.worker, limits),
    )


def _rules(worker: jax.Array, limits: RunLimits) -> jax.Array:
    block, seqs, budget, watermark = (worker[:, k] for k in range(4))
    block, cap = jnp.clip(block, 1, LARGEST_BLOCK), jnp.minimum(seqs, limits.max_batch)
    bits = 32 - lax.clz(block - 1)
    with jax.enable_x64(True):
        scale = jnp.left_shift(np.int64(1), 30 + bits.astype(jnp.int64))
        factor = (scale // block.astype(jnp.int64) + 1).astype(jnp.int32)
    return jnp.stack([cap, budget, watermark, block, factor, 30 + bits], axis=-1)


def reader(*sources: dict[str, jax.Array], **fields: jax.Array) -> Read:
    """Looks fields up in what is given by name, then in the sources."""
    known = {name: value for inputs in reversed(sources) for name, value in inputs.items()}
    return (known | fields).__getitem__


def ranks(choices: Choices, instance: Instance, params: Any) -> jax.Array:
    """Places of the requests of each lane by the policy's order of a whole backlog, [N, n].

    Args:
      choices: A policy that has such an order.
      instance: In canonical form, [N, n].
      params: Numbers of the policy, [N, ...].
    """
    order = choices.rank
    assert order is not None
    position = lax.broadcasted_iota(np.int32, instance.prompt.shape, 1)
    real = position < instance.num_requests[:, None]

    def of_lane(
        fields: dict[str, jax.Array], memory: jax.Array, params: Any, real: jax.Array
    ) -> jax.Array:
        read = reader(fields, memory=memory)
        estimate = ask(choices, "estimate", read, params, real.shape)
        with jax.enable_x64(True):
            wide = {**fields, "memory": memory, "estimate": estimate, "params": params}
            wide = jax.tree.map(lambda leaf: leaf.astype(jnp.int64), wide)
            return order(View(**wide), real).astype(jnp.int32)

    return jax.vmap(of_lane)(view_fields(instance), instance.memory, params, real)


def valid_numbers(numbers: Numbers) -> jax.Array | np.bool_:
    """Whether clock and worker of a lane can be, [N]; clocks that cannot hold -1."""
    good: jax.Array | np.bool_ = np.bool_(True)
    if numbers.clock is not None:
        good &= numbers.clock[:, 0, 0] >> np.uint32(31) == 0
    if numbers.worker is not None:
        block, seqs, budget, watermark = (numbers.worker[:, k] for k in range(4))
        good &= (block >= 1) & (block <= LARGEST_BLOCK) & (seqs >= 1) & (watermark >= 0)
        good &= (budget >= seqs) & (budget <= MOST) & (watermark <= MOST)
    return good


def _turns(due: jax.Array, count: jax.Array) -> jax.Array:
    """Numbers arrivals from 0 as they come, equal ones alike, [N, n] int32; padding last."""
    n = due.shape[1]
    position = lax.broadcasted_iota(np.int32, due.shape, 1)
    with jax.enable_x64(True):
        key = jnp.where(position < count[:, None], due, np.int64(2**63 - 1))
        ordered, index = lax.sort((key, position), num_keys=1, is_stable=True)
        later = jnp.diff(ordered, axis=1) > 0
    turn = jnp.pad(jnp.cumsum(later.astype(jnp.int32), axis=1, dtype=np.int32), ((0, 0), (1, 0)))
    row = lax.broadcasted_iota(np.int32, (due.shape[0], n), 0)
    return jnp.zeros_like(position).at[row, index].set(turn)


def view_fields(instance: Instance) -> dict[str, jax.Array]:
    """The fields of `View` by request; what the instance does not have is zero."""
    zeros = jnp.zeros_like(instance.prompt)
    return {
        "prompt": instance.prompt,
        "output": instance.output,
        "lower": instance.lower,
        "upper": instance.upper,
        "point": zeros if instance.point is None else instance.point,
        "arrival": zeros if instance.arrival is None else instance.arrival,
    }


def inputs_of(table: LaneTable, row: jax.Array, wide: bool) -> Inputs:
    """Looks one lane's scalars up, for a loop of XLA over a narrow or a wide pool."""
    params, clock, worker = jax.tree.map(
        lambda leaf: leaf[row], (table.params, table.clock, table.worker)
    )
    home = Wide(table.one) if wide else Loops(table.one)
    count, memory = table.count[row], table.memory[row]
    return Inputs(home, table, row, count, memory, params, clock, table.limits, worker)


def lookup(inputs: Inputs, name: str, column: jax.Array) -> jax.Array:
    """An element of a lane's row of `order`, `due` or a field of `View`; past the end the last."""
    table = inputs.table
    array = getattr(table, name) if name in ("order", "due") else table.fields[name]
    return gather(inputs.home, array, table, inputs.row, column)


def gather(
    home: Home, array: jax.Array, table: LaneTable, row: jax.Array, column: jax.Array
) -> jax.Array:
    """Looks `[row, column]` up in a flat array of the table; past its end a row gives its last."""
    width = np.int32(array.shape[0] // table.memory.shape[0])
    return home.lookup(array, row * width + jnp.clip(column, 0, width - 1))


def fields_of(inputs: Inputs, index: jax.Array) -> Read:
    """What is known of a waiting request; what the policy does not read is not fetched."""

    def read(name: str) -> jax.Array:
        if name == "generated":
            return jnp.zeros_like(index)  # the papers' worker keeps no tokens
        return inputs.memory if name == "memory" else lookup(inputs, name, index)

    return read


def known_as(read: Read, **fields: jax.Array | None) -> Read:
    """The same, but for some fields."""

    def first(name: str) -> jax.Array:
        value = fields.get(name)
        return read(name) if value is None else value

    return first


def sorted_pairs(key: jax.Array, index: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Sorts (key, index) pairs along the last axis; the index defaults to the position.

    Packs each pair into 64 bits, which sorts four times faster on a CPU than two operands.
    """
    if index is None:
        index = lax.broadcasted_iota(np.int32, key.shape, key.ndim - 1)
    with jax.enable_x64(True):
        packed = (key.astype(jnp.int64) << np.int64(32)) | index.astype(jnp.int64)
        packed = lax.sort(packed, is_stable=False)
        return (packed >> np.int64(32)).astype(jnp.int32), packed.astype(jnp.int32)
