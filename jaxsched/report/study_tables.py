"""What each command prints of its results: a title, tables and a note."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd
from rich.text import Text

from jaxsched.metrics import METRICS, STATISTICS, Metric
from jaxsched.report.formats import (
    UNIT_FORMS,
    NumberForm,
    count,
    percent,
    rounds,
    seconds,
    shown,
    with_half,
)
from jaxsched.report.sweep_view import SweepView
from jaxsched.report.tables import Answer, PrintedTable, TableCell, alarm, table
from jaxsched.studies import frames
from jaxsched.studies.frames import summarize
from jaxsched.studies.serving import ANY
from jaxsched.workloads.texts import read_prediction

BACKLOG_NOTE = (
    "means over the finished instances, ± half a 95 % confidence interval (paired for / h_sf)",
    "latency in rounds; bound: proved lower bound; KV, peak: mean and peak use of M",
)

ROUNDS_NOTE = ("latency in rounds; bound: proved lower bound on the mean latency",)

SERVED_NOTE = (
    "TTFT and E2EL count from arrival; a token that is generated again is not seen again; names "
    "are those of `vllm bench serve`, P50 being its median",
    "KV, peak: mean and peak use of M; wasted: tokens lost to preemptions",
)

SERVING_NOTE = (
    "means over the streams; TTFT and end to end in seconds; gain: mean end to end of fcfs over "
    "the policy's, ± half a paired 95 % confidence interval",
    "KV, peak: use of M; preempted: per request; sustains: largest rate of the job kept up with "
    "(proved: {bound}/s is the most, for long)",
)

TUNING_NOTE = (
    "mean ratios of mean latencies on test instances, ± half a paired 95 % confidence interval",
    "work: requests simulated for candidates; as written: the best by validation, made readable",
)
"""How to read the tables, a remark each."""


def backlog_job(frame: pd.DataFrame) -> Answer:
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
        ("latency", "/ h_sf", "/ bound", "evicted", "wasted", "KV", "peak"),
        ((title, (_backlog_row(row, memory) for _, row in rows.iterrows()))
         for title, rows in sections),
    )  # fmt: skip
    title = f"n = {n:,} requests, M = {memory:,} tokens, {lanes} instances"
    return Answer(title, (made,), BACKLOG_NOTE, summary)


def _by(summary: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The label and the rows of each prediction, in order of appearance."""
    for prediction in dict.fromkeys(summary["prediction"]):
        label = "no prediction" if prediction == ANY else read_prediction(prediction).label
        yield label, summary[summary["prediction"] == prediction]


def _backlog_row(row: pd.Series, memory: int) -> tuple[TableCell, ...]:
    return (
        _name_of(row),
        with_half(row["mean_latency"], row["mean_latency_ci"], rounds),
        with_half(row["ratio_to_h_sf"], row["ratio_to_h_sf_ci"], ".3f"),
        shown(row["ratio_to_bound"], ".3f"),
        *(count(row["evictions"]), count(row["wasted_tokens"])),
        *(shown(row[f"{name}_memory"] / memory, percent) for name in ("mean", "peak")),
    )


def replay(frame: pd.DataFrame) -> Answer:
    """What each policy made of a trace, in rounds or, under a clock, in seconds."""
    first = frame.iloc[0]
    title = f"{int(first['n']):,} requests, M = {int(first['memory']):,} tokens"
    if "clock" not in frame:
        return Answer(title, (_in_rounds(frame),), ROUNDS_NOTE, frame)
    rate = first["offered_rate"]
    offered = "" if math.isnan(rate) else f", {rate:.3g} req/s arrive"
    title = f"{title}, {first['clock']}{offered}"
    return Answer(title, (_latencies(frame), _figures(frame)), SERVED_NOTE, frame)


def _in_rounds(frame: pd.DataFrame) -> PrintedTable:
    """One column per policy, with percentiles of the latency.

    Requests that did not finish are counted in a row of their own, and are in no percentile.
    """
    columns: dict[str, tuple[pd.Series, Any]] = {
        "mean latency": (frame["mean_latency"], rounds),
        "  / h_sf": (frame["ratio_to_h_sf"], ".3f"),
        "  / bound": (frame["ratio_to_bound"], ".3f"),
        **{f"  P{q}": (frame[f"latency_p{q}"], rounds) for q in (50, 90, 99)},
        "total latency": (frame["total_latency"], count),
        "rounds": (frame["rounds"], count),
        "evictions": (frame["evictions"], count),
        "wasted tokens": (frame["wasted_tokens"], count),
        "KV use, mean": (frame["mean_memory"] / frame["memory"], percent),
        "KV use, peak": (frame["peak_memory"] / frame["memory"], percent),
    }
    if frame["unfinished"].any():
        columns = {"unfinished": (frame["unfinished"], _alarming), **columns}
    rows = ((name, *(shown(x, form) for x in xs)) for name, (xs, form) in columns.items())
    return table(frame["policy"], [("", rows)])


def _name_of(row: pd.Series) -> Text:
    """The policy of a row of means, and how many of its simulations did not finish."""
    left = row["unfinished"]
    return Text.assemble(row["policy"], alarm(f" ({count(left)} unfinished)") if left else "")


