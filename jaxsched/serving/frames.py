"""Tidy tables of simulations under a clock, as pandas data frames; see docs/metrics.md.

Times are in seconds, energy in joules, KV use as a share of the memory. What is not valid (a
percentile of no samples, the throughput of a lane that did not finish) is NaN or null.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from jaxsched.clocks import TICKS_PER_SECOND, Clock
from jaxsched.frames import half_width
from jaxsched.instance import Instance
from jaxsched.metrics import Serving, figures, samples
from jaxsched.result import Result, Status

SLACK = 1.1
"""How much longer than its arrivals a stream may take, besides the time to drain, if it is kept up
with."""

YARDSTICK = "fcfs"
"""The policy that gains are taken to: what serving engines do, without a prediction."""

FIGURES = (
    "mean_ttft", "p50_ttft", "p99_ttft", "mean_tpot", "p99_tpot", "mean_e2el", "p50_e2el",
    "p99_e2el", "mean_queueing", "request_throughput", "output_throughput", "goodput",
    "preemptions", "wasted_tokens", "kv_mean", "kv_peak", "energy_per_token", "gain", "load",
    "rate_bound",
)  # fmt: skip
"""Columns that `summarize` takes means of, as far as a table has them."""


def serving_frame(
    instance: Instance, result: Result, metrics: Serving, **columns: Any
) -> pd.DataFrame:
    """One row per lane; `columns` (scalars or arrays of shape [lanes]) come first.

    Args:
      instance: The instances simulated, of lane shape [lanes].
      result: What `simulate` returned for them.
      metrics: Their metrics, not pooled.
      **columns: Further columns, such as policy and lane.

    Returns:
      A table with n, memory, offered_rate (requests per second of the time between the first
      arrival and the last; NaN for a backlog), every figure of `Serving` (`mean_ttft` …
      `p99_queueing`, `completed` …), rounds and status.
    """
    lanes = instance.lanes[0]
    values = {
        "n": np.asarray(result.num_requests),
        "memory": np.broadcast_to(np.asarray(instance.memory), (lanes,)),
        "offered_rate": offered_rate(instance),
    }
    for name, value, valid in figures(metrics):
        values[name] = value if valid.all() else np.where(valid, value, np.nan)
    names = np.asarray([status.name for status in Status], object)
    values |= {"rounds": np.asarray(result.rounds), "status": names[np.asarray(result.status)]}
    return pd.DataFrame({**columns, **values}, index=pd.RangeIndex(lanes))


def offered_rate(instance: Instance) -> np.ndarray:
    """Requests per second between the first arrival and the last, of shape [...]; NaN if none."""
    n, lanes = instance.n, instance.lanes
    count = np.broadcast_to(n if instance.num_requests is None else instance.num_requests, lanes)
    if instance.arrival is None:
        return np.full(lanes, np.nan)
    arrival, real = np.asarray(instance.arrival), np.arange(n) < count[..., None]
    first = np.min(np.where(real, arrival, np.inf), axis=-1)
    span = np.max(np.where(real, arrival, -np.inf), axis=-1) - first
    return np.where(span > 0, (count - 1) / np.where(span > 0, span, 1), np.nan)


def served_frame(instance: Instance, result: Result, **columns: Any) -> pd.DataFrame:
    """One row per request of a single lane; `columns` come first.

    `arrival`, `admission` (start of the round of the first), `first_token` and `completion` are
    points in time. Where a request did not finish, its times are null. `status` is how the lane
    ended.

    Args:
      instance: The instance simulated, of lane shape [1], without padding.
      result: What `simulate` returned for it.
      **columns: Further columns, such as policy, scalars or of shape [n].
    """
    seen = samples.requests(instance, result)
    fields = ("prompt", "output", "lower", "upper", "point")
    values = {field: np.asarray(getattr(instance, field))[0] for field in fields}
    values["arrival"] = samples.arrival_ticks(instance)[0] / TICKS_PER_SECOND
    points = ("admission_seconds", "first_token_seconds", "completion_seconds")
    for name in points:
        values[name.removesuffix("_seconds")] = _or_nan(getattr(result, name), seen.finished)
    for name in ("queueing", "ttft", "tpot", "e2el"):
        known = seen.several if name == "tpot" else seen.finished
        values[name] = _or_nan(getattr(seen, name), known)
    values["evictions"] = np.asarray(result.preemptions)[0]
    values["status"] = Status(int(np.asarray(result.status)[0])).name
    return pd.DataFrame({**columns, **values})


def _or_nan(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Those of the one lane."""
    return np.where(known, values, np.nan)[0]


def drain_seconds(instance: Instance, clock: Clock) -> np.ndarray:
    """What the longest output takes alone on a worker whose cache is full, of shape [...]."""
    longest = np.max(np.asarray(instance.output), axis=-1)
    return longest * clock.seconds(0, 1, np.asarray(instance.memory))


def with_gain(frame: pd.DataFrame) -> pd.DataFrame:
    """Adds what is taken from several rows or columns of the table of a serving job.

    `gain` is the mean end-to-end latency of fcfs over the policy's, on the same stream at the same
    rate (NaN where fcfs was not run). `load` is the time that a stream took, less `drain`, over the
    time in which it arrived: about 1 where the worker keeps up, and growing with the rate beyond.
    """
    streams = ["rate", "lane"]
    yardstick = frame[frame["policy"] == YARDSTICK].set_index(streams)["mean_e2el"]
    matched = yardstick.reindex(pd.MultiIndex.from_frame(frame[streams])).to_numpy()
    arriving = (frame["n"] - 1) / frame["offered_rate"]
    return frame.assign(
        gain=matched / frame["mean_e2el"], load=(frame["makespan"] - frame["drain"]) / arriving
    )


def summarize(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over the streams, a row per prediction, policy and rate, in order of appearance.

    Returns:
      A table of the means of `FIGURES`, half the width of their 95 % confidence intervals as
      `..._ci`, `n`, `unfinished` streams, and `sustained`: the mean load is at most `SLACK`, here
      and at all lower rates, and all streams finished.
    """
    frame = with_gain(frame)
    groups = frame.groupby(["prediction", "policy", "rate"], sort=False)
    names = [name for name in FIGURES if name in frame]
    table = groups[names].mean()
    for name in names:
        table[f"{name}_ci"] = groups[name].apply(half_width)
    table["n"] = groups["n"].mean()
    table["unfinished"] = groups["status"].apply(lambda s: int((s != Status.FINISHED.name).sum()))
    table = table.reset_index()
    keeps_up = (table["load"] <= SLACK) & (table["unfinished"] == 0)
    ascending = table.assign(keeps_up=keeps_up).sort_values("rate", kind="stable")
    lower = ascending.groupby(["prediction", "policy"])["keeps_up"].cummin()
    return table.assign(sustained=lower.reindex(table.index))


def saturation(table: pd.DataFrame) -> pd.DataFrame:
    """The largest rate that each policy sustains, from `summarize`; NaN if none.

    Returns:
      A table with prediction, policy and rate.
    """
    rates = table.assign(rate=table["rate"].where(table["sustained"]))
    return rates.groupby(["prediction", "policy"], sort=False)["rate"].max().reset_index()
