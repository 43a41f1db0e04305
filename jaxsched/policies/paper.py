"""The schedulers of the papers, and what serving engines do: an estimate and a few choices each.

Sources: arXiv 2508.14544 (H-SF, A_max, A_min), arXiv 2502.07115 (MC-SF), arXiv 2606.22327 (SVF).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from jaxsched.policies.arithmetic import least, memory_time, shift
from jaxsched.policies.fixed_point import fixed_point, module_of
from jaxsched.policies.interface import Policy, ViewFunction, by_estimate, larger_length
from jaxsched.policies.view import View


def output(r: View) -> Any:
    return r.output


def point(r: View) -> Any:
    return r.point


def lower(r: View) -> Any:
    return r.lower


def upper(r: View) -> Any:
    return r.upper


ESTIMATES: dict[str, ViewFunction] = {
    "output": output, "point": point, "lower": lower, "upper": upper,
}  # fmt: skip
"""Name -> the estimate that is that field."""


def one(r: View) -> Any:
    return 1


def by_arrival(r: View) -> Any:
    return r.arrival


def by_admission(r: View) -> Any:
    return r.admitted


def by_volume(r: View) -> Any:
    return memory_time(r.prompt, least(r.estimate, r.memory))


def share_of_memory(r: View) -> Any:
    return shift(r.memory * r.params, 10)


def h_sf() -> Policy:
    """Hindsight shortest first: admits and reserves by the true output (2508.14544, section 3)."""
    return Policy("h_sf", estimate=output)


def best() -> Policy:
    """The best schedule that `jaxsched.best_schedule` finds in hindsight: what was to be gained."""
    return Policy("best:hindsight", estimate=output, planned=True)


def a_max() -> Policy:
    """Conservative A_max: admits and reserves by the predicted upper bound (2508.14544)."""
    return Policy("a_max", estimate=upper)


def mc_sf() -> Policy:
    """MC-SF: admits and reserves by a point prediction of the output (2502.07115)."""
    return Policy("mc_sf", estimate=point)


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
    literal = Policy("a_min:on_eviction", estimate=lower)
    readings = {
        "on_eviction": literal,
        "every_round": dataclasses.replace(
            literal, name="a_min:every_round", eviction_key=larger_length
        ),
    }
    if not isinstance(refine, str) or refine not in readings:
        raise ValueError(f"a_min: refine is {refine!r}; expected one of {sorted(readings)}")
    return readings[refine]


def fcfs(watermark: Any = 0.0) -> Policy:
    """First come first served, as serving engines do: no prediction, evicts the latest admitted.

    Args:
      watermark: Share of the memory that must stay free when a request enters beside others, 0 to
        1; rounded to 1/1024. vLLM's default is 0.01. May be traced.

    Raises:
      ValueError: If it is not between 0 and 1.
    """
    plain = Policy(
        "fcfs",
        estimate=one,
        admission_key=by_arrival,
        eviction_key=by_admission,
        refine=by_estimate,
        evict_largest=True,
    )
    name = "fcfs:watermark"
    if not isinstance(watermark, jax.core.Tracer):
        if not 0 <= watermark <= 1:
            raise ValueError(f"fcfs: watermark is {watermark}; expected 0 to 1")
        if watermark == 0:
            return plain
        name = f"{name}={watermark:g}"
    share = fixed_point("watermark", watermark, (), (0, 1), 1024, module_of(watermark))
    return dataclasses.replace(plain, name=name, headroom=share_of_memory, limit=1024, params=share)


def priority() -> Policy:
    """The least point prediction first, the largest evicted first: vLLM's priority policy.

    `point` holds the priority, from 1 on. No look-ahead beyond the next round.
    """
    return Policy(
        "priority",
        estimate=one,
        admission_key=point,
        eviction_key=point,
        refine=by_estimate,
        evict_largest=True,
    )


def no_evict() -> Policy:
    """First come first served under A_max's reservation, the predicted upper bound.

    TensorRT-LLM's GUARANTEED_NO_EVICT, with `upper` as the most tokens a request may generate.
    """
    return Policy(
        "no_evict",
        estimate=upper,
        admission_key=by_arrival,
        eviction_key=by_admission,
        evict_largest=True,
    )


def estimate_by(who: str, by: str) -> ViewFunction:
    """The estimate that is a field of `View`, given by its name; errors say who asked."""
    if not isinstance(by, str) or by not in ESTIMATES:
        raise ValueError(f"{who}: by is {by!r}; expected one of {sorted(ESTIMATES)}")
    return ESTIMATES[by]


def svf(by: str = "output") -> Policy:
    """Smallest volume first: admits by the memory-time s r + r (r + 1) / 2 of a request.

    s is the prompt and r the estimate, at most the memory. Reserves the estimate. Volumes beyond
    2^31 - 2 tie. With hindsight the order of arXiv 2606.22327; with a prediction its volume; the
    estimate of an evicted request becomes max(estimate, tokens generated), and the smallest volume
    is evicted first, as A_min does with lengths.

    Args:
      by: "output" (hindsight), "point", "lower" or "upper".

    Raises:
      ValueError: If `by` is none of them.
    """
    estimate = estimate_by("svf", by)
    return Policy(f"svf:{by}", estimate=estimate, admission_key=by_volume, eviction_key=by_volume)
