"""What each command prints of its results: a title, tables and a note."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd
from rich.table import Table

from jaxsched.metrics import METRICS, STATISTICS
from jaxsched.report.formats import UNITS, count, percent, rounds, seconds, shown
from jaxsched.report.terminal import alarm, bold, name_of, table
from jaxsched.studies import frames
from jaxsched.studies.frames import half_width, summarize
from jaxsched.studies.serving import ANY
from jaxsched.workloads.texts import read_prediction

Printed = tuple[str | Table, ...]
"""A title, one or two tables, and a note."""

BACKLOG_NOTE = """\
means over the finished instances, ± half a 95 % confidence interval (paired for / h_sf)
latency in rounds; KV, peak: mean and peak use of M; best: best schedule found in hindsight, bound:
proved lower bound; a policy is above the optimum by / best - 1 at least, by / bound - 1 at most"""

SERVED_NOTE = """\
TTFT and end to end count from arrival; a token that is generated again is not seen again; KV, peak:
mean and peak use of M; wasted: tokens lost to preemptions"""

SERVING_NOTE = """\
means over the streams; TTFT and end to end in seconds; gain: mean end to end of fcfs over the
policy's, ± half a paired 95 % confidence interval; KV, peak: use of M; preempted: per request;
sustains: largest rate of the job kept up with (proved: {bound}/s is the most, for long)"""

TUNING_NOTE = """\
mean ratios of mean latencies on test instances, ± half a paired 95 % confidence interval
work: requests simulated for candidates; as written: the best by validation, made readable"""


def backlog(frame: pd.DataFrame) -> Printed:
    """Every policy under every prediction at the largest number of requests.

    Policies whose results are the same under every prediction stand once, at the top.
    """
    n = frame["n"].max()
    chosen = frame[frame["n"] == n]
    summary = summarize(chosen, ["prediction", "policy"])
    lanes, memory = chosen["lane"].nunique(), int(chosen["memory"].iloc[0])
    spread = summary.groupby("policy")["mean_latency"].agg(["min", "max", "count"])
    fixed = spread.index[(spread["min"] == spread["max"]) & (spread["count"] > 1)]
    alike = summary["policy"].isin(fixed)
    sections = [("any prediction", summary[alike].drop_duplicates("policy")), *_by(summary[~alike])]
    made = table(
        ("latency", "/ h_sf", *_gap(chosen), "evicted", "wasted", "KV", "peak"),
        ((title, (_backlog_row(row, memory) for _, row in rows.iterrows()))
         for title, rows in sections),
    )  # fmt: skip
    return bold(f"n = {n:,} requests, M = {memory:,} tokens, {lanes} instances"), made, BACKLOG_NOTE


def _by(summary: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The label and the rows of each prediction, in order of appearance."""
    for prediction in dict.fromkeys(summary["prediction"]):
        label = "no prediction" if prediction == ANY else read_prediction(prediction).label
        yield label, summary[summary["prediction"] == prediction]


_GAP = {"/ best": "ratio_to_best", "/ bound": "ratio_to_bound"}
"""Ratios that the optimum lies between."""


def _gap(frame: pd.DataFrame | pd.Series) -> list[str]:
    """Those that there are, as tables head them."""
    return [heading for heading, column in _GAP.items() if column in frame]


def _backlog_row(row: pd.Series, memory: int) -> tuple[str, ...]:
    half = shown(row["ratio_to_h_sf_ci"], ".3f").lstrip("0")
    return (
        name_of(row),
        f"{shown(row['mean_latency'], rounds)} ±{shown(row['mean_latency_ci'], rounds):>4}",
        f"{shown(row['ratio_to_h_sf'], '.3f')} ±{half}",
        *(shown(row[_GAP[heading]], ".3f") for heading in _gap(row)),
        *(count(row["evictions"]), count(row["wasted_tokens"])),
        *(percent(row["mean_memory"] / memory), percent(row["peak_memory"] / memory)),
    )


def replay(frame: pd.DataFrame) -> Printed:
    """What each policy made of a trace, in rounds or, under a clock, in seconds."""
    first = frame.iloc[0]
    title = f"{int(first['n']):,} requests, M = {int(first['memory']):,} tokens"
    if "clock" not in frame:
        note = "latency in rounds; bound: proved lower bound on the mean latency"
        if "ratio_to_best" in frame:
            note += "; best: best schedule in hindsight\nthe optimum lies between the two"
        return bold(title), _in_rounds(frame), note
    rate = first["offered_rate"]
    offered = "" if math.isnan(rate) else f", {rate:.3g} req/s arrive"
    title = f"{title}, {first['clock']}{offered}"
    return bold(title), _latencies(frame), _figures(frame), SERVED_NOTE


