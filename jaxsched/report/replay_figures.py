"""Figures of a replayed trace: how long requests took, and what the worker held over time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from jaxsched.metrics import METRICS
from jaxsched.report import plots
from jaxsched.report.formats import percent, plain
from jaxsched.report.looks import in_house_style, look_of
from jaxsched.report.plots import Drawing
from jaxsched.report.sweep_view import MOST_LINES

TIMES = ((1, "s"), (60, "min"), (3600, "h"))
"""Units of long times: seconds, and what they are called."""

LONG = 200
"""How many of a unit are too many for an axis."""

HELD = {
    "kv": "KV cache in use",
    "waiting": "requests waiting",
    "running": "requests running",
    "latency": "mean latency of those\nthat completed",
}
"""Columns of a timeline, and the names of their axes."""


def of_replay(
    rows: pd.DataFrame, distributions: pd.DataFrame, timeline: pd.DataFrame
) -> Iterator[Drawing]:
    """Every figure that there are curves for; `rows` are those of the table of results."""
    mean = "mean_e2el" if "clock" in rows else "mean_latency"
    best = rows.nsmallest(MOST_LINES, mean)["policy"]
    chosen = [policy for policy in rows["policy"] if policy in set(best)]
    left = len(rows) - len(chosen)
    more = f" The best {len(chosen)} of {len(rows)} policies are drawn." if left else ""
    unit = "seconds" if "clock" in rows else "rounds"
    if len(distributions):
        yield _distributions(distributions, chosen, unit, more)
    if len(timeline):
        yield _timeline(timeline, chosen, unit, more)


@in_house_style
def _distributions(table: pd.DataFrame, policies: list[str], unit: str, more: str) -> Drawing:
    names = list(dict.fromkeys(table["metric"]))
    figure, grid = plots.panels(len(names), 2, (3.6, 2.3), (0, 0.7), sharey=True)
    for axes, name in zip(grid, names, strict=True):
        for policy in policies:
            line = table[(table["metric"] == name) & (table["policy"] == policy)]
            _draw(axes, policy, line["value"], line["share"], "steps-post")
        plots.subtitle(axes, METRICS[name].title if name in METRICS else name)
        _spread_axis(axes, table.loc[table["metric"] == name, "value"])
        plots.write_ticks(axes.yaxis, percent)
        axes.set_ylim(0, 1.01)
    plots.name_axes(figure, unit, "requests that took no longer")
    plots.legend_above(figure, grid[0], 3 if len(names) > 1 else 2)
    caption = (
        "The share of requests that took no longer than so long; where a line lies further to the "
        f"left, more requests are served sooner.{more}"
    )
    return Drawing("distributions", figure, "How long requests took", caption)


def _spread_axis(axes: Axes, values: pd.Series) -> None:
    """A logarithmic x axis where the values span more than a factor of ten."""
    positive = values[values > 0]
    if len(positive) and positive.max() > 10 * max(positive.quantile(0.05), 1e-12):
        axes.set_xscale("log")
        axes.set_xlim(left=max(positive.min(), positive.max() / 1e5))
    plots.write_ticks(axes.xaxis)


@in_house_style
def _timeline(table: pd.DataFrame, policies: list[str], unit: str, more: str) -> Drawing:
    longest = table["time"].max()
    factor, short = 1, unit
    if unit == "seconds":
        factor, short = next((x for x in TIMES if longest < LONG * x[0]), TIMES[-1])
    figure, grid = plots.panels(len(HELD), 1, (7.2, 1.45), (0, 0.7), sharex=True)
    for axes, (column, name) in zip(grid, HELD.items(), strict=True):
        for policy in policies:
            line = table[table["policy"] == policy]
            known = line[line[column].notna()]
            _draw(axes, policy, known["time"] / factor, known[column])
        axes.set_ylabel(f"{name} ({unit})" if column == "latency" else name, fontsize=7.5)
        axes.set_ylim(bottom=0)
        plots.write_ticks(axes.yaxis, percent if column == "kv" else plain)
    plots.write_ticks(axes.xaxis)
    grid[-1].set_xlabel(f"time ({short})")
    plots.legend_above(figure, grid[0], 3)
    parts = table.groupby("policy").size().max()
    caption = (
        f"Means over {parts} parts of each policy's time. Latency stands where requests complete."
        f"{more}"
    )
    return Drawing("timeline", figure, "KV cache, queue and latency over time", caption)


def _draw(axes: Axes, policy: str, x: pd.Series, y: pd.Series, style: str = "default") -> None:
    look = look_of(policy)
    axes.plot(
        np.asarray(x), np.asarray(y), color=look.color, ls=look.line, label=look.label, lw=1.2,
        drawstyle=style,
    )  # fmt: skip
