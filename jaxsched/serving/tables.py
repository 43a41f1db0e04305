"""Tables of serving for the terminal, from the tidy tables of `jaxsched.studies.frames`."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd
from rich.table import Table

from jaxsched import tables
from jaxsched.metrics import PERCENTILES
from jaxsched.studies.frames import SERVING_YARDSTICK as YARDSTICK
from jaxsched.studies.frames import saturation, summarize_serving
from jaxsched.studies.serving import ANY
from jaxsched.workloads.texts import read_prediction

TIMES = {
    "ttft": "TTFT, s",
    "tpot": "TPOT, s",
    "itl": "ITL, s",
    "e2el": "end to end, s",
    "queueing": "queueing, s",
}
"""Distributions, and their headings."""

STATISTICS = ("mean", *(f"p{q}" for q in PERCENTILES))

RATES: dict[str, tuple[str, Callable[[float], str]]] = {
    "request_throughput": ("req/s", lambda x: f"{x:.3f}"),
    "output_throughput": ("tok/s", lambda x: f"{x:,.0f}"),
    "goodput": ("good/s", lambda x: f"{x:.3f}"),
    "makespan": ("makespan", lambda x: f"{x:,.0f} s"),
    "preemptions": ("preempted", tables.count),
    "wasted_tokens": ("wasted", tables.count),
    "kv_mean": ("KV", tables.percent),
    "kv_peak": ("peak", tables.percent),
    "energy": ("joules", tables.count),
    "energy_per_token": ("J/tok", lambda x: f"{x:.2f}"),
}
"""Columns of the second table, as far as a table has them."""

NOTE = """\
TTFT and end to end count from arrival; a token that is generated again is not seen again; KV, peak:
mean and peak use of M; wasted: tokens lost to preemptions"""


def replay_table(frame: pd.DataFrame) -> tuple[str, Table, Table, str]:
    """A row per policy: one table of latencies, one of rates, for a single instance."""
    first = frame.iloc[0]
    rate = first["offered_rate"]
    offered = "" if math.isnan(rate) else f", {rate:.3g} req/s arrive"
    title = (
        f"[bold]{int(first['n']):,} requests, M = {int(first['memory']):,} tokens, "
        f"{first['clock']}{offered}[/bold]"
    )
    return title, _latencies(frame), _rates(frame), NOTE


def _latencies(frame: pd.DataFrame) -> Table:
    table = tables.new_table(["mean", *(f"P{q}" for q in PERCENTILES)])
    for name, heading in TIMES.items():
        if f"mean_{name}" not in frame:
            continue
        table.add_row(f"[bold]{heading}[/bold]")
        for _, row in frame.iterrows():
            figures = (seconds(row[f"{statistic}_{name}"]) for statistic in STATISTICS)
            table.add_row(f"  {row['policy']}", *figures)
        table.add_section()
    return table


def _rates(frame: pd.DataFrame) -> Table:
    columns = {name: column for name, column in RATES.items() if name in frame}
    unfinished = frame["unfinished"].any()
    headings = [heading for heading, _ in columns.values()]
    table = tables.new_table([*(["[red]unfinished[/red]"] if unfinished else []), *headings])
    for _, row in frame.iterrows():
        left = [f"[red]{tables.count(row['unfinished'])}[/red]"] if unfinished else []
        cells = (_cell(row[name], text) for name, (_, text) in columns.items())
        table.add_row(row["policy"], *left, *cells)
    return table


def _cell(value: float, text: Callable[[float], str]) -> str:
    return "–" if math.isnan(value) else text(value)


def seconds(value: float) -> str:
    """Three significant digits, and no decimals from 100 on."""
    if math.isnan(value):
        return "–"
    if value >= 100:
        return f"{value:,.0f}"
    if value <= 0:
        return "0"
    return f"{value:.{min(4, max(0, 2 - math.floor(math.log10(value))))}f}"


def job_table(frame: pd.DataFrame) -> tuple[str, Table, str]:
    """Does length prediction help? Gains over fcfs beside the memory pressure, at one rate.

    The rate is the largest that fcfs sustains (the smallest of all if it sustains none, or was not
    run): beyond it a latency says how long the streams are, rather than how good the policy is.
    """
    summary = summarize_serving(frame)
    rate = told_rate(summary)
    chosen, rates = summary[summary["rate"] == rate], saturation(summary)
    sustained = rates.set_index(["prediction", "policy"])["rate"]
    first = frame.iloc[0]
    table = tables.new_table([heading for heading, _ in _JOB.values()] + ["sustains"])
    for prediction in dict.fromkeys(chosen["prediction"]):
        label = "no prediction" if prediction == ANY else read_prediction(prediction).label
        table.add_row(f"[bold]{label}[/bold]")
        for _, row in chosen[chosen["prediction"] == prediction].iterrows():
            left = f" [red]({row['unfinished']} unfinished)[/red]" if row["unfinished"] else ""
            cells = [text(row) for _, text in _JOB.values()]
            last = _cell(sustained[prediction, row["policy"]], lambda x: f"{x:g}/s")
            table.add_row(f"  {row['policy']}{left}", *cells, last)
        table.add_section()
    title = (
        f"[bold]{rate:g} requests/s, {first['clock']}, M = {int(first['memory']):,} tokens, "
        f"{frame['lane'].nunique()} streams of {int(first['n']):,} requests[/bold]"
    )
    bound = chosen["rate_bound"].mean()
    return title, table, _JOB_NOTE.format(bound=f"{bound:.3g}")


def told_rate(summary: pd.DataFrame) -> float:
    """The rate of `job_table`, from `summarize_serving`."""
    fcfs = summary[(summary["policy"] == YARDSTICK) & summary["sustained"]]
    return float(fcfs["rate"].max() if len(fcfs) else summary["rate"].min())


_JOB: dict[str, tuple[str, Callable[[pd.Series], str]]] = {
    "mean_ttft": ("TTFT", lambda row: seconds(row["mean_ttft"])),
    "p99_ttft": ("P99", lambda row: seconds(row["p99_ttft"])),
    "mean_e2el": ("E2E", lambda row: seconds(row["mean_e2el"])),
    "p99_e2el": ("P99", lambda row: seconds(row["p99_e2el"])),
    "gain": ("gain", lambda row: _cell(row["gain"], lambda x: f"{x:.2f} ±{row['gain_ci']:.2f}")),
    "kv_mean": ("KV", lambda row: _cell(row["kv_mean"], tables.percent)),
    "kv_peak": ("peak", lambda row: _cell(row["kv_peak"], tables.percent)),
    "preemptions": ("preempted", lambda row: f"{row['preemptions'] / row['n']:.1%}"),
    "wasted_tokens": ("wasted", lambda row: tables.count(row["wasted_tokens"])),
}

_JOB_NOTE = """\
means over the streams; TTFT and end to end in seconds; gain: mean end to end of fcfs over the
policy's, ± half a paired 95 % confidence interval; KV, peak: use of M; preempted: per request;
sustains: largest rate of the job kept up with (proved: {bound}/s is the most, for long)"""
