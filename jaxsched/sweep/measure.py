"""The measured columns of a sweep: those of every table, and serving metrics under a clock."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxsched import clocks, frames, metrics
from jaxsched.instance import Instance
from jaxsched.metrics import distribution, totals
from jaxsched.result import Result, Status
from jaxsched.sweep.config import NO_CLOCK

SERVING = (
    "p99_e2el", "mean_ttft", "p99_ttft", "mean_tpot", "p99_tpot", "request_throughput",
    "energy_per_token",
)  # fmt: skip
"""Columns that only simulations under a clock have; in seconds, per second and in joules."""


def columns(
    instance: Instance, result: Result, bound: NDArray[np.float64], clock: str, serving: bool
) -> dict[str, Any]:
    """The measured columns, arrays of shape [lanes].

    Args:
      instance: The instances simulated, of lane shape [lanes].
      result: What `simulate` returned for them.
      bound: Lower bounds on the total latency in rounds; NaN where there is none.
      clock: Name of their clock, or "rounds".
      serving: Whether the table has the columns `SERVING`.

    Returns:
      Under a clock `mean_latency` is in seconds, there is no total (-1) and no bound (NaN).
    """
    output = np.asarray(instance.output).sum(axis=-1, dtype=np.int64)
    if clock == NO_CLOCK:
        found = frames.result_columns(instance, result, bound)
        nothing = np.full(len(output), np.nan)
        more = dict.fromkeys(SERVING, nothing) if serving else {}
    else:
        # Rounds are counted under a clock too; only what compares them with arrivals is replaced.
        found = frames.result_columns(instance, result.replace(times=None), bound)
        found |= dict.fromkeys(("bound", "ratio_to_bound"), np.full(len(output), np.nan))
        found["total_latency"] = np.full(len(output), -1, np.int64)
        more = _serving(instance, result, clock)
        found["mean_latency"] = more.pop("mean_e2el")
    return {**found, "output_tokens": output, **more}


def _serving(instance: Instance, result: Result, clock: str) -> dict[str, Any]:
    """Serving metrics as `metrics.serving` defines them, without what goes lane by lane (ITL)."""
    seen = metrics.requests(instance, result)
    sums = totals.totals(instance, result, seen, None, clocks.energy(clock))
    finished = np.asarray(result.status) == Status.FINISHED
    found = dict.fromkeys(SERVING, np.full(len(finished), np.nan))
    for name, values, mask in (
        ("e2el", seen.e2el, seen.finished),
        ("ttft", seen.ttft, seen.finished),
        ("tpot", seen.tpot, seen.several),
    ):
        one = distribution.of(values, mask)
        for part, value in (("mean", one.mean), ("p99", one.p99)):
            found[f"{part}_{name}"] = np.where(finished & one.valid, value, np.nan)
    for name, metric in totals.rates(sums).items():
        if name in SERVING and metric is not None:
            found[name] = np.where(metric.valid, metric.value, np.nan)
    return found
