"""A family of rules around A_min, with ten numbers to tune.

The order of admission may weigh prompts and memory-time, the reservation may be more or less than
the estimate, and the order of eviction may weigh estimate, progress and prompt; the estimate may
start inside the interval and grow by more than what was seen. Both readings of A_min are members.

The arithmetic is that of integers in units of 1/1024, so that every engine agrees exactly; with
`x >> 10` for floor(x / 1024), s the prompt, [l, u] the interval, k the tokens generated, M the
memory and sat(x) for x kept within ±(2^31 - 2):

    estimate at first   l + (start (u - l) >> 10)
    admission key       sat((1024 est + admit_prompt s + (admit_area a >> 10)) >> 6)
                        a = 1024 v / M, v = s e + e (e + 1) / 2, e = min(est, M)
    reserve             max(1, reserve_floor, reserve_factor est >> 10)
    eviction key        sat((evict_estimate r + evict_progress k + evict_prompt s) >> 6)
                        r = max(est, run_growth k >> 10)
    after an eviction   m + (evict_growth m >> 10), m = max(est, k)
"""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxsched.policies import LARGEST, Policy, Running, View

Array = jax.Array

UNIT = 1024
"""Fixed-point units in 1; `reserve_floor` counts whole tokens."""


@chex.dataclass(frozen=True, mappable_dataclass=False)
class FamilyParams:
    """The ten numbers of a rule, each of shape [] and traced; the defaults are A_min, literally.

    Values outside the range given are brought to its nearest end, and rounded to 1/1024.

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


RANGES: dict[str, tuple[float, float]] = {
    "start": (0, 1),
    "admit_prompt": (-64, 64),
    "admit_area": (-1024, 1024),
    "reserve_factor": (0, 64),
    "reserve_floor": (0, 2**20),
    "evict_estimate": (-64, 64),
    "evict_progress": (-64, 64),
    "evict_prompt": (-64, 64),
    "run_growth": (0, 64),
    "evict_growth": (0, 64),
}
"""Field of `FamilyParams` -> least and largest value."""

FIELDS = tuple(RANGES)


def quantize(params: FamilyParams) -> Any:
    """The ten numbers in fixed point, int32 of shape [10] in the order of `FIELDS`.

    From numpy's float32 if they are concrete, so that traced and concrete numbers agree.

    Raises:
      ValueError: If a number has a shape other than [] (use `jax.vmap`), or is concrete and NaN.
    """
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(params))
    module = jnp if traced else np
    return module.stack([_fixed_point(name, getattr(params, name), module) for name in FIELDS])


def _fixed_point(name: str, value: Any, module: Any) -> Any:
    if np.shape(value) != ():
        raise ValueError(f"{name} has shape {list(np.shape(value))}; expected [] (use jax.vmap)")
    if not isinstance(value, jax.core.Tracer) and np.isnan(value):
        raise ValueError(f"{name} is NaN; expected a number")
    low, high = RANGES[name]
    unit = 1 if name == "reserve_floor" else UNIT
    scaled = module.asarray(value, np.float32) * np.float32(unit)
    within = module.clip(scaled, np.float32(low * unit), np.float32(high * unit))
    return module.rint(within).astype(np.int32)


def a_min_family(params: FamilyParams | None = None) -> Policy:
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
      params: The ten numbers; `None` for A_min itself, refined on eviction.
    """
    return Policy(
        name="a_min_family",
        estimate=_estimate,
        admission_key=_admission_key,
        reserve=_reserve,
        eviction_key=_eviction_key,
        refine=_refine,
        params=quantize(FamilyParams() if params is None else params),
    )


def _estimate(view: View) -> Array:
    with jax.enable_x64(True):
        lower, upper = _wide(view.lower), _wide(view.upper)
        return (lower + _scaled(view, "start", upper - lower)).astype(jnp.int32)


def _admission_key(estimate: Array, view: View) -> Array:
    with jax.enable_x64(True):
        memory, prompt, whole = (_wide(a) for a in (view.memory, view.prompt, estimate))
        r = jnp.minimum(whole, memory)
        area = jnp.minimum(prompt * r + ((r * (r + np.int64(1))) >> np.int64(1)), np.int64(2**42))
        area = jnp.minimum((area << np.int64(10)) // memory, np.int64(2**31))
        key = (whole << np.int64(10)) + _number(view, "admit_prompt") * prompt
        return _key(key + _scaled(view, "admit_area", area))


def _reserve(estimate: Array, view: View) -> Array:
    with jax.enable_x64(True):
        reserve = _scaled(view, "reserve_factor", _wide(estimate))
        reserve = jnp.maximum(reserve, _number(view, "reserve_floor"))
        return jnp.clip(reserve, np.int64(1), np.int64(LARGEST)).astype(jnp.int32)


def _eviction_key(estimate: Array, running: Running) -> Array:
    with jax.enable_x64(True):
        prompt, generated = _wide(running.prompt), _wide(running.generated)
        grown = jnp.maximum(_wide(estimate), _scaled(running, "run_growth", generated))
        return _key(
            _number(running, "evict_estimate") * grown
            + _number(running, "evict_progress") * generated
            + _number(running, "evict_prompt") * prompt
        )


def _refine(estimate: Array, running: Running) -> Array:
    with jax.enable_x64(True):
        seen = _wide(jnp.maximum(estimate, running.generated))
        grown = seen + _scaled(running, "evict_growth", seen)
        return jnp.minimum(grown, np.int64(LARGEST)).astype(jnp.int32)


def _number(view: View | Running, name: str) -> Array:
    return view.params[FIELDS.index(name)].astype(jnp.int64)


def _scaled(view: View | Running, name: str, value: Array) -> Array:
    return (_number(view, name) * value) >> np.int64(10)


def _wide(value: Array) -> Array:
    return value.astype(jnp.int64)


def _key(key: Array) -> Array:
    """Keeps four bits of the fraction, within what a key may be."""
    return jnp.clip(key >> np.int64(6), np.int64(-LARGEST), np.int64(LARGEST)).astype(jnp.int32)
