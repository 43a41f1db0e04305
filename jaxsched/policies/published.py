"""Published schedulers with an order of the whole backlog, or quanta: Sorted-F and GSA-Spec.

docs/schedulers.md says what is the papers' and what is ours.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsched.policies.arithmetic import LARGEST, log2, memory_time, most, over, shift, where
from jaxsched.policies.fixed_point import exact
from jaxsched.policies.interface import Policy
from jaxsched.policies.paper import a_min, estimate_by, one, svf
from jaxsched.policies.view import View

Array = jax.Array


def sorted_f(by: str = "output") -> Policy:
    """Sorted-F in a greedy form: the batch of least sum(r) / size^2 goes first, and so on.

    With r the length by that name, at most memory - prompt: requests are sorted by memory-time
    s r + r (r + 1) / 2. The next batch is a number of them from the front so that sum(s + r) is at
    most the memory and sum(r) / size^2 least (in units of 2^-32, rounded down; of equals the
    smaller batch). In a batch the shortest goes first. No batch waits for the last one to end:
    requests enter in this order under the look-ahead test. The rest is as in `svf`.

    The order is one of a whole backlog, made before it starts: `simulate` refuses arrivals. Papers:
    arXiv 2508.06133; the greedy form is ours.

    Args:
      by: "output" (hindsight), "point", "lower" or "upper".

    Raises:
      ValueError: If `by` is none of them.
    """
    estimate_by("sorted_f", by)
    return dataclasses.replace(
        svf(by), name=f"sorted_f:{by}", rank=greedy_batches, admission_key=by_rank
    )


def gsa_spec(patience: Any = 64) -> Policy:
    """GSA with speculation: slices of 1, 2, 4, ... tokens, and no prediction at all.

    A request reserves its slice, and the shortest slice enters first; one that does not complete
    in its slice has to start again with a longer one, as in GSA (arXiv 2601.22996). But it may
    stay on memory that nobody has reserved, for `patience` slices at most; when memory runs out,
    the shortest slice is evicted first, as in `a_min`. The slice is then doubled until it is longer
    than what was generated.

    The paper gives this variant a growth of 2 and a second number of 64, which we read as the
    patience; the definition could not be read by us.

    Args:
      patience: Slices after which a request gives its place up in any case, a whole number from 1
        on; 1 enforces every slice, as GSA does. May be traced.

    Raises:
      ValueError: If it is not such a number.
    """
    name, patience = "gsa_spec", exact("gsa_spec", patience)
    if not isinstance(patience, jax.core.Tracer):
        if not (1 <= patience <= LARGEST and int(patience) == patience):
            raise ValueError(f"gsa_spec: patience is {patience}; expected a whole number from 1 on")
        name = name if patience == 64 else f"{name}:patience={patience:g}"
        patience = np.int32(patience)
    return dataclasses.replace(
        a_min(),
        name=name,
        estimate=one,
        refine=next_slice,
        quantum=slices,
        params=patience,
    )


def greedy_batches(r: View, real: Array) -> Array:
    """Places of the requests of a backlog in the order of `sorted_f`, [n].

    Args:
      r: The requests, int64 [n].
      real: Which of them are requests; the others come last, [n].
    """
    position = lax.iota(np.int64, real.shape[0])
    length = jnp.minimum(r.estimate, jnp.maximum(r.memory - r.prompt, 1))
    key = jnp.where(real, memory_time(r.prompt, length), 2**63 - 1)
    _, index, peak, length = lax.sort((key, position, r.prompt + length, length), num_keys=2)
    many = jnp.sum(real, dtype=np.int64)
    batch = jnp.cumsum(_first_of_batches(peak, length, r.memory, many))
    batch = jnp.where(position < many, batch, 2**31)
    *_, index = lax.sort((batch, length, index), num_keys=3)
    return jnp.zeros_like(position).at[index].set(position)


def _first_of_batches(peak: Array, length: Array, memory: Array, many: Array) -> Array:
    """Marks with 1 where a batch begins among requests in order of memory-time, int64 [n]."""
    position = lax.iota(np.int64, peak.shape[0])
    used, tokens = (jnp.pad(jnp.cumsum(x), (1, 0)) for x in (peak, length))

    def one_more(state: tuple[Array, Array]) -> tuple[Array, Array]:
        start, firsts = state
        size = position - start + 1
        fits = (used[1:] - used[start] <= memory) | (size == 1)
        fits &= (size >= 1) & (position < many)
        cost = ((tokens[1:] - tokens[start]) << 32) // jnp.maximum(size * size, 1)
        cost = jnp.where(fits, cost, 2**63 - 1)
        last = jnp.min(jnp.where(cost == jnp.min(cost), position, 2**31 - 1))
        return last + 1, firsts.at[start].set(1)

    begin = (jnp.zeros_like(many), jnp.zeros_like(peak))
    return lax.while_loop(lambda state: state[0] < many, one_more, begin)[1]


def by_rank(r: View) -> Any:
    return r.rank


def next_slice(r: View) -> Any:
    slices = over(r.generated, r.estimate)
    return shift(r.estimate, where(slices >= 1, -1 - log2(most(slices, 1), 0), 0))


def slices(r: View) -> Any:
    return r.estimate * r.params
