"""Tables for the terminal, from the tidy tables of `jaxsched.frames`."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from jaxsched import specs
from jaxsched.frames import summarize

WIDTH = 100
"""Columns where the output is no terminal, such as a log file."""


def console() -> Console:
    """Where tables and progress go: standard output, at full width even if it is a file."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=WIDTH)


def job_table(frame: pd.DataFrame) -> Table:
    """Every policy under every prediction at the largest number of requests.

    Policies that take no notice of the prediction stand once, at the top.
    """
    n = frame["n"].max()
    chosen = frame[frame["n"] == n]
    summary = summarize(chosen, ["prediction", "policy"])
    lanes, memory = chosen["lane"].nunique(), int(chosen["memory"].iloc[0])
    table = _table(f"n = {n:,} requests, M = {memory:,} tokens, {lanes} instances", _JOB_COLUMNS)
    spread = summary.groupby("policy")["mean_latency"].agg(["min", "max", "count"])
    fixed = spread.index[(spread["min"] == spread["max"]) & (spread["count"] > 1)]
    alike = summary[summary["policy"].isin(fixed)].drop_duplicates("policy")
    _section(table, "under any prediction", alike, memory)
    for prediction in dict.fromkeys(summary["prediction"]):
        rows = summary[(summary["prediction"] == prediction) & ~summary["policy"].isin(fixed)]
        _section(table, specs.interval(prediction).label, rows, memory)
    table.caption = (
        "means over the instances, ± half a 95 % confidence interval (paired for / h_sf); latency "
        "in rounds; bound: proved lower bound; KV: mean and peak use of M"
    )
    return table


def replay_table(frame: pd.DataFrame) -> Table:
    """One row per policy for a single instance, with percentiles of the latency."""
    row = frame.iloc[0]
    title = f"{int(row['n']):,} requests, M = {int(row['memory']):,} tokens"
    table = _table(title, _REPLAY_COLUMNS)
    for _, row in frame.iterrows():
        memory = row["memory"]
        table.add_row(
            row["policy"],
            *(_rounds(row["mean_latency"]), _ratio(row["ratio_to_h_sf"])),
            _ratio(row["ratio_to_bound"]),
            *(_rounds(row[f"latency_p{q}"]) for q in (50, 90, 99)),
            *(_count(row["evictions"]), _count(row["wasted_tokens"])),
            *(_percent(row["mean_memory"] / memory), _percent(row["peak_memory"] / memory)),
            *(_count(row["rounds"]), _count(row["total_latency"])),
        )
    table.caption = "latency in rounds; bound: proved lower bound; KV: mean and peak use of M"
    return table


_JOB_COLUMNS = ("mean latency", "/ h_sf", "/ bound", "evicted", "wasted", "KV", "peak")
_REPLAY_COLUMNS = (
    *("mean", "/ h_sf", "/ bound", "P50", "P90", "P99"),
    *("evicted", "wasted", "KV", "peak", "rounds", "total"),
)


def _table(title: str, columns: Iterable[str]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.title_style = "bold"
    table.title_justify = table.caption_justify = "left"
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
            f"{_ratio(row['ratio_to_h_sf'])} ±{_ratio(row['ratio_to_h_sf_ci'])}",
            _ratio(row["ratio_to_bound"]),
            *(_count(row["evictions"]), _count(row["wasted_tokens"])),
            *(_percent(row["mean_memory"] / memory), _percent(row["peak_memory"] / memory)),
        )
    table.add_section()


def _rounds(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _ratio(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{value:.0%}"


def _count(value: float) -> str:
    """Whole numbers up to 99,999, then three digits and a unit."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e5, "k")):
        if value >= factor:
            return f"{value / (1e3 if unit == 'k' else factor):.3g} {unit}"
    return f"{value:,.0f}"
