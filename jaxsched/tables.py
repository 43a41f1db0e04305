"""Tables for the terminal, from the tidy tables of `jaxsched.studies.frames`."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from jaxsched.studies.frames import summarize
from jaxsched.workloads.texts import read_prediction

WIDTH = 100
"""Columns where the output is no terminal, such as a log file."""


def console() -> Console:
    """Where tables and progress go: standard output, at full width even if it is a file."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=WIDTH)


def job_table(frame: pd.DataFrame) -> tuple[str, Table, str]:
    """Every policy under every prediction at the largest number of requests.

    Policies whose results are the same under every prediction stand once, at the top.
    """
    n = frame["n"].max()
    chosen = frame[frame["n"] == n]
    summary = summarize(chosen, ["prediction", "policy"])
    lanes, memory = chosen["lane"].nunique(), int(chosen["memory"].iloc[0])
    table = new_table(_JOB_COLUMNS)
    spread = summary.groupby("policy")["mean_latency"].agg(["min", "max", "count"])
    fixed = spread.index[(spread["min"] == spread["max"]) & (spread["count"] > 1)]
    alike = summary[summary["policy"].isin(fixed)].drop_duplicates("policy")
    _section(table, "any prediction", alike, memory)
    for prediction in dict.fromkeys(summary["prediction"]):
        rows = summary[(summary["prediction"] == prediction) & ~summary["policy"].isin(fixed)]
        _section(table, read_prediction(prediction).label, rows, memory)
    title = f"[bold]n = {n:,} requests, M = {memory:,} tokens, {lanes} instances[/bold]"
    return title, table, _JOB_NOTE


def replay_table(frame: pd.DataFrame) -> tuple[str, Table, str]:
    """One column per policy for a single instance, with percentiles of the latency.

    Requests that did not finish are counted in a row of their own, and are in no percentile.
    """
    first = frame.iloc[0]
    title = f"[bold]{int(first['n']):,} requests, M = {int(first['memory']):,} tokens[/bold]"
    # A policy's name breaks at its colon, so that six of them fit into 80 columns.
    table = new_table([policy.replace(":", ":\n") for policy in frame["policy"]])
    for name, figures in _replay_figures(frame).items():
        table.add_row(name, *figures)
    return title, table, "latency in rounds; bound: proved lower bound on the mean latency"


def _replay_figures(frame: pd.DataFrame) -> dict[str, Iterable[str]]:
    percentiles = {f"  P{q}": map(_rounds, frame[f"latency_p{q}"]) for q in (50, 90, 99)}
    unfinished = (f"[red]{count(number)}[/red]" for number in frame["unfinished"])
    return {
        **({"[red]unfinished[/red]": unfinished} if frame["unfinished"].any() else {}),
        "mean latency": map(_rounds, frame["mean_latency"]),
        "  / h_sf": map(_ratio, frame["ratio_to_h_sf"]),
        "  / bound": map(_ratio, frame["ratio_to_bound"]),
        **percentiles,
        "total latency": map(count, frame["total_latency"]),
        "rounds": map(count, frame["rounds"]),
        "evictions": map(count, frame["evictions"]),
        "wasted tokens": map(count, frame["wasted_tokens"]),
        "KV use, mean": map(percent, frame["mean_memory"] / frame["memory"]),
        "KV use, peak": map(percent, frame["peak_memory"] / frame["memory"]),
    }


_JOB_NOTE = """\
means over the finished instances, ± half a 95 % confidence interval (paired for / h_sf)
latency in rounds; bound: proved lower bound; KV, peak: mean and peak use of M"""

_JOB_COLUMNS = ("latency", "/ h_sf", "/ bound", "evicted", "wasted", "KV", "peak")


def new_table(columns: Iterable[str]) -> Table:
    """An empty table whose first column names the row; the others stand on the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _section(table: Table, title: str, rows: pd.DataFrame, memory: int) -> None:
    if rows.empty:
        return
    table.add_row(f"[bold]{title}[/bold]")
    for _, row in rows.iterrows():
        unfinished = f" [red]({row['unfinished']} unfinished)[/red]" if row["unfinished"] else ""
        table.add_row(
            f"  {row['policy']}{unfinished}",
            f"{_rounds(row['mean_latency'])} ±{_rounds(row['mean_latency_ci']):>4}",
            f"{_ratio(row['ratio_to_h_sf'])} ±{_ratio(row['ratio_to_h_sf_ci']).lstrip('0')}",
            _ratio(row["ratio_to_bound"]),
            *(count(row["evictions"]), count(row["wasted_tokens"])),
            *(percent(row["mean_memory"] / memory), percent(row["peak_memory"] / memory)),
        )
    table.add_section()


def _rounds(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _ratio(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def percent(value: float) -> str:
    """A share as whole percent."""
    return f"{value:.0%}"


def count(value: float) -> str:
    """Whole numbers up to six digits, then four digits and a unit."""
    for factor, unit in ((1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.4g} {unit}"
    return f"{value:,.0f}"
