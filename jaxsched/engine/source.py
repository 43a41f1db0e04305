"""The read-only side of a lane: its instance, and the requests that returned to the queue."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsched.engine.fold import settle
from jaxsched.instance import Instance
from jaxsched.policies import Policy, View

NO_CAP = 2**31 - 1
"""A cap on running requests that never binds."""


class Limits(NamedTuple):
    """Numbers that hold for all lanes; scalars, int32."""

    max_rounds: jax.Array | np.int32
    max_batch: jax.Array | np.int32


@chex.dataclass(frozen=True, mappable_dataclass=False)
class Table:
    """All instances of a simulation.

    What is looked up by request is flat: XLA:CPU would fuse a reshape into the lookup, count the
    whole table as read, and hand the lookup to several threads at ten times its cost.

    Attributes:
      fields: What the policies may see, one array per field of `View`, [N * n].
      order: Requests in the order in which they enter: by admission key for a backlog, by
        arrival otherwise; ties by index, padding last, [N * n].
      count: Real requests, [N].
      memory: KV cache in tokens, [N].
      limits: Round limit and cap on running requests.
      one: A 1 that the compiler cannot see through, for `settle`, [].
    """

    fields: dict[str, chex.Array]
    order: chex.Array
    count: chex.Array
    memory: chex.Array
    limits: Limits
    one: chex.Array


class Source(NamedTuple):
    """One lane's row of the table; scalars but for the table."""

    table: Table
    row: jax.Array
    count: jax.Array
    memory: jax.Array
    limits: Limits


@chex.dataclass(frozen=True, mappable_dataclass=False)
class Queue:
    """Requests that returned to a lane's queue before the last border.

    Attributes:
      runs: (key, index) sorted ascending, NEVER-padded, each pair of shape [capacity].
      estimate: Refined estimates by request, [n].
    """

    runs: tuple[tuple[chex.Array, chex.Array], ...]
    estimate: chex.Array


def make_table(instance: Instance, limits: Limits, policy: Policy) -> Table:
    """Lays out canonical instances of lane shape [N] for one policy."""
    fields = view_fields(instance)
    view = View(**fields)
    arrivals = instance.arrival is not None
    key = view.arrival if arrivals else policy.admission_key(policy.estimate(view), view)
    real = lax.broadcasted_iota(np.int32, key.shape, 1) < instance.num_requests[:, None]
    return Table(
        fields={name: array.reshape(-1) for name, array in fields.items()},
        order=sorted_pairs(jnp.where(real, key, np.int32(2**31 - 1)), None)[1].reshape(-1),
        count=instance.num_requests,
        memory=instance.memory,
        limits=limits,
        one=1 + (jnp.sum(instance.memory > 0, dtype=np.int32) < 0).astype(np.int32),
    )


def view_fields(instance: Instance) -> dict[str, jax.Array]:
    """The fields of `View`; what the instance does not have is zero."""
    zeros = jnp.zeros_like(instance.prompt)
    return {
        "prompt": instance.prompt,
        "output": instance.output,
        "lower": instance.lower,
        "upper": instance.upper,
        "point": zeros if instance.point is None else instance.point,
        "arrival": zeros if instance.arrival is None else instance.arrival,
    }


def source_of(table: Table, row: jax.Array) -> Source:
    """Looks one lane's scalars up."""
    return Source(table, row, table.count[row], table.memory[row], table.limits)


def lookup(source: Source, name: str, column: jax.Array) -> jax.Array:
    """An element of a lane's row of `order` or of a field of `View`; past the end the last one."""
    table = source.table
    return gather(table.order if name == "order" else table.fields[name], table, source.row, column)


def gather(array: jax.Array, table: Table, row: jax.Array, column: jax.Array) -> jax.Array:
    """Looks `[row, column]` up in a flat array of the table; past its end a row gives its last."""
    width = np.int32(array.shape[0] // table.memory.shape[0])
    (place,) = settle(table.one, row * width + jnp.clip(column, 0, width - 1))
    return array.at[place].get(mode="promise_in_bounds")


def view_of(source: Source, index: jax.Array) -> View:
    """What is known of one request; fields that the policy does not read are not fetched."""
    return View(**{name: lookup(source, name, index) for name in source.table.fields})


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
