"""Tidy tables of results: one row per instance and policy, as pandas data frames.

Columns of every such table:

    policy, lane, n, memory            which simulation; memory is M, in tokens
    total_latency, mean_latency        in rounds; the total is that of the finished requests
    bound, ratio_to_bound              proved lower bound on the total latency; total / bound
    evictions, wasted_tokens           evictions, and the tokens lost to them
    mean_memory, peak_memory           KV cache in use, in tokens: over the rounds, and at most
    rounds, status                     rounds until the last completion; name of a `Status`

and what the caller adds, such as seed and prediction. `with_ratios` adds `ratio_to_h_sf`. Where the
status is not FINISHED, requests without a completion have no latency, so `mean_latency` and the
ratios are NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from jaxsched.bounds import mean_busy_time_bound
from jaxsched.instance import Instance
from jaxsched.result import Result, Status

YARDSTICK = "h_sf"
"""The policy that ratios are taken to: what arXiv 2508.14544 compares with."""

CONFIDENCE = 0.95

FIRST = ("seed", "lane", "n", "memory", "prediction", "prediction_kind", "prediction_parameter")
"""Columns that say which instance a row is about; they stand on the left."""


def bound_of(instance: Instance) -> NDArray[np.float64]:
    """Proved lower bound on the total latency of each lane of a backlog, of shape [lanes].

    NaN with arrivals, where the bound of `mean_busy_time_bound` does not hold.
    """
    if instance.arrival is not None and np.any(np.asarray(instance.arrival)):
        return np.full(instance.lanes, np.nan)
    return mean_busy_time_bound(
        instance.prompt, instance.output, instance.memory, instance.num_requests
    )


def result_frame(
    instance: Instance, result: Result, bound: NDArray[np.float64], **columns: Any
) -> pd.DataFrame:
    """One row per lane; `columns` (scalars or arrays of shape [lanes]) come first.

    Args:
      instance: The instances simulated, of lane shape [lanes].
      result: What `simulate` returned for them.
      bound: `bound_of(instance)`.
      **columns: Further columns, such as policy and lane.
    """
    values = result_columns(instance, result, bound)
    status = np.asarray([status.name for status in Status], object)[values.pop("status")]
    lanes = pd.RangeIndex(instance.lanes[0])
    return pd.DataFrame({**columns, **values, "status": status}, index=lanes)


def result_columns(
    instance: Instance, result: Result, bound: NDArray[np.float64]
) -> dict[str, NDArray[Any]]:
    """The measured columns of a table, arrays of shape [lanes]; `status` as a number.

    Arguments as of `result_frame`.
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
        "bound": bound,
        "ratio_to_bound": known * total / bound,
        "evictions": np.asarray(result.evictions),
        "wasted_tokens": np.asarray(result.wasted_tokens),
        "mean_memory": np.asarray(result.memory_time) / np.maximum(rounds, 1),
        "peak_memory": np.asarray(result.peak_memory),
        "rounds": rounds,
        "status": status,
    }


def request_frame(instance: Instance, result: Result, **columns: Any) -> pd.DataFrame:
    """One row per request of a single lane; `columns` come first.

    Times are in rounds. Where a request did not finish, `completion` and `latency` are null; where
    it was never admitted, `first_token` is. `status` is how the lane ended.

    Args:
      instance: The instance simulated, of lane shape [1].
      result: What `simulate` returned for it.
      **columns: Further columns, such as policy, scalars or of shape [n].
    """
    fields = ("prompt", "output", "lower", "upper", "point")
    arrival = 0 if instance.arrival is None else np.asarray(instance.arrival)[0]
    completion = _or_null(result.completion)
    values = {
        **{field: np.asarray(getattr(instance, field))[0] for field in fields},
        "arrival": arrival,
        "first_token": _or_null(result.first_token),
        "completion": completion,
        "latency": completion - arrival,
        "evictions": np.asarray(result.preemptions)[0],
        "status": Status(int(np.asarray(result.status)[0])).name,
    }
    return pd.DataFrame({**columns, **values})


def _or_null(rounds: Any) -> pd.arrays.IntegerArray:
    """The rounds of the one lane, nulls instead of -1."""
    values = np.asarray(rounds)[0].astype(np.int64)
    return pd.arrays.IntegerArray(values, values < 0)


def with_ratios(frame: pd.DataFrame, same: Sequence[str]) -> pd.DataFrame:
    """Adds `ratio_to_h_sf`, paired: total latency over h_sf's on the same instance.

    Args:
      frame: A table as described above.
      same: Columns that together name an instance, such as ["n", "lane", "prediction"].

    Returns:
      The table with the column after `mean_latency`; NaN where h_sf was not run, or where it or the
      policy itself did not finish.
    """
    total = frame["total_latency"].where(frame["status"] == Status.FINISHED.name)
    instances = pd.MultiIndex.from_frame(frame[list(same)])
    is_yardstick = (frame["policy"] == YARDSTICK).to_numpy()
    yardstick = pd.Series(total.to_numpy()[is_yardstick], instances[is_yardstick])
    matched = yardstick.reindex(instances).to_numpy()
    after = frame.columns.get_loc("mean_latency") + 1
    frame = frame.copy()
    frame.insert(after, "ratio_to_h_sf", total.to_numpy() / matched)
    return frame


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with the columns that name the instance first, then the policy, then the rest."""
    left = [name for name in (*FIRST, "policy") if name in frame.columns]
    return frame[[*left, *frame.columns.difference(left, sort=False)]]


def half_width(values: pd.Series) -> float:
    """Half width of the 95 % confidence interval of the mean (Student's t); NaN for one value.

    NaN among the values is left out.
    """
    values = values.dropna()
    if len(values) < 2:
        return float("nan")
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
    return float(quantile * values.std(ddof=1) / np.sqrt(len(values)))


def summarize(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Means over the rows that share the columns `by`, in order of appearance.

    Returns:
      A table with `by` as columns, then for every figure its mean, and for `mean_latency` and
      `ratio_to_h_sf` also `..._ci`, half the width of the 95 % confidence interval. The one of the
      ratio is paired: it is that of the per-instance ratios. `unfinished` counts the rows whose
      status is not FINISHED; the means of what is NaN in them are over the other rows.
    """
    groups = frame.groupby(list(by), sort=False, dropna=False, observed=True)
    numbers = frame.columns.difference([*by, "lane", "seed"], sort=False)
    figures = [name for name in numbers if pd.api.types.is_numeric_dtype(frame[name])]
    table = groups[figures].mean()
    for name in ("mean_latency", "ratio_to_h_sf"):
        table[f"{name}_ci"] = groups[name].apply(half_width)
    finished = Status.FINISHED.name
    table["unfinished"] = groups["status"].apply(lambda status: int((status != finished).sum()))
    return table.reset_index()
