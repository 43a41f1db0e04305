"""What a scheduler is: a policy as data."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from jaxsched.policies.arithmetic import LARGEST, most
from jaxsched.policies.program import Choices, choices_of
from jaxsched.policies.view import View

ViewFunction = Callable[[Any], Any]
"""A function of a `View`, which gives a whole number."""

Rank = Callable[[Any, jax.Array], jax.Array]
"""(`View` of all requests of a lane, [n]; which of them are no padding, [n]) -> places, [n]."""

PREDICTED = frozenset({"lower", "upper", "point"})
"""The fields of a request that a prediction makes up."""


def by_estimate(r: View) -> Any:
    """The estimate itself: as an order, or as a reservation."""
    return r.estimate


def larger_length(r: View) -> Any:
    """The larger of the estimate and what has been generated."""
    return most(r.estimate, r.generated)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params"],
    meta_fields=[
        "name", "estimate", "admission_key", "reserve", "eviction_key", "refine", "headroom",
        "rank", "quantum", "evict_largest", "limit", "planned",
    ],
)  # fmt: skip
@dataclasses.dataclass(frozen=True)
class Policy:
    """A scheduler: an initial estimate of a request's output, and a few choices.

    Each is a function of one `View`, written in plain arithmetic and the helpers of
    `jaxsched.policies.arithmetic` (or in `jax.numpy`), and gives a whole number. The same text runs
    in every engine: compiled to machine code, under `jax.jit` and `jax.vmap`, on Python's integers
    in the reference, and on floats in the relaxation. It may not branch on what it sees with `if`;
    `where` chooses. What the functions read is found by watching them.

    A pytree whose leaves are `params`, the numbers of the policy: `jax.vmap` runs thousands of them
    as lanes. Everything else is static: policies that are equal but for `params` and name share one
    compiled program. Define the functions of your own policy once, at module level, so that two
    instances of it compare equal.

    >>> import jaxsched as js
    >>> from jaxsched.policies.arithmetic import over
    >>> def halfway(r):
    ...     return over(r.lower + r.upper, 2)
    >>> instance = js.Instance(prompt=[2, 1], output=[4, 6], lower=[2, 5], upper=[6, 7], memory=9)
    >>> js.simulate(instance, js.Policy("halfway", estimate=halfway)).completion.tolist()
    [4, 8]

    Attributes:
      name: Canonical name, used in tables.
      estimate: Initial estimate of the output length, brought to 1 ... 2^31 - 2.
      admission_key: The smallest (key, index) is admitted first; brought to +-(2^31 - 2).
      reserve: Length reserved, brought to 1 ... memory - prompt.
      eviction_key: The smallest (key, index) is evicted first, or the largest if `evict_largest`.
      refine: Estimate after an eviction; it may not read `admitted`.
      headroom: Tokens of memory, at least 0, that the look-ahead test of this request leaves free,
        unless nobody is active; `None` for none.
      rank: Places in an order of all requests of a lane at once, before it starts: a `jax.numpy`
        function on int64 arrays, see `Rank`; the other choices read it as `View.rank`. `None` for
        none. `simulate` then refuses arrivals: such an order would know the future of a stream.
      quantum: Tokens, at least 1, after which an active request gives its place up as if it were
        evicted, before any other eviction; `None` for never. It may read neither `generated` nor
        `admitted`.
      evict_largest: Evict the largest (key, index) instead of the smallest.
      limit: Largest absolute value of these numbers; what is larger counts as this. It lets
        engines compute in 32 bits where that is enough.
      planned: Whether requests start in the rounds of a schedule that `simulate` makes in hindsight
        before anything runs; the other choices then only say that what starts stays.
      params: Numbers that the functions read from `View`, any pytree of integer arrays.
    """

    name: str
    estimate: ViewFunction
    admission_key: ViewFunction = by_estimate
    reserve: ViewFunction = by_estimate
    eviction_key: ViewFunction = by_estimate
    refine: ViewFunction = larger_length
    headroom: ViewFunction | None = None
    rank: Rank | None = None
    quantum: ViewFunction | None = None
    evict_largest: bool = False
    limit: int = LARGEST
    planned: bool = False
    params: Any = None

    @property
    def kind(self) -> Policy:
        """The policy without its numbers and its name: what decides which program runs."""
        return dataclasses.replace(self, name="", params=None)

    @property
    def choices(self) -> Choices:
        """What the functions compute and read.

        Raises:
          PolicyError: If a function does not give one whole number, branches, or reads what it may
            not; the text names it. It is a TypeError and a ValueError.
        """
        return choices_of(self)

    @property
    def reads(self) -> frozenset[str]:
        """The fields of `View` that any of the functions reads."""
        return self.choices.reads

    @property
    def hindsight(self) -> bool:
        """Whether it reads the true output."""
        return "output" in self.reads

    @property
    def needs_point(self) -> bool:
        """Whether it reads the point prediction."""
        return "point" in self.reads

    @property
    def reads_predictions(self) -> bool:
        """Whether it looks at the predicted interval or point at all."""
        return not self.reads.isdisjoint(PREDICTED)
