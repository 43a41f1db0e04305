"""Figures of a sweep, chosen by which axes vary."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from jaxsched import plots
from jaxsched.studies.frames import summarize
from jaxsched.sweep.maps import heat_map
from jaxsched.sweep.pareto import paretos
from jaxsched.sweep.select import LABELS, Drawing, Slice, Sweep, legend, said

MOST_MAPS = 3
"""Heat maps, at most."""


def drawings(sweep: Sweep) -> Iterator[Drawing]:
    """Every figure that a sweep has rows for; of one that is not finished some may be missing."""
    return (drawing for drawing in _candidates(sweep) if drawing is not None)


def _candidates(sweep: Sweep) -> Iterator[Drawing | None]:
    """Every figure that the axes of a sweep have values for."""
    ratio = not sweep.frame["ratio_to_h_sf"].isna().all()
    if ratio and len(sweep.numbers("width")) > 1:
        yield ratio_against_width(sweep)
    if len(sweep.values["n"]) > 1:
        yield latency_against(sweep, "n")
    if len(sweep.numbers("rate")) > 1:
        yield latency_against(sweep, "rate")
    axes = [name for name in LABELS if len(sweep.numbers(name)) > 1]
    for x, y in itertools.islice(itertools.combinations(axes, 2), MOST_MAPS):
        yield heat_map(sweep, x, y, "ratio_to_h_sf" if ratio else "mean_latency")
    yield from paretos(sweep)


def ratio_against_width(sweep: Sweep) -> Drawing | None:
    """Mean latency over that of H-SF against the width of the predicted interval.

    One panel for each of up to four values of the axis with most values.
    """
    others = [name for name in ("memory", "n", "arrivals") if len(sweep.values[name]) > 1]
    panel = max(others, key=lambda name: len(sweep.values[name]), default="memory")
    shown = sweep.slice(["width", panel])
    rows = shown.rows[shown.rows["width"].notna()]
    return _lines(
        sweep, rows, "ratio_against_width", "width", panel, "ratio_to_h_sf",
        "mean latency / mean latency of H-SF", "Latency against the width of predictions",
        f"Mean latency relative to hindsight shortest first. {_band(shown)}",
    )  # fmt: skip


def latency_against(sweep: Sweep, x: str) -> Drawing | None:
    """Mean latency against n or the rate of arrivals, one panel for up to four predictions."""
    shown = sweep.slice([x, "prediction"])
    rows = shown.rows[np.isfinite(shown.rows[x])]
    time = sweep.time(sweep.typical("clock"))
    name, title = ("n", "the number of requests") if x == "n" else ("load", "load")
    return _lines(
        sweep, rows, f"latency_against_{name}", x, "prediction", "mean_latency",
        f"mean latency ({time})", f"Latency against {title}", f"Mean latency. {_band(shown)}",
    )  # fmt: skip


def _band(shown: Slice) -> str:
    return (
        f"Held: {shown.held}. Bands: 95 % confidence intervals of the mean over "
        f"{shown.instances:,} instances."
    )


def _lines(
    sweep: Sweep, rows: pd.DataFrame, name: str, x: str, panel: str, y: str, label: str,
    title: str, caption: str,
) -> Drawing | None:  # fmt: skip
    """Lines of the policies against `x`, in panels; None without two points to join."""
    panels = sweep.some(panel)
    rows = rows[rows[panel].isin(panels) & rows["policy"].isin(sweep.best(rows, y))]
    if rows[x].nunique() < 2:
        return None
    table = summarize(rows, [panel, "policy", x])
    columns = 2 if len(panels) == 4 else len(panels)
    height = math.ceil(len(panels) / columns)
    with rc_context(plots.STYLE):
        size = max(2.9 * columns, 5.0), 2.5 * height + 0.9
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(height, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, value in zip(grid, panels, strict=True):
            axes.set_title(said(panel, value), loc="left", color="#555555")
            plots.draw_policies(axes, table[table[panel] == value], x, y)
        plots.plain_log_axis(grid[0])
        if x != "width":
            _plain_x(grid[0], sweep.numbers(x))
        figure.supxlabel(sweep.label(x), fontsize=9)
        figure.supylabel(label, fontsize=9)
        legend(figure, grid[0])
    return Drawing(name, title, caption + sweep.left_out(table), figure)


def _plain_x(axes: Axes, values: list[float]) -> None:
    """A logarithmic x axis with plain numbers, if the values span more than a factor of four."""
    if values[-1] / values[0] > 4:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
