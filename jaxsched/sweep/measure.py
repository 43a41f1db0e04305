"""The measured columns of a sweep: those of every table, and serving metrics under a clock."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxsched import clocks, frames, metrics
from jaxsched.instance import Instance
from jaxsched.result import Result
from jaxsched.sweep.config import NO_CLOCK


def columns(
    instance: Instance, result: Result, bound: NDArray[np.float64], clock: str, serving: bool
) -> dict[str, Any]:
    """The measured columns, arrays of shape [lanes].

    Args:
      instance: The instances simulated, of lane shape [lanes].
      result: What `simulate` returned for them.
      bound: Lower bounds on the total latency in rounds; NaN where there is none.
      clock: Name of their clock, or "rounds".
      serving: Whether the table has the columns `metrics.SWEPT`.

    Returns:
      Under a clock `mean_latency` is in seconds, there is no total (-1) and no bound (NaN).
    """
    output = np.asarray(instance.output).sum(axis=-1, dtype=np.int64)
    if clock == NO_CLOCK:
        found = frames.result_columns(instance, result, bound)
        nothing = np.full(len(output), np.nan)
        more = dict.fromkeys(metrics.SWEPT, nothing) if serving else {}
    else:
        # Rounds are counted under a clock too; only what compares them with arrivals is replaced.
        found = frames.result_columns(instance, result.replace(times=None), bound)
        found |= dict.fromkeys(("bound", "ratio_to_bound"), np.full(len(output), np.nan))
        found["total_latency"] = np.full(len(output), -1, np.int64)
        more = _serving(instance, result, clock)
        found["mean_latency"] = more.pop("mean_e2el")
    return {**found, "output_tokens": output, **more}


def _serving(instance: Instance, result: Result, clock: str) -> dict[str, Any]:
    """Serving metrics of lanes that finished, NaN of others; without what goes lane by lane."""
    found = metrics.serving(
        instance, result.replace(history=None), clocks.clock(clock), energy=clocks.energy(clock)
    )
    known = {name: np.where(valid, value, np.nan) for name, value, valid in metrics.figures(found)}
    nothing, finished = np.full(instance.lanes, np.nan), np.asarray(result.status) == 0
    names = ("mean_e2el", *metrics.SWEPT)
    return {name: np.where(finished, known.get(name, nothing), np.nan) for name in names}
