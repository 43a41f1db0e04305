"""Heat maps of a sweep over two of its axes."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from jaxsched import plots
from jaxsched.studies.axes import YARDSTICK
from jaxsched.sweep.select import Drawing, Sweep

MOST_PANELS = 6
"""Policies drawn; of more, the best."""

MOST_CELLS = 8
"""Cells in each direction; more values are put into as many bins of equal numbers of rows."""

SHORT = {
    "width": "width of predictions", "n": "requests", "memory": "memory", "rate": "load",
    "max_batch": "cap on running requests",
}  # fmt: skip
"""Axes, as titles call them."""


def heat_map(sweep: Sweep, x: str, y: str, value: str) -> Drawing | None:
    """The mean of a column over two axes of numbers, one panel for each policy.

    None if there are no rows for it.
    """
    shown = sweep.slice([x, y])
    rows = shown.rows[np.isfinite(shown.rows[x]) & np.isfinite(shown.rows[y])]
    if value == "ratio_to_h_sf":
        rows = rows[rows["policy"] != YARDSTICK]
    policies = sweep.best(rows, value)[:MOST_PANELS]
    cells = rows[rows["policy"].isin(policies)]
    if cells[value].isna().all():
        return None
    cells = cells.assign(x=_bins(cells[x]), y=_bins(cells[y]))
    means = cells.groupby(["policy", "y", "x"], observed=True)[value].mean().dropna()
    # Differences of a few percent at most should not look like much.
    norm = LogNorm(means.min(), max(means.max(), means.min() * 1.1))
    label = "mean latency / mean latency of H-SF" if value == "ratio_to_h_sf" else "mean latency"
    columns = 2 if len(policies) in (2, 4) else min(3, len(policies))
    height = math.ceil(len(policies) / columns)
    with rc_context({**plots.STYLE, "axes.grid": False}):
        size = max(2.9 * columns, 4.0) + 0.9, 2.3 * height + 0.6
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(height, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, policy in zip(grid, policies, strict=False):
            axes.set_title(plots.look_of(policy).label)
            table = means[policy].unstack("x")
            _cells(axes, table, norm)
            axes.set_xticks(range(table.shape[1]), [_tick(x, v) for v in table.columns])
            axes.set_yticks(range(table.shape[0]), [_tick(y, v) for v in table.index])
        for axes in grid[len(policies) :]:
            axes.set_visible(False)
        _bar(figure, list(grid[: len(policies)]), norm, label)
        figure.supxlabel(sweep.label(x), fontsize=9)
        figure.supylabel(sweep.label(y), fontsize=9)
    return Drawing(
        f"heat_map_{x}_{y}", f"Heat map: {SHORT[x]} and {SHORT[y]}",
        f"Color and numbers: {label}. Held: {shown.held}.", figure,
    )  # fmt: skip


def _bins(values: pd.Series) -> np.ndarray:
    """The values, or the middles of bins where there are many of them."""
    if values.nunique() <= MOST_CELLS:
        return values.to_numpy(np.float64)
    cut = pd.qcut(values, MOST_CELLS, duplicates="drop")
    return values.groupby(cut, observed=True).transform("median").to_numpy(np.float64)


def _cells(axes: Axes, table: pd.DataFrame, norm: LogNorm) -> None:
    """A table of means as colored cells with their values in them."""
    axes.imshow(table, origin="lower", aspect="auto", cmap="viridis_r", norm=norm)
    axes.tick_params(length=0, labelsize=7)
    axes.spines[:].set_visible(False)
    for (i, j), value in np.ndenumerate(table.to_numpy()):
        if not math.isnan(value):
            color = "white" if norm(value) > 0.5 else "black"
            axes.text(j, i, _short(value), ha="center", va="center", color=color, fontsize=6)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 10 else f"{value:.2f}"


def _tick(axis: str, value: float) -> str:
    """A value of an axis; many of them have to fit."""
    if axis == "max_batch" and value == 0:
        return "none"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _bar(figure: Figure, panels: list[Axes], norm: LogNorm, label: str) -> None:
    bar = figure.colorbar(ScalarMappable(norm, "viridis_r"), ax=panels, label=label, shrink=0.9)
    # As many ticks as fit: a scale from 1.0 to 1.3 has none at whole powers of ten.
    near = (1, 1.1, 1.2, 1.4, 1.7, 2, 2.5, 3, 4, 5, 7)
    bar.locator = LogLocator(subs=near if norm.vmax / norm.vmin < 4 else (1, 2, 5))
    bar.minorlocator = NullLocator()
    bar.formatter = FuncFormatter(lambda value, _: f"{value:,g}")
    bar.outline.set_visible(False)
