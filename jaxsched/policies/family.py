"""A family of rules around A_min, with fourteen numbers to tune.

The order of admission may weigh prompts and memory-time, count what was generated before and what
is still to come, and age; the reservation may be more or less than the estimate, and the order of
eviction may weigh estimate, progress, prompt and arrival; the estimate may start inside the
interval and grow by more than what was seen. Both readings of A_min are members, and so are `lcf`,
`fcfs` where arrivals differ, and `remaining_volume`, with a prediction but for rounding.

The arithmetic is that of integers in units of 1/1024, so that every engine agrees exactly; with
`x >> 10` for floor(x / 1024), s the prompt, [l, u] the interval, k the tokens generated, t the
arrival, M the memory (and the limits of `Policy` on estimates, keys and reservations):

    estimate at first   l + (start (u - l) >> 10)
    admission key       w >> 6, or with `age` 1024 log2(w) + (age t >> 10)
                        w = admit_estimate r + admit_prompt h + (admit_area a >> 10)
                        h = s + g, r = max(est - g, 1), g = progress k >> 10
                        a = 1024 v / M, v = h e + e (e + 1) / 2, e = min(r, M)
    reserve             max(g + reserve_floor, reserve_factor est >> 10)
    eviction key        (evict_estimate r + evict_progress k + evict_prompt s
                         - evict_arrival t) >> 6, r = max(est, run_growth k >> 10)
    after an eviction   m + (evict_growth m >> 10), m = max(est, k)

On the papers' worker k = 0 for whoever waits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxsched.arrays import Pytree
from jaxsched.policies.arithmetic import chosen, least, log2, memory_time, most, over, shift
from jaxsched.policies.fixed_point import fixed_point, module_of
from jaxsched.policies.interface import Policy
from jaxsched.policies.view import View

UNIT = 1024
"""Fixed-point units in 1; `reserve_floor` counts whole tokens."""


class FamilyParams(Pytree):
    """The numbers of a rule, each of shape [] and traced; the defaults are A_min, literally.

    Values outside the range given are brought to its nearest end, and rounded to 1/1024 (`age` to
    2^-20).

    Attributes:
      start: Where in [lower, upper] the estimate starts, 0 to 1; 0 never reads the upper bound.
      admit_prompt: Weight of the prompt in the order of admission, -64 to 64; the estimate's is 1.
      admit_area: Weight of memory-time over memory (in rounds) in it, -1024 to 1024.
      reserve_factor: Reservation over estimate, 0 to 64.
      reserve_floor: Least reservation in tokens, 0 to 2^20.
      evict_estimate: Weight of the estimate in the order of eviction, -64 to 64; the smallest key
        leaves first.
      evict_progress: Weight of the tokens generated in it, -64 to 64.
      evict_prompt: Weight of the prompt in it, -64 to 64.
      run_growth: Estimate of an active request, in it, over its tokens generated, 0 to 64.
      evict_growth: Growth of the estimate on eviction beyond max(estimate, tokens), 0 to 64.
      admit_estimate: Weight of the estimate in the order of admission, 0 to 64.
      progress: Share of the tokens generated that count as prompt and no more as to come, 0 to 1.
      age: Octaves by which the key of a waiting request falls for every round of its arrival (under
        a clock for every different arrival) that it is older than another, 0 to 1; 0 for never.
      evict_arrival: Weight of the arrival in the order of eviction, -64 to 64; above 0 the latest
        leave first.
    """

    start: Any = 0.0
    admit_prompt: Any = 0.0
    admit_area: Any = 0.0
    reserve_factor: Any = 1.0
    reserve_floor: Any = 1.0
    evict_estimate: Any = 1.0
    evict_progress: Any = 0.0
    evict_prompt: Any = 0.0
    run_growth: Any = 0.0
    evict_growth: Any = 0.0
    admit_estimate: Any = 1.0
    progress: Any = 0.0
    age: Any = 0.0
    evict_arrival: Any = 0.0


class Number(NamedTuple):
    """What may be said of one of the numbers."""

    low: float
    high: float
    scale: float  # c of a search: linear where the number is below it, logarithmic beyond
    unit: int = UNIT  # fixed-point units in 1


NUMBERS = {
    "start": Number(0, 1, 0.25),
    "admit_prompt": Number(-64, 64, 0.25),
    "admit_area": Number(-1024, 1024, 4.0),
    "reserve_factor": Number(0, 64, 0.25),
    "reserve_floor": Number(0, 2**20, 16.0, unit=1),
    "evict_estimate": Number(-64, 64, 1.0),
    "evict_progress": Number(-64, 64, 1.0),
    "evict_prompt": Number(-64, 64, 0.25),
    "run_growth": Number(0, 64, 1.0),
    "evict_growth": Number(0, 64, 1.0),
    "admit_estimate": Number(0, 64, 1.0),
    "progress": Number(0, 1, 1.0),
    "age": Number(0, 1, 2**-14, unit=2**20),
    "evict_arrival": Number(-64, 64, 0.25),
}
"""Of every field of `FamilyParams` its range, scale and unit."""

FAMILY_FIELDS = tuple(NUMBERS)

LATER = ("admit_estimate", "progress", "age", "evict_arrival")
"""Numbers that files and configurations made earlier do not have."""


def quantize(params: FamilyParams) -> Any:
    """The numbers in fixed point, int32 of shape [14] in the order of `FAMILY_FIELDS`.

    From numpy's float32 if they are concrete, so that traced and concrete numbers agree.

    Raises:
      ValueError: If a number has a shape other than [] (use `jax.vmap`), or is concrete and NaN.
    """
    module = module_of(params)
    return module.stack(
        [
            fixed_point(name, getattr(params, name), (), (x.low, x.high), x.unit, module)
            for name, x in NUMBERS.items()
        ]
    )


def unrounded(params: FamilyParams) -> Any:
    """The same in floats for the relaxation: not rounded, constant outside their ranges."""
    numbers = []
    for name, (low, high, _, unit) in NUMBERS.items():
        value = jnp.asarray(getattr(params, name))
        inside = (value >= low) & (value <= high)
        within = jnp.where(inside, value, lax.stop_gradient(jnp.clip(value, low, high)))
        numbers.append(within * unit)
    return jnp.stack(numbers)


def a_min_family(params: FamilyParams | None = None, name: str = "a_min_family") -> Policy:
    """A member of the family around A_min; thousands of them run as lanes.

    >>> import jax, jaxsched as js
    >>> instance = js.Instance(prompt=[2, 1, 3], output=[4, 6, 2], lower=[2, 1, 1], upper=[9, 9, 9],
    ...                        memory=9)
    >>> def total_latency(weight):
    ...     policy = js.a_min_family(js.FamilyParams(admit_prompt=weight))
    ...     return js.simulate(instance, policy).total_latency
    >>> jax.vmap(total_latency)(jax.numpy.linspace(-1, 1, 5)).shape
    (5,)

    Args:
      params: The numbers; `None` for A_min itself, refined on eviction.
      name: What tables call it.
    """
    return Policy(
        name,
        estimate=estimate,
        admission_key=admission_key,
        reserve=reserve,
        eviction_key=eviction_key,
        refine=refine,
        limit=2**20,
        params=quantize(FamilyParams() if params is None else params),
    )


(
    START, ADMIT_PROMPT, ADMIT_AREA, RESERVE_FACTOR, RESERVE_FLOOR, EVICT_ESTIMATE, EVICT_PROGRESS,
    EVICT_PROMPT, RUN_GROWTH, EVICT_GROWTH, ADMIT_ESTIMATE, PROGRESS, AGE, EVICT_ARRIVAL,
) = range(14)  # fmt: skip


def estimate(r: View) -> Any:
    return r.lower + shift(r.params[START] * (r.upper - r.lower), 10)


def gone(r: View) -> Any:
    return shift(r.params[PROGRESS] * r.generated, 10)


def admission_key(r: View) -> Any:
    held, left = r.prompt + gone(r), most(r.estimate - gone(r), 1)
    volume = memory_time(held, least(left, r.memory))
    area = least(over(1024 * least(volume, 2**42), r.memory), 2**31)
    weighed = r.params[ADMIT_ESTIMATE] * left + r.params[ADMIT_PROMPT] * held
    weighed = weighed + shift(r.params[ADMIT_AREA] * area, 10)
    return chosen(
        r.params[AGE] == 0,
        lambda weighed, _: shift(weighed, 6),
        lambda weighed, late: log2(most(weighed, 1), 10) + late,
        weighed,
        shift(r.params[AGE] * r.arrival, 10),
    )


def reserve(r: View) -> Any:
    least_of_all = gone(r) + r.params[RESERVE_FLOOR]
    return most(shift(r.params[RESERVE_FACTOR] * r.estimate, 10), least_of_all)


def eviction_key(r: View) -> Any:
    grown = most(r.estimate, shift(r.params[RUN_GROWTH] * r.generated, 10))
    weighed = r.params[EVICT_PROGRESS] * r.generated + r.params[EVICT_PROMPT] * r.prompt
    weighed = weighed - r.params[EVICT_ARRIVAL] * r.arrival
    return shift(r.params[EVICT_ESTIMATE] * grown + weighed, 6)


def refine(r: View) -> Any:
    seen = most(r.estimate, r.generated)
    return seen + shift(r.params[EVICT_GROWTH] * seen, 10)
