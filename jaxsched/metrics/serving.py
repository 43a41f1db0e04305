"""What a serving benchmark reports, from exact completion times; defined in docs/metrics.md."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np
from numpy.typing import NDArray

from jaxsched.clocks import TICKS_PER_SECOND, Clock, Energy
from jaxsched.instance import Instance
from jaxsched.metrics import distribution, samples, totals
from jaxsched.metrics.distribution import Distribution, Floats, Integers
from jaxsched.metrics.timeline import finished_lanes, gaps, runs_of, timeline
from jaxsched.metrics.totals import Metric
from jaxsched.result import Result


@dataclasses.dataclass(frozen=True)
class Serving:
    """Metrics of serving, per lane (shape [...]) or pooled (shape []); times in seconds.

    Distributions are over the requests that completed. What needs the end of a lane (throughput,
    goodput, makespan, KV use, energy, ITL) is valid only if all its requests completed.

    Attributes:
      ttft: Time to first token, from arrival.
      tpot: Time per output token after the first, of requests with more than one.
      itl: Inter-token latency as a client sees it; None if the result has no history.
      e2el: End-to-end latency, from arrival to the last token.
      queueing: From arrival to the start of the round of the first admission.
      completed: Requests that completed.
      unfinished: Requests that did not.
      makespan: From the first arrival to the last completion; pooled, their sum.
      request_throughput: Completed requests per second of makespan.
      output_throughput: Output tokens per second of makespan.
      goodput: Requests per second of makespan that keep all limits; None without limits.
      preemptions: Evictions.
      wasted_tokens: Tokens lost to them.
      kv_mean: Share of the KV cache in use, mean over the rounds that ran.
      kv_peak: Its largest value.
      energy: Joules; None without coefficients.
      energy_per_token: Joules per output token of a completed request; None likewise.
    """

    ttft: Distribution
    tpot: Distribution
    itl: Distribution | None
    e2el: Distribution
    queueing: Distribution
    completed: Integers
    unfinished: Integers
    makespan: Metric
    request_throughput: Metric
    output_throughput: Metric
    goodput: Metric | None
    preemptions: Integers
    wasted_tokens: Integers
    kv_mean: Metric
    kv_peak: Metric
    energy: Metric | None
    energy_per_token: Metric | None


def serving(
    instance: Instance,
    result: Result,
    clock: Clock,
    *,
    energy: Energy | None = None,
    ttft_limit: float | None = None,
    tpot_limit: float | None = None,
    pooled: bool = False,
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

    Raises:
      TypeError: If an argument is traced.
      ValueError: If the result has no times, a limit is not positive, or `clock` is not the one
        that was simulated (seen where ITL is computed).
    """
    _check(instance, result, ttft_limit, tpot_limit)
    seen = samples.requests(instance, result)
    good = None
    if ttft_limit is not None or tpot_limit is not None:
        good = samples.within_limits(seen, ttft_limit, tpot_limit)
    sums = totals.totals(instance, result, seen, good, energy)

    def of(values: Floats, mask: NDArray[np.bool_]) -> Distribution:
        flat = (values.reshape(-1), mask.reshape(-1)) if pooled else (values, mask)
        return distribution.of(*flat)

    return Serving(
        ttft=of(seen.ttft, seen.finished),
        tpot=of(seen.tpot, seen.several),
        itl=None if result.history is None else _inter_token(instance, result, clock, pooled),
        e2el=of(seen.e2el, seen.finished),
        queueing=of(seen.queueing, seen.finished),
        **totals.rates(totals.together(sums) if pooled else sums),
    )


def _inter_token(instance: Instance, result: Result, clock: Clock, pooled: bool) -> Distribution:
    """Lane by lane; lanes that did not finish have no samples."""
    whole = finished_lanes(result)
    nothing = np.zeros(0, np.int64), np.zeros(0, np.int64)
    found = [
        _lane_gaps(instance, result, clock, lane) if whole[lane] else nothing
        for lane in np.ndindex(whole.shape)
    ]
    if pooled:
        found = [tuple(np.concatenate(parts) for parts in zip(*found, strict=True))]
    each = [distribution.of_weighted(v / TICKS_PER_SECOND, weights) for v, weights in found]
    shape = () if pooled else whole.shape
    columns = zip(*(dataclasses.astuple(one) for one in each), strict=True)
    return Distribution(*(np.stack(column).reshape(shape) for column in columns))


def _lane_gaps(
    instance: Instance, result: Result, clock: Clock, lane: tuple[int, ...]
) -> tuple[Integers, Integers]:
    return gaps(runs_of(instance, result, lane), timeline(instance, result, clock, lane))


def _check(
    instance: Instance, result: Result, ttft_limit: float | None, tpot_limit: float | None
) -> None:
    leaves = jax.tree.leaves((instance, result))
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        raise TypeError("metrics: got traced arrays; expected concrete ones, outside jit")
    for name, limit in (("ttft_limit", ttft_limit), ("tpot_limit", tpot_limit)):
        if limit is not None and not limit > 0:
            raise ValueError(f"{name} is {limit}; expected more than 0 seconds")


def figures(metrics: Serving) -> Iterator[tuple[str, Floats, NDArray[np.bool_]]]:
    """Every number of a `Serving` as (name, values, valid), named such as `p99_ttft`."""
    for field in dataclasses.fields(metrics):
        value = getattr(metrics, field.name)
        if isinstance(value, Distribution):
            for part in dataclasses.fields(value)[1:]:
                yield f"{part.name}_{field.name}", getattr(value, part.name), value.valid
        elif isinstance(value, Metric):
            yield field.name, value.value, value.valid
        elif value is not None:
            yield field.name, value, np.ones(np.shape(value), bool)
