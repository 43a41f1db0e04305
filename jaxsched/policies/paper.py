"""The shipped schedulers: each is four small choices, everything else is shared.

Sources: arXiv 2508.14544 (H-SF, A_max, A_min), arXiv 2502.07115 (MC-SF), arXiv 2606.22327 (SVF);
`fcfs` is what serving engines do.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsched.policies import choices
from jaxsched.policies.interface import Policy


def h_sf() -> Policy:
    """Hindsight shortest first: admits and reserves by the true output (2508.14544, section 3)."""
    return Policy(
        name="h_sf",
        estimate=choices.output,
        admission_key=choices.by_estimate,
        reserve=choices.by_estimate,
        eviction_key=choices.evict_by_estimate,
        refine=choices.larger,
        hindsight=True,
        shortest_first=True,
    )


def a_max() -> Policy:
    """Conservative A_max: admits and reserves by the predicted upper bound (2508.14544)."""
    return Policy(
        name="a_max",
        estimate=choices.upper,
        admission_key=choices.by_estimate,
        reserve=choices.by_estimate,
        eviction_key=choices.evict_by_estimate,
        refine=choices.larger,
    )


def mc_sf() -> Policy:
    """MC-SF: admits and reserves by a point prediction of the output (2502.07115)."""
    return Policy(
        name="mc_sf",
        estimate=choices.point,
        admission_key=choices.by_estimate,
        reserve=choices.by_estimate,
        eviction_key=choices.evict_by_estimate,
        refine=choices.larger,
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
    eviction_keys = {
        "on_eviction": choices.evict_by_estimate,
        "every_round": choices.evict_by_progress,
    }
    if not isinstance(refine, str) or refine not in eviction_keys:
        raise ValueError(f"a_min: refine is {refine!r}; expected one of {sorted(eviction_keys)}")
    return Policy(
        name=f"a_min:{refine}",
        estimate=choices.lower,
        admission_key=choices.by_estimate,
        reserve=choices.by_estimate,
        eviction_key=eviction_keys[refine],
        refine=choices.larger,
    )


def fcfs(watermark: Any = 0.0) -> Policy:
    """First come first served, as serving engines do: no prediction, evicts the latest admitted.

    Args:
      watermark: Share of the memory that must stay free when a request enters beside others, 0 to
        1; rounded to 1/1024. vLLM's default is 0.01. May be traced.

    Raises:
      ValueError: If it is not between 0 and 1.
    """
    plain = Policy(
        name="fcfs",
        estimate=choices.one,
        admission_key=choices.by_arrival,
        reserve=choices.by_estimate,
        eviction_key=choices.evict_by_admission,
        refine=choices.keep,
        evict_largest=True,
    )
    module, name = jnp, "fcfs:watermark"
    if not isinstance(watermark, jax.core.Tracer):
        if not 0 <= watermark <= 1:
            raise ValueError(f"fcfs: watermark is {watermark}; expected 0 to 1")
        if watermark == 0:
            return plain
        module, name = np, f"{name}={watermark:g}"
    return dataclasses.replace(
        plain,
        name=name,
        headroom=choices.share_of_memory,
        params=module.rint(module.asarray(watermark, np.float32) * np.float32(1024)).astype(
            np.int32
        ),
    )


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
    return Policy(
        name=f"svf:{by}",
        estimate=choices.estimate_by("svf", by),
        admission_key=choices.by_volume,
        reserve=choices.by_estimate,
        eviction_key=choices.evict_by_volume,
        refine=choices.larger,
        hindsight=by == "output",
        needs_point=by == "point",
    )