def _in_rounds(frame: pd.DataFrame) -> Table:
    """One column per policy, with percentiles of the latency.

    Requests that did not finish are counted in a row of their own, and are in no percentile.
    """
    columns: dict[str, tuple[pd.Series, Any]] = {
        "mean latency": (frame["mean_latency"], rounds),
        "  / h_sf": (frame["ratio_to_h_sf"], ".3f"),
        **{f"  {heading}": (frame[_GAP[heading]], ".3f") for heading in _gap(frame)},
        **{f"  P{q}": (frame[f"latency_p{q}"], rounds) for q in (50, 90, 99)},
        "total latency": (frame["total_latency"], count),
        "rounds": (frame["rounds"], count),
        "evictions": (frame["evictions"], count),
        "wasted tokens": (frame["wasted_tokens"], count),
        "KV use, mean": (frame["mean_memory"] / frame["memory"], percent),
        "KV use, peak": (frame["peak_memory"] / frame["memory"], percent),
    }
    if frame["unfinished"].any():
        columns = {alarm("unfinished"): (frame["unfinished"], _alarming), **columns}
    rows = ((name, *(shown(x, form) for x in xs)) for name, (xs, form) in columns.items())
    # A policy's name breaks at its colon, so that six of them fit into 80 columns.
    return table([policy.replace(":", ":\n") for policy in frame["policy"]], [("", rows)])


def _alarming(value: float) -> str:
    return alarm(count(value))


def _latencies(frame: pd.DataFrame) -> Table:
    """Mean and percentiles of every distribution, a row per policy."""
    sections = (
        (f"{one.heading}, {one.unit}", (
            (row["policy"], *(shown(row[f"{which}_{name}"], UNITS[one.unit])
                              for which in STATISTICS))
            for _, row in frame.iterrows()
        ))
        for name, one in METRICS.items() if f"mean_{name}" in frame
    )  # fmt: skip
    return table([which.replace("p", "P") for which in STATISTICS], sections)


def _figures(frame: pd.DataFrame) -> Table:
    """Every other metric that the table has, a row per policy."""
    told = [(name, one) for name, one in METRICS.items() if name in frame and one.heading]
    told.sort(key=lambda item: not item[1].unit.endswith("/s"))  # rates in front
    columns = {one.heading: (name, UNITS[one.unit]) for name, one in told}
    if frame["unfinished"].any():
        columns = {alarm("unfinished"): ("unfinished", _alarming), **columns}
    rows = (
        (row["policy"], *(shown(row[name], form) for name, form in columns.values()))
        for _, row in frame.iterrows()
    )
    return table(columns, [("", rows)])


def serving_job(frame: pd.DataFrame) -> Printed:
    """Does length prediction help? Gains over fcfs beside the memory pressure, at one rate.

    The rate is the largest that fcfs sustains (the smallest of all if it sustains none, or was not
    run): beyond it a latency says how long the streams are, rather than how good the policy is.
    """
    summary = frames.summarize_serving(frame)
    rate = told_rate(summary)
    chosen, largest = summary[summary["rate"] == rate], frames.saturation(summary)
    largest = largest.set_index(["prediction", "policy"])["rate"]
    made = table(
        ("TTFT", "P99", "E2E", "P99", "gain", "KV", "peak", "preempted", "wasted", "sustains"),
        ((title, (_serving_row(row, largest) for _, row in rows.iterrows()))
         for title, rows in _by(chosen)),
    )  # fmt: skip
    first = frame.iloc[0]
    title = (
        f"{rate:g} requests/s, {first['clock']}, M = {int(first['memory']):,} tokens, "
        f"{frame['lane'].nunique()} streams of {int(first['n']):,} requests"
    )
    return bold(title), made, SERVING_NOTE.format(bound=f"{chosen['rate_bound'].mean():.3g}")


def told_rate(summary: pd.DataFrame) -> float:
    """The rate of `serving_job`, from `summarize`."""
    fcfs = summary[(summary["policy"] == frames.SERVING_YARDSTICK) & summary["sustained"]]
    return float(fcfs["rate"].max() if len(fcfs) else summary["rate"].min())


def _serving_row(row: pd.Series, largest: pd.Series) -> tuple[str, ...]:
    times = ("mean_ttft", "p99_ttft", "mean_e2el", "p99_e2el")
    return (
        name_of(row),
        *(shown(row[name], seconds) for name in times),
        shown(row["gain"], lambda gain: f"{gain:.2f} ±{row['gain_ci']:.2f}"),
        *(shown(row[name], percent) for name in ("kv_mean", "kv_peak")),
        f"{row['preemptions'] / row['n']:.1%}",
        count(row["wasted_tokens"]),
        shown(largest[row["prediction"], row["policy"]], "{:g}/s".format),
    )


def tuning(title: str, methods: pd.DataFrame, tests: pd.DataFrame) -> Printed:
    """One row per method and prediction, and the rule as written, from an `Outcome`'s tables."""
    against = [name for name in tests if name.startswith("ratio_to_")]
    sections = (
        (label, (_tuning_row(row, rows, against) for _, row in methods.iterrows()))
        for label, rows in _by(tests)
    )
    headings = [name.replace("ratio_to_", "/ ").removesuffix(":on_eviction") for name in against]
    return bold(title), table([*headings, "work", "time"], sections), TUNING_NOTE


def _tuning_row(row: pd.Series, tests: pd.DataFrame, against: Iterable[str]) -> tuple[str, ...]:
    own = tests[tests["method"] == row["method"]]
    ratios = (f"{own[name].mean():.4f} ±{half_width(own[name]):.4f}" for name in against)
    cost = () if row.isna()["work"] else (count(row["work"]), f"{row['seconds']:.0f} s")
    return row["label"], *ratios, *cost
