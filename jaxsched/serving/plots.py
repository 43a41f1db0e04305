"""Figures of serving jobs, in the looks of `jaxsched.plots`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from jaxsched import plots
from jaxsched.studies.frames import SERVING_YARDSTICK as YARDSTICK
from jaxsched.studies.frames import summarize_serving
from jaxsched.studies.serving import ANY
from jaxsched.workloads.texts import read_prediction

LATENCIES = {
    "mean_ttft": "mean TTFT (s)",
    "p99_ttft": "P99 TTFT (s)",
    "mean_e2el": "mean end-to-end latency (s)",
    "p99_e2el": "P99 end-to-end latency (s)",
}
"""Columns that figures show, and the names of their axes."""

LINES = ("-", plots.DASHES, plots.DOTS, plots.DASH_DOTS)


def latency_against_rate(
    frame: pd.DataFrame, prediction: str, figures: Sequence[str] = tuple(LATENCIES)
) -> Figure:
    """Latency against the rate of arrivals under one prediction, one panel per figure.

    Hollow markers: the policy does not sustain the rate, so the latency is that of a stream of this
    length and grows with it. The vertical line is the proved bound on what any policy sustains.

    Args:
      frame: The table of a serving job.
      prediction: One of its predictions.
      figures: Columns, keys of `LATENCIES`.
    """
    table = summarize_serving(frame)
    table = table[table["prediction"].isin((prediction, ANY))]
    columns = 2 if len(figures) > 1 else 1
    rows = math.ceil(len(figures) / columns)
    with rc_context(plots.STYLE):
        size = (3.4 * columns, 2.3 * rows + 0.9)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
        for axes, column in zip(grid, figures, strict=False):
            draw_rates(axes, table, column)
            axes.set_title(LATENCIES[column], loc="left")
        for axes in grid[len(figures) :]:
            axes.set_visible(False)
        for axes in grid[: len(figures)][-columns:]:
            axes.set_xlabel("requests that arrive per second")
        figure.supxlabel(_subject(frame, prediction), fontsize=7.5, color="#555555")
        plots.legend_above(figure, grid[0], columns=3)
    return figure


def draw_rates(axes: Axes, table: pd.DataFrame, column: str) -> None:
    """A line with a confidence band for each policy, and the bound on the rate."""
    for policy in dict.fromkeys(table["policy"]):
        line = table[table["policy"] == policy].sort_values("rate")
        _line(axes, line, column, plots.look_of(policy), plots.look_of(policy).line)
    _mark_bound(axes, table)
    # Bands may reach below zero where streams differ much; the lines decide what is shown.
    axes.set_ylim(table[column].min() / 1.3, table[column].max() * 1.3)
    plots.plain_log_axis(axes)
    axes.set_xlim(left=0)


def _line(axes: Axes, line: pd.DataFrame, column: str, look: plots.Look, style: object) -> None:
    x, y, half = line["rate"], line[column], line[f"{column}_ci"]
    axes.plot(x, y, color=look.color, ls=style, zorder=3)
    axes.fill_between(x, y - half, y + half, color=look.color, alpha=0.15, lw=0, zorder=2)
    kept = line["sustained"].to_numpy(bool)
    common = {"ls": "", "marker": look.marker, "color": look.color, "zorder": 4, "mew": 0.9}
    axes.plot(x[kept], y[kept], **common)
    axes.plot(x[~kept], y[~kept], mfc="white", **common)
    # For the legend only: line and marker together.
    axes.plot([], [], color=look.color, ls=style, marker=look.marker, label=look.label)


def _mark_bound(axes: Axes, table: pd.DataFrame) -> None:
    bound, largest = table["rate_bound"].mean(), table["rate"].max()
    left = bound > 0.8 * largest
    axes.axvline(bound, color=plots.BOUND.color, ls=plots.BOUND.line, lw=1.2, zorder=1)
    axes.annotate(
        "no policy\nsustains more", (bound, 0.02), xycoords=("data", "axes fraction"),
        xytext=(-3 if left else 3, 0), textcoords="offset points", fontsize=7, color="#555555",
        va="bottom", ha="right" if left else "left",
    )  # fmt: skip


def _subject(frame: pd.DataFrame, prediction: str) -> str:
    first = frame.iloc[0]
    told = "" if prediction == ANY else f"; prediction: {read_prediction(prediction).label}"
    return (
        f"{first['clock']}, M = {int(first['memory']):,}; {frame['lane'].nunique()} streams of "
        f"{int(first['n']):,} requests{told}"
    )


def gain_from_prediction(frame: pd.DataFrame) -> Figure:
    """What knowing lengths gains over fcfs, and the memory pressure at which it does.

    Mean end-to-end latency of fcfs over the policy's, against the mean KV use under fcfs, at the
    rates that fcfs sustains: a panel per policy that reads predictions, a line per prediction.
    """
    table = summarize_serving(frame)
    fcfs = table[(table["policy"] == YARDSTICK) & table["sustained"]].set_index("rate")["kv_mean"]
    table = table[table["prediction"] != ANY].assign(pressure=table["rate"].map(fcfs))
    table = table.dropna(subset=["pressure"])
    policies = list(dict.fromkeys(table["policy"]))
    columns = min(3, len(policies))
    rows = math.ceil(len(policies) / columns)
    with rc_context(plots.STYLE):
        size = (max(2.2 * columns, 4.5), 2.1 * rows + 0.8)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, policy in zip(grid, policies, strict=False):
            look = plots.look_of(policy)
            axes.set_title(look.label)
            axes.axhline(1.0, color=plots.BOUND.color, ls=plots.BOUND.line, zorder=1)
            _gains(axes, table[table["policy"] == policy], look)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0%}"))
        for axes in grid[len(policies) :]:
            axes.set_visible(False)
        for axes in grid[: len(policies)][-columns:]:
            axes.xaxis.set_tick_params(labelbottom=True)
        figure.supxlabel("KV cache in use under FCFS, mean", fontsize=9)
        figure.supylabel("mean latency of FCFS / policy", fontsize=9)
        plots.legend_above(figure, grid[0])
        for handle in figure.legends[0].legend_handles:
            handle.set(color="#333333", marker="")
    return figure


def _gains(axes: Axes, table: pd.DataFrame, look: plots.Look) -> None:
    for prediction, style in zip(dict.fromkeys(table["prediction"]), LINES * 9, strict=False):
        line = table[table["prediction"] == prediction].sort_values("rate")
        line = line.assign(label=read_prediction(prediction).label)
        x, y, half = line["pressure"], line["gain"], line["gain_ci"]
        axes.plot(x, y, color=look.color, ls=style, marker=look.marker, label=line["label"].iloc[0])
        axes.fill_between(x, y - half, y + half, color=look.color, alpha=0.15, lw=0)


def write_all(frame: pd.DataFrame, folder: Path) -> list[Path]:
    """Writes every figure that the table has rows for; returns the paths of the PNGs."""
    predictions = [text for text in dict.fromkeys(frame["prediction"]) if text != ANY]
    written = []
    for prediction in predictions or [ANY]:
        name = "".join(c if c.isalnum() else "-" for c in prediction)
        figure = latency_against_rate(frame, prediction)
        written.append(plots.save(figure, folder / f"latency_against_rate-{name}"))
    if predictions and (frame["policy"] == YARDSTICK).any():
        figure = gain_from_prediction(frame)
        written.append(plots.save(figure, folder / "gain_from_prediction"))
    return written
