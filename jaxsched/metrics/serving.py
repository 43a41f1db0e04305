"""What a serving benchmark reports, from exact completion times; defined in docs/metrics.md."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from jaxsched.clocks import Clock, Energy
from jaxsched.instance import Instance
from jaxsched.metrics.distribution import PERCENTILES, Distribution, Floats
from jaxsched.metrics.registry import METRICS, Lanes, Value, column
from jaxsched.result import Result

STATISTICS = ("mean", *(f"p{q}" for q in PERCENTILES))
"""What is said of a distribution."""


class Serving(types.SimpleNamespace):
    """Metrics of serving, per lane (shape [...]) or pooled (shape []); a field for each `METRICS`.

    Distributions are over the requests that completed. What needs the end of a lane (throughput,
    goodput, makespan, KV use, energy, ITL) is valid only if all its requests completed. A field is
    None where what it needs was not given: ITL a history, goodput limits, energy coefficients.
    """

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"metric {name!r} is not known; expected one of {list(METRICS)}")


def serving(
    instance: Instance,
    result: Result,
    clock: Clock,
    *,
    energy: Energy | None = None,
    ttft_limit: float | None = None,
    tpot_limit: float | None = None,
    pooled: bool = False,
    names: Iterable[str] | None = None,
) -> Serving:
    """Metrics of simulations under a clock, under the names and definitions of vLLM's benchmark.

    Args:
      instance: What was simulated, with requests of shape [..., n]; concrete.
      result: What `simulate(instance, policy, clock=clock)` made of it. ITL needs `history=True`.
      clock: The clock that was simulated.
      energy: Joules of a round, such as `clocks.energy("llama2_70b_2xa100")`.
      ttft_limit: A good request's largest TTFT in seconds; None for no such limit.
      tpot_limit: Its largest TPOT in seconds; None for no such limit.
      pooled: One distribution over the requests of all lanes, and sums over lanes; lanes that did
        not finish make the sums invalid.
      names: Which of `METRICS` to compute; None for all.

    Raises:
      TypeError: If an argument is traced.
      ValueError: If the result has no times, a limit is not positive, or `clock` is not the one
        that was simulated (seen where ITL is computed).
    """
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((instance, result))):
        raise TypeError("metrics: got traced arrays; expected concrete ones, outside jit")
    for name, limit in (("ttft_limit", ttft_limit), ("tpot_limit", tpot_limit)):
        if limit is not None and not limit > 0:
            raise ValueError(f"{name} is {limit}; expected more than 0 seconds")
    lanes = Lanes(instance, result, clock, energy, ttft_limit, tpot_limit, pooled)
    chosen = METRICS if names is None else names
    return Serving(**{name: METRICS[name].of(lanes) for name in chosen})


def figures(metrics: Serving) -> Iterator[tuple[str, Floats, NDArray[np.bool_]]]:
    """Every number of a `Serving` as (name, values, valid), named such as `p99_ttft`."""
    for name, found in vars(metrics).items():
        if isinstance(found, Distribution):
            for part in STATISTICS:
                yield column(name, part), getattr(found, part), found.valid
        elif isinstance(found, Value):
            yield name, found.value, found.valid
        elif found is not None:
            yield name, found, np.ones(np.shape(found), bool)
