"""Requests, streams, and what is measured of a simulation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from numpy.typing import NDArray

import jaxsched as js
from jaxsched import metrics, workloads
from jaxsched.clocks import Clock
from jaxsched.policies import Policy
from jaxsched.studies.capacity import sustained_rate
from jaxsched.studies.frames import half_width
from jaxsched.workloads import Lengths
from jaxsched.workloads.arrivals import ArrivalSource
from jaxsched.workloads.intervals import IntervalSource

BLOCK = 16
MEMORY = 1030 * BLOCK
"""The 16,492 tokens of arXiv 2502.07115 in whole blocks of vLLM's size."""

SHAREGPT = workloads.embedded.sharegpt().truncated(max_total=4030)
PAPER, VLLM = "papers' worker", "vLLM's worker"
WORKERS = {PAPER: js.workers.paper(), VLLM: js.workers.vllm(block=BLOCK)}
PERFECT = workloads.intervals.relative(0)


@dataclasses.dataclass(frozen=True)
class Source:
    """Where requests come from: drawn lengths with Poisson arrivals, or stretches of a trace.

    Attributes:
      name: What tables call it.
      lengths: Prompts and outputs.
      trace: Arrivals with their own requests; None for Poisson arrivals of `lengths`.
      memory: KV cache in tokens.
      clock: How long a round lasts; None to count rounds.
    """

    name: str
    lengths: Lengths
    trace: workloads.Trace | None = None
    memory: int = MEMORY
    clock: Clock | None = None

    def backlog(
        self, n: int, lanes: int, intervals: IntervalSource = PERFECT, seed: int = 0
    ) -> js.Instance:
        """All at once."""
        return self._drawn(n, lanes, intervals, None, seed)

    def stream(
        self, rate: float, n: int, lanes: int, intervals: IntervalSource = PERFECT, seed: int = 0
    ) -> js.Instance:
        """So many requests per second, or per round without a clock, on average.

        The requests do not depend on the rate, and their arrivals are stretched with it.
        """
        if self.trace is not None:
            return self._stretches(rate, n, lanes, intervals, seed)
        source = workloads.arrivals.poisson_seconds if self.clock else workloads.arrivals.poisson
        return self._drawn(n, lanes, intervals, source(rate), seed)

    def _drawn(
        self,
        n: int,
        lanes: int,
        intervals: IntervalSource,
        arrivals: ArrivalSource | None,
        seed: int,
    ) -> js.Instance:
        return workloads.make(
            jax.random.key(seed), lengths=self.lengths, intervals=intervals, arrivals=arrivals,
            n=n, lanes=lanes, memory=self.memory,
        )  # fmt: skip

    def _stretches(
        self, rate: float, n: int, lanes: int, intervals: IntervalSource, seed: int
    ) -> js.Instance:
        """Requests in a row from random ones on, each stretch brought to the rate as a whole."""
        trace = self.trace
        rng = np.random.default_rng(seed)
        rows = rng.integers(0, len(trace.output) - n + 1, (lanes, 1)) + np.arange(n)
        seconds = trace.arrival_seconds[rows]
        times = (seconds - seconds[:, :1]) / (seconds[:, -1:] - seconds[:, :1]) * (n / rate)
        output = trace.output[rows]
        lower, upper = intervals(jax.random.key(seed), output)
        return js.Instance(
            prompt=trace.prompt[rows], output=output, lower=lower, upper=upper,
            point=lower + (upper - lower) // 2, memory=self.memory,
            arrival=times if self.clock else times.astype(np.int32),
        )  # fmt: skip


def from_trace(path: Path, memory: int, clock: Clock) -> Source:
    """The requests of a trace that fit, with its arrivals."""
    trace = workloads.read_trace(path)
    fits = trace.prompt.astype(np.int64) + trace.output <= memory // BLOCK * BLOCK
    kept = dataclasses.replace(
        trace,
        prompt=trace.prompt[fits], output=trace.output[fits],
        arrival_seconds=trace.arrival_seconds[fits], lower=None, upper=None, line=None,
    )  # fmt: skip
    lengths = workloads.lengths.empirical(kept.prompt, kept.output)
    return Source(path.name.split(".")[0], lengths, kept, memory // BLOCK * BLOCK, clock)


def sustained(source: Source, worker: js.Worker) -> float:
    """Requests per second (or round) that `fcfs` completes while a long backlog waits."""
    return sustained_rate(source.lengths, source.memory, source.clock, worker)


def measure(
    source: Source, instance: js.Instance, policy: Policy, worker: js.Worker
) -> dict[str, NDArray[Any]]:
    """Figures of every lane; times in seconds under a clock, else in rounds.

    `mean` and `p99` are of latencies, `longest` is the longest wait for a first token, `kv` the
    mean use of the KV cache, `waste` the share of recomputed (or again generated) tokens among
    all computed ones, `preemptions` per request.
    """
    result = js.simulate(instance, policy, worker=worker, clock=source.clock, engine="native")
    if np.any(np.asarray(result.status) != js.Status.FINISHED):
        raise RuntimeError(f"{policy.name}: a stream did not finish")
    if source.clock is None:
        arrival = 0 if instance.arrival is None else instance.arrival
        latency, ttft = result.completion - arrival, result.first_token - arrival
    else:
        seen = metrics.requests(instance, result)
        latency, ttft = seen.e2el, seen.ttft
    useful = np.sum(instance.prompt + instance.output - 1, axis=-1)
    return {
        "mean": np.mean(latency, axis=-1),
        "p99": np.quantile(latency, 0.99, axis=-1),
        "longest": np.max(ttft, axis=-1),
        "ttft": np.mean(ttft, axis=-1),
        "kv": result.memory_time / (result.rounds.astype(np.float64) * source.memory),
        "waste": result.wasted_tokens / (result.wasted_tokens + useful),
        "wasted_tokens": np.asarray(result.wasted_tokens),
        "preemptions": result.evictions / instance.n,
        "rounds": np.asarray(result.rounds),
    }


def ratios(frame: pd.DataFrame, by: list[str], columns: list[str], to: str) -> pd.DataFrame:
    """Means over lanes of the ratios to the policy `to` of the same lane, with half-widths.

    Args:
      frame: A row per lane and policy.
      by: Columns that name a setting, in which `to` has one row per lane.
      columns: What is compared; a column `x_ci` is the 95 % half-width of the mean of `x`.
      to: Name of a policy.
    """
    keys = [*by, "lane"]
    base = frame[frame["policy"] == to].drop_duplicates(keys).set_index(keys)[columns]
    joined = frame.join(base, on=keys, rsuffix="_base")
    for column in columns:
        joined[column] /= joined[f"{column}_base"]
    groups = joined.groupby([*by, "prediction", "policy"], sort=False)
    parts = {column: groups[column].mean() for column in columns}
    parts |= {f"{column}_ci": groups[column].agg(half_width) for column in columns}
    return pd.DataFrame(parts).reset_index()


def rows(measured: dict[str, NDArray[Any]], **setting: Any) -> pd.DataFrame:
    """A row for every lane."""
    return pd.DataFrame(measured).rename_axis("lane").reset_index().assign(**setting)
