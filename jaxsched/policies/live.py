"""Rules for live traffic that people argue about: whom to preempt, and whom to admit next.

Written for the worker of a serving engine (`jaxsched.workers.vllm`), which keeps the tokens of a
preempted request; they run on the papers' worker too. docs/schedulers.md has every source, and what
could not be said as a policy.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxsched.policies.arithmetic import (
    LARGEST,
    least,
    log2,
    memory_time,
    most,
    over,
    shift,
    where,
)
from jaxsched.policies.fixed_point import exact, fixed_point, module_of
from jaxsched.policies.interface import Policy
from jaxsched.policies.paper import a_min, estimate_by, fcfs, no_evict, one, point
from jaxsched.policies.view import View

PRIME = 2**31 - 1

HALVING = 16
"""Bits behind the point of the logarithm that `remaining_volume` orders by when it ages."""


def computed(r: View) -> Any:
    """Tokens of its cache: of a prompt that is being computed in chunks, all of them count."""
    return r.prompt + r.generated


def generated(r: View) -> Any:
    return r.generated


def chance(r: View) -> Any:
    """A number below 2^31 that depends on nothing in any order: a hash of what changes.

    It differs from round to round, and between requests unless prompt, arrival and progress agree.
    """
    mixed = (
        r.prompt * 7919 + r.arrival * 104_729 + r.generated * 1_299_709 + r.evictions * 15_485_863
    )
    squared = (mixed % PRIME + 48_611) % PRIME
    squared = (squared * squared + 611_953) % PRIME
    return squared * squared % PRIME


def short_of(r: View) -> Any:
    """Tokens still to come by the estimate: one at least, else it would not be there."""
    return most(least(r.estimate, r.memory) - r.generated, 1)


def by_remaining_volume(r: View) -> Any:
    return memory_time(r.prompt + r.generated, short_of(r))


def by_aged_volume(r: View) -> Any:
    waited = over(shift(r.arrival, -HALVING), r.params)
    return log2(by_remaining_volume(r), HALVING) + waited


def by_remaining_point(r: View) -> Any:
    return most(r.point - r.generated, 0)


def unless_nearly_done(r: View) -> Any:
    return where(1024 * r.generated >= r.params * r.point, -1, by_remaining_point(r))


def expected_and_tail(r: View) -> Any:
    return r.point + shift(r.params * r.upper, 10)


def by_estimate_then_chance(r: View) -> Any:
    return 1024 * least(r.estimate, 2**20) + chance(r) % 1024


def lcf() -> Policy:
    """First come first served; preempts the fewest computed tokens first (vLLM RFC 54644).

    Computed are the prompt and what has been generated. SGLang's retraction is its twin: fewest
    generated first.
    """
    return dataclasses.replace(fcfs(), name="lcf", eviction_key=computed, evict_largest=False)


def mcf() -> Policy:
    """First come first served; preempts the most computed tokens first (vLLM RFC 54644).

    Not among the policies by name: where tokens are lost, on the papers' worker, it may never end,
    as whoever has come furthest starts again.
    """
    return dataclasses.replace(fcfs(), name="mcf", eviction_key=computed)


def random_victim() -> Policy:
    """First come first served; preempts one that a hash draws, anew in every round.

    The hash is of prompt, arrival, progress and evictions: two simulations of one instance agree.
    """
    return dataclasses.replace(fcfs(), name="random_victim", eviction_key=chance)


def remaining_volume(by: str | None = None, age: Any = 0) -> Policy:
    """Smallest memory-time still to come first; preempts the fewest generated tokens first.

    A request of prompt s that has generated g tokens and is estimated at r has (s + g) q + q (q +
    1) / 2 to come, with q = r - g, at least 1. What is known of an evicted request becomes
    max(r, g). No reservation: a request enters as soon as it fits, as in vLLM. After SVF
    (2606.22327) and A_min; the rule is ours.

    Without `by` nothing is predicted: r is 1, so that the order is that of s + g.

    With `age` the volume of a waiting request counts half for every `age` rounds that it is older
    than another: the order by log2 volume + arrival / age, which is that of volume / 2^(waited /
    age) in every round. Under a clock `age` counts different arrivals instead of rounds.

    Args:
      by: "output" (hindsight), "point", "lower" or "upper"; None for no prediction.
      age: Rounds in which a waiting request's volume halves, a whole number from 1 on; 0 for never.
        May be traced, and is then not 0.

    Raises:
      ValueError: If `by` or `age` is none of them.
    """
    plain = Policy(
        "remaining_volume" if by is None else f"remaining_volume:{by}",
        estimate=one if by is None else estimate_by("remaining_volume", by),
        admission_key=by_remaining_volume,
        reserve=one,
        eviction_key=generated,
    )
    age = exact("remaining_volume", age)
    if not isinstance(age, jax.core.Tracer):
        if age == 0:
            return plain
        if not (1 <= age <= LARGEST and int(age) == age):
            raise ValueError(
                f"remaining_volume: age is {age}; expected a whole number from 1 on, or 0"
            )
        age = np.int32(age)
    name = f"{plain.name}:age" + ("" if isinstance(age, jax.core.Tracer) else f"={age}")
    return dataclasses.replace(plain, name=name, admission_key=by_aged_volume, params=age)


def past_future() -> Policy:
    """First come first served under the look-ahead test on `point`: Past-Future (2507.10150).

    LightLLM draws the length of every running request from the lengths of the past; such draws
    belong into `point`. One that outruns its draw is taken to end with the next token.
    """
    return dataclasses.replace(no_evict(), name="past_future", estimate=point)


def tie(beta: Any = 0.1) -> Policy:
    """Least expected length plus beta times its tail first: TIE (2604.00499), beta fixed.

    `point` is the expected length, `upper` stands for the mean of the longest tenth (CVaR).
    Preempts the latest admitted, as the engine does. Beta 0 is E-only. In the paper beta follows
    the length of the queue, which no order that stands still can.

    Args:
      beta: Weight of the tail, 0 to 1; rounded to 1/1024. May be traced.

    Raises:
      ValueError: If it is not between 0 and 1.
    """
    name = "tie"
    if not isinstance(beta, jax.core.Tracer):
        if not 0 <= beta <= 1:
            raise ValueError(f"tie: beta is {beta}; expected 0 to 1")
        name = name if beta == 0.1 else f"tie:beta={beta:g}"
    weight = fixed_point("beta", beta, (), (0, 1), 1024, module_of(beta))
    return dataclasses.replace(
        fcfs(), name=name, admission_key=expected_and_tail, limit=LARGEST, params=weight
    )


def trail(limit: Any = 0.8) -> Policy:
    """Shortest predicted remainder first, and last preempted: TRAIL (2410.01035).

    By `point` less what has been generated, which is what is known without a predictor that looks
    at every token. Who has generated `limit` of its point is preempted only if there is no other.
    Here a shorter arrival preempts nobody while memory suffices.

    Args:
      limit: Share of the prediction, 0 to 1; rounded to 1/1024. May be traced.

    Raises:
      ValueError: If it is not between 0 and 1.
    """
    name = "trail"
    if not isinstance(limit, jax.core.Tracer):
        if not 0 <= limit <= 1:
            raise ValueError(f"trail: limit is {limit}; expected 0 to 1")
        name = name if limit == 0.8 else f"trail:limit={limit:g}"
    share = fixed_point("limit", limit, (), (0, 1), 1024, module_of(limit))
    return dataclasses.replace(
        fcfs(),
        name=name,
        admission_key=by_remaining_point,
        eviction_key=unless_nearly_done,
        params=share,
    )


def random_ties() -> Policy:
    """`a_min`, refined on eviction, with ties broken by a hash instead of the position.

    Estimates beyond 2^20 tie. The hash of a waiting request stays, that of an active one is drawn
    anew in every round.
    """
    return dataclasses.replace(
        a_min(),
        name="a_min:random_ties",
        admission_key=by_estimate_then_chance,
        eviction_key=by_estimate_then_chance,
    )
