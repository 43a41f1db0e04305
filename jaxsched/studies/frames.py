"""Tidy tables of results, as pandas data frames: a row per simulation, or one per request.

Columns of every table of simulations in rounds:

    policy, lane, n, memory            which simulation; memory is M, in tokens
    total_latency, mean_latency        in rounds; the total is that of the finished requests
    latency_p99, latency_max           99th percentile and longest, in rounds
    longest_wait                       most rounds that gave a request no token that it kept
    bound, ratio_to_bound              proved lower bound on the total latency; total / bound
    evictions, wasted_tokens           evictions, and the tokens lost to them
    mean_memory, peak_memory           KV cache in use, in tokens: over the rounds, and at most
    rounds, status                     rounds until the last completion; name of a `Status`
    missed                             share of the requests whose output is not in the interval
                                       predicted; NaN for a policy that reads none

and what a study adds, such as seed and prediction. `with_ratios` adds `ratio_to_h_sf`, and
`ratio_to_best` if the best schedule in hindsight is among the policies: with `ratio_to_bound` that
says from both sides how far a policy is above the optimum. Where the status is not FINISHED,
requests without a completion have no latency and rounds are not all there, so latencies, waits,
`mean_memory` and the ratios are NaN. Under a clock times are in seconds, energy in joules, KV use
as a share of the memory (docs/metrics.md); what is not valid, such as a percentile of no samples,
is NaN or null.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.core.groupby import DataFrameGroupBy
from scipy.special import stdtrit

from jaxsched import clocks, metrics
from jaxsched.bounds import MOST_ROUNDS, latency_bound, lower_bound
from jaxsched.clocks import TICKS_PER_SECOND
from jaxsched.instance import Instance
from jaxsched.metrics import samples
from jaxsched.policies import Policy
from jaxsched.result import Result, Status
from jaxsched.studies.axes import YARDSTICK, Cell
from jaxsched.workers import Worker

CONFIDENCE = 0.95

LEFT_COLUMNS = (
    "seed", "lane", "workload", "n", "memory", "arrivals", "rate", "clock", "max_batch", "worker",
    "prediction", "prediction_kind", "prediction_parameter", "policy",
)  # fmt: skip
"""Columns that say which simulation a row is about; they stand on the left."""

BEST = "best:hindsight"
"""The policy that is no policy: the best schedule found in hindsight."""

STATUSES = [status.name for status in Status]

SERVING_YARDSTICK = "fcfs"
"""The policy that gains are taken to: what serving engines do, without a prediction."""

SLACK = 1.1
"""How much longer than its arrivals a stream may take, besides the time to drain, if it is kept up
with."""

SERVING_FIGURES = (*metrics.MEANS, "gain", "load", "rate_bound")
"""Columns that `summarize_serving` takes means of, as far as a table has them."""


def bound_of(instance: Instance, worker: Worker | None = None) -> NDArray[np.float64]:
    """Proved lower bound on the total latency of each lane of a backlog, of shape [lanes].

    NaN with arrivals, where the bound of `latency_bound` does not hold.
    """
    if instance.arrival is not None and np.any(np.asarray(instance.arrival)):
        return np.full(instance.lanes, np.nan)
    return latency_bound(
        instance.prompt, instance.output, instance.memory, instance.num_requests, worker
    )


def strong_bound_of(instance: Instance, worker: Worker | None = None) -> NDArray[np.float64]:
    """The strongest bound, with arrivals in rounds too: up to some seconds a crowded lane.

    That of `bound_of` where numba is missing, where there are too many rounds, and on the worker of
    an engine.
    """
    arrival = 0 if instance.arrival is None else np.asarray(instance.arrival, np.int64)
    last = np.max(arrival + np.asarray(instance.output).sum(axis=-1, keepdims=True, dtype=np.int64))
    if (worker is not None and worker.blocks) or last > MOST_ROUNDS:
        return bound_of(instance, worker)
    try:
        return np.fmax(np.asarray(lower_bound(instance), np.float64), bound_of(instance))
    except ImportError:
        return bound_of(instance)


def lane_frame(measured: Mapping[str, Any], **columns: Any) -> pd.DataFrame:
    """One row per lane; `columns` (scalars or arrays of shape [lanes]) come first."""
    status = measured["status"]
    named = {**columns, **measured, "status": np.asarray(STATUSES, object)[status]}
    return pd.DataFrame(named, index=pd.RangeIndex(len(status)))


def result_columns(
    instance: Instance, result: Result, bound: NDArray[np.float64]
) -> dict[str, NDArray[Any]]:
    """The measured columns in rounds, arrays of shape [lanes]; `status` as a number.

    The bound is `bound_of(instance)`.
    """
    lanes = instance.lanes[0]
    total, rounds = np.asarray(result.total_latency), np.asarray(result.rounds)
    status = np.asarray(result.status)
    known = np.where(status == Status.FINISHED, 1.0, np.nan)
    return {
        "n": np.asarray(result.num_requests),
        "memory": np.broadcast_to(np.asarray(instance.memory), (lanes,)),
        "total_latency": total,
        "mean_latency": known * np.asarray(result.mean_latency, np.float64),
        **{name: known * value for name, value in latency_figures(instance, result).items()},
        "bound": bound,
        "ratio_to_bound": known * total / bound,
        "evictions": np.asarray(result.evictions),
        "wasted_tokens": np.asarray(result.wasted_tokens),
        "mean_memory": known * np.asarray(result.memory_time) / np.maximum(rounds, 1),
        "peak_memory": np.asarray(result.peak_memory),
        "rounds": rounds,
        "status": status,
    }


def latency_figures(
    instance: Instance, result: Result, percentiles: Sequence[int] = (99,)
) -> dict[str, NDArray[np.float64]]:
    """Of the requests that finished, in rounds and of shape [lanes]; NaN where none did.

    Percentiles of the latency as `latency_p99` and so on, the longest as `latency_max`, and the
    longest wait as `longest_wait`.
    """
    completion = np.asarray(result.completion)
    finished = completion >= 0
    # In 32 bits, which sort three times as fast.
    latency = completion - (0 if instance.arrival is None else np.asarray(instance.arrival))
    found = samples.of(latency, finished)
    figures = {f"latency_p{q}": getattr(found, f"p{q}") for q in percentiles}
    longest = np.max(np.where(finished, latency - np.asarray(instance.output), 0), axis=-1)
    figures |= {"latency_max": found.max, "longest_wait": longest}
    return {name: np.where(found.valid, value, np.nan) for name, value in figures.items()}


def missed(instance: Instance, policy: Policy) -> NDArray[np.float64]:
    """Share of the requests whose output is not in the interval predicted, of shape [lanes].

    NaN for a policy that reads no prediction.
    """
    output = np.asarray(instance.output)
    outside = (output < np.asarray(instance.lower)) | (output > np.asarray(instance.upper))
    return (
        np.mean(outside, axis=-1) if policy.reads_predictions else np.full(instance.lanes, np.nan)
    )


def request_frame(instance: Instance, result: Result, **columns: Any) -> pd.DataFrame:
    """One row per request of a single lane; `columns` come first.

    In rounds: `arrival`, `first_token`, `completion`, `latency`. Under a clock, in seconds:
    `arrival`, `admission` (start of the round of the first), `first_token`, `completion`,
    `queueing`, `ttft`, `tpot`, `e2el`. What did not happen is null. `status` is how the lane ended.
    """
    fields = ("prompt", "output", "lower", "upper", "point")
    values = {field: np.asarray(getattr(instance, field))[0] for field in fields}
    values |= (_in_rounds if result.times is None else _in_seconds)(instance, result)
    values["evictions"] = np.asarray(result.preemptions)[0]
    values["status"] = Status(int(np.asarray(result.status)[0])).name
    return pd.DataFrame({**columns, **values})


def _in_rounds(instance: Instance, result: Result) -> dict[str, Any]:
    """Times of the one lane, nulls instead of -1."""

    def known(rounds: Any) -> pd.arrays.IntegerArray:
        values = np.asarray(rounds)[0].astype(np.int64)
        return pd.arrays.IntegerArray(values, values < 0)

    arrival = 0 if instance.arrival is None else np.asarray(instance.arrival)[0]
    first, last = known(result.first_token), known(result.completion)
    return {"arrival": arrival, "first_token": first, "completion": last, "latency": last - arrival}


def _in_seconds(instance: Instance, result: Result) -> dict[str, Any]:
    """Times of the one lane, NaN where a request did not finish."""
    seen = metrics.requests(instance, result)
    values = {"arrival": samples.arrival_ticks(instance)[0] / TICKS_PER_SECOND}
    for name in ("admission", "first_token", "completion"):
        times = getattr(result, f"{name}_seconds")
        values[name] = np.where(seen.finished, times, np.nan)[0]
    for name in ("queueing", "ttft", "tpot", "e2el"):
        known = seen.several if name == "tpot" else seen.finished
        values[name] = np.where(known, getattr(seen, name), np.nan)[0]
    return values


def with_ratios(frame: pd.DataFrame, same: Sequence[str]) -> pd.DataFrame:
    """Adds `ratio_to_h_sf`, paired: total latency over h_sf's on the same instance.

    The columns `same` together name an instance, such as ["n", "lane", "prediction"]. The ratio
    stands after `mean_latency`; NaN where h_sf was not run, or where it or the
    policy itself did not finish. `ratio_to_best` is the same for `BEST`, if that is there.
    """
    total = frame["total_latency"].where(frame["status"] == Status.FINISHED.name)
    instances = pd.MultiIndex.from_frame(frame[list(same)])
    after = frame.columns.get_loc("mean_latency") + 1
    made = frame.copy()
    for policy, column in ((BEST, "ratio_to_best"), (YARDSTICK, "ratio_to_h_sf")):
        is_yardstick = (frame["policy"] == policy).to_numpy()
        if policy == BEST and not is_yardstick.any():
            continue
        yardstick = pd.Series(total.to_numpy()[is_yardstick], instances[is_yardstick])
        matched = yardstick.reindex(instances).to_numpy()
        made.insert(after, column, total.to_numpy() / matched)
    return made


def in_order(names: Iterable[str]) -> list[str]:
    """Names of columns with those of `LEFT_COLUMNS` on the left, as far as they are there."""
    names = list(names)
    return [name for name in LEFT_COLUMNS if name in names] + [
        x for x in names if x not in LEFT_COLUMNS
    ]


def half_width(values: pd.Series) -> float:
    """Half width of the 95 % confidence interval of the mean (Student's t); NaN for one value.

    NaN among the values is left out.
    """
    return float(_half_widths(values.std(), values.count()))


def _half_widths(spread: Any, count: Any) -> Any:
    """The same from the standard deviation of so many values, of any shape."""
    return stdtrit(np.maximum(count - 1, 1), (1 + CONFIDENCE) / 2) * spread / np.sqrt(count)


def summarize(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Means over the rows that share the columns `by`, in order of appearance.

    A table with `by` as columns, then for every figure its mean, and for `mean_latency` and
    `ratio_to_h_sf` also `..._ci`, half the width of the 95 % confidence interval. The one of the
    ratio is paired: it is that of the per-instance ratios. `unfinished` counts the rows whose
    status is not FINISHED; the means of what is NaN in them are over the other rows.
    """
    groups = frame.groupby(list(by), sort=False, dropna=False, observed=True)
    numbers = frame.columns.difference([*by, "lane", "seed"], sort=False)
    figures = [name for name in numbers if pd.api.types.is_numeric_dtype(frame[name])]
    table = _means(groups, figures, ("mean_latency", "ratio_to_h_sf"))
    return table.assign(unfinished=_unfinished(groups)).reset_index()


def _means(groups: DataFrameGroupBy, names: list[str], paired: Sequence[str]) -> pd.DataFrame:
    """Means of some columns, and half widths of those in `paired`."""
    some = groups[list(paired)]
    half = _half_widths(some.std(), some.count()).add_suffix("_ci")
    return groups[names].mean().join(half)


def _unfinished(groups: DataFrameGroupBy) -> pd.Series:
    finished = Status.FINISHED.name
    return groups["status"].apply(lambda status: int((status != finished).sum()))


# Under a clock.


def serving_columns(
    instance: Instance,
    result: Result,
    clock: str,
    *,
    names: Sequence[str] | None = None,
    warm_up: float = 0.0,
    worker: Worker | None = None,
    **limits: Any,
) -> dict[str, NDArray[Any]]:
    """The measured columns under a clock of this name, arrays of shape [lanes].

    `names` are the metrics that are computed, all of them by default, `limits` those of a service
    level, such as `ttft_limit`; requests that arrive in the first `warm_up` seconds do not count in
    them. Columns: n, memory,
    offered_rate (requests per second of the time between the first arrival and the last; NaN for a
    backlog), every figure of `Serving` (`mean_ttft` … `p99_queueing`, `completed` …), rounds and
    status, the last as a number.
    """
    found = metrics.serving(
        instance,
        result,
        clocks.clock(clock),
        energy=clocks.energy(clock),
        names=names,
        counted=after_warm_up(instance, warm_up),
        worker=worker,
        **limits,
    )
    values = {
        "n": np.asarray(result.num_requests),
        "memory": np.broadcast_to(np.asarray(instance.memory), instance.lanes),
        "offered_rate": offered_rate(instance),
    }
    for name, value, valid in metrics.figures(found):
        values[name] = value if valid.all() else np.where(valid, value, np.nan)
    return {
        **values, "rounds": np.asarray(result.rounds), "status": np.asarray(result.status)
    }  # fmt: skip


def after_warm_up(instance: Instance, warm_up: float) -> NDArray[np.bool_] | None:
    """Mask of the requests that arrive later, of shape [..., n]; None if there is no warm-up.

    ValueError if no request of some lane does.
    """
    if not warm_up:
        return None
    counted = np.asarray(instance.arrival, np.float64) >= warm_up
    if not counted.any(axis=-1).all():
        last = np.max(np.asarray(instance.arrival), axis=-1).min()
        raise ValueError(
            f"warm_up is {warm_up:g} s, but the last request arrives after {last:.6g} s; expected "
            "requests that arrive later and count"
        )
    return counted


def offered_rate(instance: Instance) -> np.ndarray:
    """Requests per second between the first arrival and the last, of shape [...]; NaN if none."""
    n, lanes = instance.n, instance.lanes
    number = np.broadcast_to(n if instance.num_requests is None else instance.num_requests, lanes)
    if instance.arrival is None:
        return np.full(lanes, np.nan)
    arrival, real = np.asarray(instance.arrival), np.arange(n) < number[..., None]
    first = np.min(np.where(real, arrival, np.inf), axis=-1)
    span = np.max(np.where(real, arrival, -np.inf), axis=-1) - first
    return np.where(span > 0, (number - 1) / np.where(span > 0, span, 1), np.nan)


def with_gain(frame: pd.DataFrame) -> pd.DataFrame:
    """Adds what is taken from several rows or columns of the table of a serving study.

    `gain` is the mean end-to-end latency of fcfs over the policy's, on the same stream at the same
    rate (NaN where fcfs was not run). `load` is the time that a stream took, less `drain`, over the
    time in which it arrived: about 1 where the worker keeps up, and growing with the rate beyond.
    """
    streams = ["rate", "lane"]
    yardstick = frame[frame["policy"] == SERVING_YARDSTICK].set_index(streams)["mean_e2el"]
    matched = yardstick.reindex(pd.MultiIndex.from_frame(frame[streams])).to_numpy()
    arriving = (frame["n"] - 1) / frame["offered_rate"]
    return frame.assign(
        gain=matched / frame["mean_e2el"], load=(frame["makespan"] - frame["drain"]) / arriving
    )


def summarize_serving(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over the streams, a row per prediction, policy and rate, in order of appearance.

    A table of the means of `SERVING_FIGURES`, half the width of their 95 % confidence intervals as
    `..._ci`, `n`, `unfinished` streams, and `sustained`: the mean load is at most `SLACK`, here and
    at all lower rates, and all streams finished.
    """
    frame = with_gain(frame)
    groups = frame.groupby(["prediction", "policy", "rate"], sort=False)
    names = [name for name in SERVING_FIGURES if name in frame]
    table = _means(groups, names, names)
    table = table.assign(n=groups["n"].mean(), unfinished=_unfinished(groups)).reset_index()
    keeps_up = (table["load"] <= SLACK) & (table["unfinished"] == 0)
    ascending = table.assign(keeps_up=keeps_up).sort_values("rate", kind="stable")
    lower = ascending.groupby(["prediction", "policy"])["keeps_up"].cummin()
    return table.assign(sustained=lower.reindex(table.index))


def saturation(table: pd.DataFrame) -> pd.DataFrame:
    """The largest rate that each prediction and policy sustains; NaN if none."""
    rates = table.assign(rate=table["rate"].where(table["sustained"]))
    return rates.groupby(["prediction", "policy"], sort=False)["rate"].max().reset_index()


# Of a sweep, where some simulations may be under a clock and some not.

IN_SECONDS = {
    "mean_latency": "mean_e2el",
    "latency_p99": "p99_e2el",
    "latency_max": "max_e2el",
    "longest_wait": "max_queueing",
}
"""Columns that are in rounds without a clock, and the metrics that they are under one."""


def sweep_columns(
    instance: Instance,
    result: Result,
    bound: NDArray[np.float64],
    cell: Cell,
    *,
    few: bool,
    limits: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The measured columns, arrays of shape [lanes]; `status` as a number.

    With `few` the table has the columns `metrics.SWEPT`, with limits of a service level also
    `metrics.LIMITED_COLUMNS`. Under a clock `mean_latency` and the other columns of `IN_SECONDS`
    are in seconds, there is no total (-1) and no bound (NaN).
    """
    output = np.asarray(instance.output).sum(axis=-1, dtype=np.int64)
    nothing = np.full(len(output), np.nan)
    columns = (*metrics.SWEPT, *(metrics.LIMITED_COLUMNS if limits else ()))
    if cell["clocks"] is None:
        found = result_columns(instance, result, bound)
        more = dict.fromkeys(columns, nothing) if few else {}
    else:
        # Rounds are counted under a clock too; only what compares them with arrivals is replaced.
        found = result_columns(instance, result.replace(times=None), bound)
        found |= dict.fromkeys(("bound", "ratio_to_bound"), nothing)
        found["total_latency"] = np.full(len(output), -1, np.int64)
        names = [
            name
            for name, one in metrics.METRICS.items()
            if one.swept or one.with_limits or name in ("e2el", "queueing")
        ]
        more = serving_columns(
            instance, result, cell["clocks"], names=names, worker=cell["workers"], **(limits or {})
        )
        finished = more["status"] == Status.FINISHED
        for name, seconds in IN_SECONDS.items():
            found[name] = np.where(finished, more[seconds], np.nan)
        more = {name: np.where(finished, more.get(name, np.nan), np.nan) for name in columns}
    return {**found, "output_tokens": output, **more}