def _alarming(value: float) -> Text:
    return alarm(count(value))


def _latencies(frame: pd.DataFrame) -> PrintedTable:
    """Mean and percentiles of every distribution, a row per policy."""
    sections = (
        (f"{_short(one)}, {one.unit}", (
            (row["policy"], *(shown(row[f"{which}_{name}"], UNIT_FORMS[one.unit])
                              for which in STATISTICS))
            for _, row in frame.iterrows()
        ))
        for name, one in METRICS.items() if f"mean_{name}" in frame
    )  # fmt: skip
    return table([which.replace("p", "P") for which in STATISTICS], sections)


def _short(metric: Metric) -> str:
    """The abbreviation of a metric, if it has one, or its heading."""
    _, has, short = metric.title.rpartition(", ")
    return short if has else metric.heading


def _figures(frame: pd.DataFrame) -> PrintedTable:
    """Every other metric that the table has, a row per policy."""
    told = [(name, one) for name, one in METRICS.items() if name in frame and one.heading]
    told.sort(key=lambda item: not item[1].unit.endswith("/s"))  # rates in front
    columns = {one.heading: (name, UNIT_FORMS[one.unit]) for name, one in told}
    if frame["unfinished"].any():
        columns = {"unfinished": ("unfinished", _alarming), **columns}
    rows = (
        (row["policy"], *(shown(row[name], form) for name, form in columns.values()))
        for _, row in frame.iterrows()
    )
    return table(columns, [("", rows)])


def serving_job(frame: pd.DataFrame) -> Answer:
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
    bound = f"{chosen['rate_bound'].mean():.3g}"
    note = tuple(line.format(bound=bound) for line in SERVING_NOTE)
    return Answer(title, (made,), note, summary)


def told_rate(summary: pd.DataFrame) -> float:
    """The rate of `serving_job`, from `summarize`."""
    fcfs = summary[(summary["policy"] == frames.SERVING_YARDSTICK) & summary["sustained"]]
    return float(fcfs["rate"].max() if len(fcfs) else summary["rate"].min())


def _serving_row(row: pd.Series, largest: pd.Series) -> tuple[TableCell, ...]:
    times = ("mean_ttft", "p99_ttft", "mean_e2el", "p99_e2el")
    return (
        _name_of(row),
        *(shown(row[name], seconds) for name in times),
        with_half(row["gain"], row["gain_ci"], ".2f"),
        *(shown(row[name], percent) for name in ("kv_mean", "kv_peak")),
        f"{row['preemptions'] / row['n']:.1%}",
        count(row["wasted_tokens"]),
        shown(largest[row["prediction"], row["policy"]], "{:g}/s".format),
    )


def tuning(title: str, methods: pd.DataFrame, tests: pd.DataFrame) -> Answer:
    """One row per method and prediction, and the rule as written, from a `Found`'s tables."""
    against = [name for name in tests if name.startswith("ratio_to_")]
    groups = tests.groupby(["prediction", "method"], sort=False)[against]
    halves = groups.agg(frames.half_width).add_suffix("_ci")
    summary = groups.mean().join(halves).reset_index().merge(methods, "left", "method")
    sections = (
        (label, (_tuning_row(row, against) for _, row in rows.iterrows()))
        for label, rows in _by(summary)
    )
    headings = [name.replace("ratio_to_", "/ ").removesuffix(":on_eviction") for name in against]
    made = table([*headings, "work", "time"], sections)
    return Answer(title, (made,), TUNING_NOTE, summary)


def _tuning_row(row: pd.Series, against: Iterable[str]) -> tuple[str, ...]:
    ratios = (with_half(row[name], row[f"{name}_ci"], ".4f") for name in against)
    cost = () if row.isna()["work"] else (count(row["work"]), f"{row['seconds']:.0f} s")
    return row["label"], *ratios, *cost


_MOST_ROWS = 40
"""Policies in the table of a sweep; of more, the best."""


def sweep_policies(view: SweepView) -> Answer:
    """A row per policy where all other axes are held at typical values."""
    seen = view.slice([])
    summary = summarize(seen.rows, ["policy"])
    best = view.best(seen.rows, "mean_latency", _MOST_ROWS)
    shown_rows = summary.set_index("policy", drop=False).loc[best]
    form = rounds if view.time() == "rounds" else seconds
    made = table(
        (f"mean latency ({view.time()})", "/ h_sf", "/ bound", "evicted", "wasted"),
        [("", (_sweep_row(row, form) for _, row in shown_rows.iterrows()))],
    )
    note = f"{seen.held}; means over {seen.instances:,} instances, ± half a 95 % interval"
    return Answer(f"{len(view.frame):,} simulations", (made,), (note,), summary)


def _sweep_row(row: pd.Series, form: NumberForm) -> tuple[TableCell, ...]:
    return (
        _name_of(row),
        with_half(row["mean_latency"], row["mean_latency_ci"], form),
        with_half(row["ratio_to_h_sf"], row["ratio_to_h_sf_ci"], ".3f"),
        shown(row["ratio_to_bound"], ".3f"),
        shown(row["evictions"], ",.1f"),
        shown(row["wasted"], ".1%"),
    )
