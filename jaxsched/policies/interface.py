"""What a scheduler is: a policy as data, and what it may see of requests."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

Array = jax.Array

LARGEST = 2**31 - 2
"""Largest key and estimate."""


@dataclasses.dataclass(frozen=True)
class View:
    """What is known of a request when it arrives; every field but the last two has one shape.

    Attributes:
      prompt: Prompt length in tokens.
      output: True output length in tokens; only a hindsight policy may read it.
      lower: Predicted lower bound of the output.
      upper: Predicted upper bound of the output.
      point: Point prediction of the output; only policies with `needs_point` may read it.
      arrival: Round of arrival. Under a clock, what it compares like: the number of different
        arrivals in the lane before its own.
      rank: Place of the request by `Policy.rank`; 0 without.
      memory: KV cache of the worker in tokens, of shape [].
      params: `Policy.params`.
    """

    prompt: Array
    output: Array
    lower: Array
    upper: Array
    point: Array
    arrival: Array
    rank: Array
    memory: Array
    params: Any = None


@dataclasses.dataclass(frozen=True)
class Running:
    """What is known of an active request; the first three fields have one shape.

    Attributes:
      prompt: Prompt length in tokens.
      generated: Tokens generated since it was admitted.
      admitted: Round of admission.
      memory: KV cache of the worker in tokens, of shape [].
      params: `Policy.params`.
    """

    prompt: Array
    generated: Array
    admitted: Array
    memory: Array
    params: Any = None


Estimate = Callable[[View], Array]
AdmissionKey = Callable[[Array, View], Array]
Reserve = Callable[[Array, View], Array]
EvictionKey = Callable[[Array, Running], Array]
Refine = Callable[[Array, Running], Array]
Headroom = Callable[[View], Array]
Rank = Callable[[Array, View, Array], Array]
Quantum = Callable[[Array, Running], Array]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params"],
    meta_fields=[
        "name", "estimate", "admission_key", "reserve", "eviction_key", "refine", "headroom",
        "rank", "quantum", "evict_largest", "hindsight", "shortest_first", "needs_point",
    ],
)  # fmt: skip
@dataclasses.dataclass(frozen=True)
class Policy:
    """A scheduler: an initial estimate and four choices, on int32 arrays of one shape.

    A pytree whose leaves are `params`, the numbers of the policy: `jax.vmap` runs thousands of them
    as lanes. Everything else is static: policies that are equal but for `params` and name share one
    compiled program. Define the functions of your own policy once, at module level, so that two
    instances of it compare equal.

    Attributes:
      name: Canonical name, used in tables.
      estimate: View -> initial estimate of the output length.
      admission_key: (estimate, View) -> key; the smallest (key, index) is admitted first.
      reserve: (estimate, View) -> length reserved; the engine caps it at memory - prompt.
      eviction_key: (estimate, Running) -> key; the smallest (key, index) is evicted first, or the
        largest if `evict_largest`.
      refine: (estimate, Running) -> estimate after an eviction; it may not read `admitted`.
      headroom: View -> tokens of memory that the look-ahead test of this request leaves free,
        unless nobody is active; `None` for none.
      rank: (estimate, View, which are requests and not padding) -> `View.rank`, of all requests of
        a lane at once, [n], before it starts; `None` for none. `simulate` then refuses arrivals: an
        order of all requests would know the future of a stream.
      quantum: (estimate, Running) -> tokens, at least 1, after which an active request gives its
        place up as if it were evicted, before any other eviction; `None` for never. It may read
        neither `generated` nor `admitted`.
      evict_largest: Evict the largest (key, index) instead of the smallest.
      hindsight: The policy may read the true output.
      shortest_first: The policy orders by, reserves, and estimates exactly the true output; it then
        never evicts, which the engine exploits.
      needs_point: The policy reads `View.point`.
      params: Numbers that the functions read from `View` and `Running`, any pytree of arrays.
    """

    name: str
    estimate: Estimate
    admission_key: AdmissionKey
    reserve: Reserve
    eviction_key: EvictionKey
    refine: Refine
    headroom: Headroom | None = None
    rank: Rank | None = None
    quantum: Quantum | None = None
    evict_largest: bool = False
    hindsight: bool = False
    shortest_first: bool = False
    needs_point: bool = False
    params: Any = None

    @property
    def kind(self) -> Policy:
        """The policy without its numbers and its name: what decides which program runs."""
        return dataclasses.replace(self, name="", params=None)

    @property
    def reads_predictions(self) -> bool:
        """Whether a policy looks at the predicted interval or point at all."""
        read: set[str] = set()
        fields = [field.name for field in dataclasses.fields(View)]
        params = self.params

        class Watched:
            def __getattr__(self, name: str) -> Any:
                if name not in fields:
                    raise AttributeError(name)
                read.add(name)
                return params if name == "params" else jax.numpy.ones((1,), jax.numpy.int32)

        view: Any = Watched()
        estimate = self.estimate(view)
        self.admission_key(estimate, view)
        self.reserve(estimate, view)
        return not read.isdisjoint(("lower", "upper", "point"))
