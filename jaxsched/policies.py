"""Schedulers as data: each policy is four small choices, everything else is shared.

Sources: arXiv 2508.14544 (H-SF, A_max, A_min), arXiv 2502.07115 (MC-SF); `fcfs` is what serving
engines do.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class View:
    """What is known of a request when it arrives; every field has the same shape.

    Attributes:
      prompt: Prompt length in tokens.
      output: True output length in tokens; only a hindsight policy may read it.
      lower: Predicted lower bound of the output.
      upper: Predicted upper bound of the output.
      point: Point prediction of the output; only policies with `needs_point` may read it.
      arrival: Round of arrival.
    """

    prompt: Array
    output: Array
    lower: Array
    upper: Array
    point: Array
    arrival: Array


Estimate = Callable[[View], Array]
AdmissionKey = Callable[[Array, View], Array]
Reserve = Callable[[Array, View], Array]
EvictionKey = Callable[[Array, Array, Array], Array]
Refine = Callable[[Array, Array], Array]


@dataclasses.dataclass(frozen=True)
class Policy:
    """A scheduler: an initial estimate and four choices, on int32 arrays of one shape.

    Policies are static: equal policies share one compiled program. Define the functions of your
    own policy once, at module level, so that two instances of it compare equal.

    Attributes:
      name: Canonical name, used in tables.
      estimate: View -> initial estimate of the output length.
      admission_key: (estimate, View) -> key; the smallest (key, index) is admitted first.
      reserve: (estimate, View) -> length reserved; the engine caps it at memory - prompt.
      eviction_key: (estimate, generated tokens, round of admission) -> key; the smallest
        (key, index) is evicted first, or the largest if `evict_largest`.
      refine: (estimate, generated tokens) -> estimate after an eviction.
      evict_largest: Evict the largest (key, index) instead of the smallest.
      hindsight: The policy orders by, reserves, and estimates exactly the true output; it then
        never evicts, which the engine exploits.
      needs_point: The policy reads `View.point`.
    """

    name: str
    estimate: Estimate
    admission_key: AdmissionKey
    reserve: Reserve
    eviction_key: EvictionKey
    refine: Refine
    evict_largest: bool = False
    hindsight: bool = False
    needs_point: bool = False


def h_sf() -> Policy:
    """Hindsight shortest first: admits and reserves by the true output (2508.14544, section 3)."""
    return Policy(
        name="h_sf",
        estimate=_output,
        admission_key=_by_estimate,
        reserve=_by_estimate,
        eviction_key=_evict_by_estimate,
        refine=_larger,
        hindsight=True,
    )


def a_max() -> Policy:
    """Conservative A_max: admits and reserves by the predicted upper bound (2508.14544)."""
    return Policy(
        name="a_max",
        estimate=_upper,
        admission_key=_by_estimate,
        reserve=_by_estimate,
        eviction_key=_evict_by_estimate,
        refine=_larger,
    )


def mc_sf() -> Policy:
    """MC-SF: admits and reserves by a point prediction of the output (2502.07115)."""
    return Policy(
        name="mc_sf",
        estimate=_point,
        admission_key=_by_estimate,
        reserve=_by_estimate,
        eviction_key=_evict_by_estimate,
        refine=_larger,
        needs_point=True,
    )


def a_min(refine: str = "on_eviction") -> Policy:
    """Adaptive A_min: starts from the predicted lower bound, evicts on overflow and refines.

    The estimate of an evicted request becomes max(estimate, tokens generated). The published text
    (2508.14544) does not say whether an active request's progress counts when the next eviction is
    chosen, so both readings exist.

    Args:
      refine: "on_eviction" orders evictions by the estimate alone, the literal reading;
        "every_round" by max(estimate, tokens generated so far).

    Raises:
      ValueError: If `refine` is neither.
    """
    eviction_keys = {"on_eviction": _evict_by_estimate, "every_round": _evict_by_progress}
    if not isinstance(refine, str) or refine not in eviction_keys:
        raise ValueError(f"a_min: refine is {refine!r}; expected one of {sorted(eviction_keys)}")
    return Policy(
        name=f"a_min:{refine}",
        estimate=_lower,
        admission_key=_by_estimate,
        reserve=_by_estimate,
        eviction_key=eviction_keys[refine],
        refine=_larger,
    )


def fcfs() -> Policy:
    """First come first served, as serving engines do: no prediction, evicts the latest admitted."""
    return Policy(
        name="fcfs",
        estimate=_one,
        admission_key=_by_arrival,
        reserve=_by_estimate,
        eviction_key=_evict_by_admission,
        refine=_keep,
        evict_largest=True,
    )


SHIPPED: dict[str, Callable[[], Policy]] = {
    "h_sf": h_sf,
    "a_max": a_max,
    "a_min": a_min,
    "a_min:on_eviction": functools.partial(a_min, "on_eviction"),
    "a_min:every_round": functools.partial(a_min, "every_round"),
    "mc_sf": mc_sf,
    "fcfs": fcfs,
}
"""Names that `policy` understands."""


def policy(name: str) -> Policy:
    """Looks a shipped policy up by name; "a_min" alone is its default reading.

    Raises:
      ValueError: If there is no such policy; the text lists the right names.
    """
    if not isinstance(name, str) or name not in SHIPPED:
        raise ValueError(f"policy {name!r} is unknown; expected one of {', '.join(SHIPPED)}")
    return SHIPPED[name]()


def _output(view: View) -> Array:
    return view.output


def _upper(view: View) -> Array:
    return view.upper


def _lower(view: View) -> Array:
    return view.lower


def _point(view: View) -> Array:
    return view.point


def _one(view: View) -> Array:
    return jnp.ones_like(view.prompt)


def _by_estimate(estimate: Array, view: View) -> Array:
    return estimate


def _by_arrival(estimate: Array, view: View) -> Array:
    return view.arrival


def _evict_by_estimate(estimate: Array, generated: Array, admitted: Array) -> Array:
    return estimate


def _evict_by_progress(estimate: Array, generated: Array, admitted: Array) -> Array:
    return jnp.maximum(estimate, generated)


def _evict_by_admission(estimate: Array, generated: Array, admitted: Array) -> Array:
    return admitted


def _larger(estimate: Array, generated: Array) -> Array:
    return jnp.maximum(estimate, generated)


def _keep(estimate: Array, generated: Array) -> Array:
    return estimate


@functools.lru_cache(maxsize=256)
def check_policy_functions(policy: Policy) -> None:
    """Refuses a policy whose choices cannot be simulated, or that is not what it says.

    Raises:
      TypeError: If a choice does not give int32 of its arguments' shape; the text names it.
      ValueError: If the policy reads `point` without `needs_point`, or says `hindsight` without
        estimating, ordering and reserving by the true output.
    """
    view = _Watched()
    numbers = np.arange(1, 4, dtype=np.int32)
    with jax.ensure_compile_time_eval():
        estimate = _choice(policy, "estimate", view)
        by_estimate = {
            name: _choice(policy, name, estimate, view) for name in ("admission_key", "reserve")
        }
        _choice(policy, "eviction_key", estimate, numbers, numbers)
        _choice(policy, "refine", estimate, numbers)
        if policy.hindsight:
            for name, value in {"estimate": estimate, **by_estimate}.items():
                if (value != view.output).any():
                    raise ValueError(
                        f"policy {policy.name!r}: {name} is not the true output; "
                        "expected that of a policy with hindsight=True"
                    )
    if "point" in view.read and not policy.needs_point:
        raise ValueError(
            f"policy {policy.name!r} reads view.point; expected needs_point=True in that case"
        )


class _Watched:
    """A `View` of three made-up requests that remembers which fields were read."""

    def __init__(self) -> None:
        names = [field.name for field in dataclasses.fields(View)]
        self._values = {
            name: np.asarray([7, 3, 5], np.int32) + 11 * i for i, name in enumerate(names)
        }
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Array:
        if name.startswith("_") or name not in self._values:
            raise AttributeError(f"View has no {name!r}; expected one of {list(self._values)}")
        self.read.add(name)
        return jnp.asarray(self._values[name])


def _choice(policy: Policy, name: str, *arguments: Any) -> Array:
    """One of the policy's functions on three requests, its result checked."""
    value = getattr(policy, name)(*arguments)
    shape, dtype = jnp.shape(value), getattr(value, "dtype", type(value).__name__)
    if shape != (3,) or dtype != np.int32:
        raise TypeError(
            f"policy {policy.name!r}: {name} gives {dtype}{list(shape)} for requests of shape [3]; "
            "expected int32[3]"
        )
    return value
