"""Figures of a sweep, chosen by which axes vary."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from jaxsched.report import plots
from jaxsched.report.figures import RATIO
from jaxsched.report.formats import plain
from jaxsched.report.looks import STYLE, in_house_style, look_of
from jaxsched.report.plots import Drawing
from jaxsched.report.sweep_view import Slice, SweepView
from jaxsched.studies.axes import YARDSTICK, Axis
from jaxsched.studies.frames import summarize

MOST_MAPS, MOST_PANELS, MOST_NAMED = 3, 6, 9
"""Heat maps; policies with a panel in one, the best; policies with a dot that is not grey."""

MOST_CELLS = 8
"""Cells in each direction; more values are put into as many bins of equal numbers of rows."""

PANELS = ("memory", "n", "arrivals")
"""Axes that can stand beside the width of predictions, a panel for a value."""

NUMBER = re.compile(r"\d+\.\d{4,}")
"""Numbers with more digits than a legend has room for."""


def drawings(sweep: SweepView) -> Iterator[Drawing]:
    """Every figure that a sweep has rows for; of one that is not finished some may be missing."""
    return (drawing for drawing in _candidates(sweep) if drawing is not None)


def _candidates(sweep: SweepView) -> Iterator[Drawing | None]:
    """Every figure that the axes of a sweep have values for."""
    ratio = not sweep.frame["ratio_to_h_sf"].isna().all()
    if ratio and len(sweep.numbers("prediction")) > 1:
        yield _ratio_against_width(sweep)
    if len(sweep.values["n"]) > 1:
        yield _latency_against(sweep, "n", "n", "the number of requests")
    if len(sweep.numbers("arrivals")) > 1:
        yield _latency_against(sweep, "arrivals", "load", "load")
    for x, y in itertools.islice(itertools.combinations(sweep.varying(), 2), MOST_MAPS):
        yield _heat_map(sweep, x, y, "ratio_to_h_sf" if ratio else "mean_latency")
    if sweep.frame["wasted_tokens"].any():
        label = "share of generated tokens lost to evictions"
        yield _pareto(sweep, "wasted", label, "wasted work")
    if "energy_per_token" in sweep.frame and sweep.frame["energy_per_token"].notna().any():
        rows = sweep.frame[sweep.frame["energy_per_token"].notna()]
        label, clock = "energy per output token (J)", rows["clock"].iloc[0]
        yield _pareto(sweep, "energy_per_token", label, "energy", clock=clock)


def _ratio_against_width(sweep: SweepView) -> Drawing | None:
    """Mean latency over that of H-SF against the width of the predicted interval.

    One panel for each of up to four values of the axis with most values.
    """
    others = [name for name in PANELS if len(sweep.values[name]) > 1]
    panel = max(others, key=lambda name: len(sweep.values[name]), default="memory")
    shown = sweep.slice(["prediction", panel])
    caption = f"Mean latency relative to hindsight shortest first. {_band(shown)}"
    about = "Latency against the width of predictions", caption
    return _lines(sweep, shown, "prediction", panel, ("ratio_to_h_sf", RATIO),
                  "ratio_against_width", about)  # fmt: skip


def _latency_against(sweep: SweepView, column: str, name: str, title: str) -> Drawing | None:
    """Mean latency against an axis of numbers, one panel for up to four predictions."""
    shown = sweep.slice([column, "prediction"])
    y = "mean_latency", f"mean latency ({sweep.time()})"
    about = f"Latency against {title}", f"Mean latency. {_band(shown)}"
    return _lines(sweep, shown, column, "prediction", y, f"latency_against_{name}", about)


def _band(shown: Slice) -> str:
    return (
        f"Held: {shown.held}. Bands: 95 % confidence intervals of the mean over "
        f"{shown.instances:,} instances."
    )


@in_house_style
def _lines(
    sweep: SweepView, shown: Slice, column: str, panel: str, y: tuple[str, str], name: str,
    about: tuple[str, str],
) -> Drawing | None:  # fmt: skip
    """Lines of the policies against an axis, in panels; None without two points to join.

    `y` is a column and its label, `about` the title and the caption.
    """
    x, values = sweep.axes[column].number, sweep.some(panel)
    rows = shown.rows[np.isfinite(shown.rows[x])]
    rows = rows[rows[panel].isin(values) & rows["policy"].isin(sweep.best(rows, y[0]))]
    if rows[x].nunique() < 2:
        return None
    table = summarize(rows, [panel, "policy", x])
    columns = 2 if len(values) == 4 else len(values)
    figure, grid = plots.panels(
        len(values), columns, (2.9, 2.5), (0, 0.9), least=5.0, sharex=True, sharey=True
    )
    for axes, value in zip(grid, values, strict=True):
        plots.subtitle(axes, sweep.axes[panel].said(value))
        plots.draw_policies(axes, table[table[panel] == value], x, y[0])
    plots.plain_log_axis(grid[0])
    if column != "prediction":
        _plain_x(grid[0], sweep.numbers(column))
    plots.name_axes(figure, sweep.label(sweep.axes[column]), y[1])
    _legend(figure, grid[0])
    title, caption = about
    return Drawing(name, figure, title, caption + sweep.left_out(table))


def _plain_x(axes: Axes, values: list[float]) -> None:
    """A logarithmic x axis with plain numbers, if the values span more than a factor of four."""
    if values[-1] / values[0] > 4:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
    plots.write_ticks(axes.xaxis)


def _legend(figure: Figure, axes: Axes) -> None:
    """One legend above all panels, of as many columns as fit; numbers in names are rounded."""
    handles, labels = axes.get_legend_handles_labels()
    for handle, label in zip(handles, labels, strict=True):
        handle.set_label(NUMBER.sub(lambda found: f"{float(found[0]):.3g}", label))
    longest = max(map(len, labels), default=0)
    fit = figure.get_figwidth() / (0.55 + 0.065 * max(18, min(longest, 75)))
    columns = max(1, min(4, int(fit)))
    # Two rows have room; more of them should not take it from the panels.
    more = max(0, math.ceil(len(labels) / columns) - 2)
    figure.set_figheight(figure.get_figheight() + 0.17 * more)
    plots.legend_above(figure, axes, columns)


@rc_context({**STYLE, "axes.grid": False})
def _heat_map(sweep: SweepView, x: Axis, y: Axis, value: str) -> Drawing | None:
    """The mean of a column over two axes of numbers, one panel for each policy.

    None if there are no rows for it.
    """
    shown = sweep.slice([x.column, y.column])
    rows = shown.rows[np.isfinite(shown.rows[x.number]) & np.isfinite(shown.rows[y.number])]
    if value == "ratio_to_h_sf":
        rows = rows[rows["policy"] != YARDSTICK]
    policies = sweep.best(rows, value)[:MOST_PANELS]
    cells = rows[rows["policy"].isin(policies)]
    if cells[value].isna().all():
        return None
    cells = cells.assign(x=_bins(cells[x.number]), y=_bins(cells[y.number]))
    means = cells.groupby(["policy", "y", "x"], observed=True)[value].mean().dropna()
    # Differences of a few percent at most should not look like much.
    low, high = means.min(), max(means.max(), means.min() * 1.1)
    norm = LogNorm(low, high)
    label = RATIO if value == "ratio_to_h_sf" else "mean latency"
    columns = 2 if len(policies) in (2, 4) else 3
    figure, grid = plots.panels(
        len(policies), columns, (2.9, 2.3), (0.9, 0.6), least=4.0, sharex=True, sharey=True
    )
    for axes, policy in zip(grid, policies, strict=True):
        axes.set_title(look_of(policy).label)
        table = means[policy].unstack("x")
        _cells(axes, table, norm)
        axes.set_xticks(range(table.shape[1]), [_tick(x, v) for v in table.columns])
        axes.set_yticks(range(table.shape[0]), [_tick(y, v) for v in table.index])
    _bar(figure, grid, norm, label, narrow=high / low < 4)
    plots.name_axes(figure, sweep.label(x), sweep.label(y))
    return Drawing(
        f"heat_map_{x.number}_{y.number}", figure, f"Heat map: {x.short} and {y.short}",
        f"Color and numbers: {label}. Held: {shown.held}.",
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


def _tick(axis: Axis, value: float) -> str:
    """A value of an axis; many of them have to fit."""
    if value == axis.silent:
        return "none"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _bar(figure: Figure, panels: list[Axes], norm: LogNorm, label: str, narrow: bool) -> None:
    bar = figure.colorbar(ScalarMappable(norm, "viridis_r"), ax=panels, label=label, shrink=0.9)
    # As many ticks as fit: a scale from 1.0 to 1.3 has none at whole powers of ten.
    near = (1, 1.1, 1.2, 1.4, 1.7, 2, 2.5, 3, 4, 5, 7)
    bar.locator = LogLocator(subs=near if narrow else (1, 2, 5))
    bar.minorlocator = NullLocator()
    bar.formatter = FuncFormatter(lambda value, _: plain(value))
    bar.outline.set_visible(False)


@in_house_style
def _pareto(sweep: SweepView, x: str, label: str, what: str, **fixed: str) -> Drawing | None:
    """Mean latency against the mean of `x`, a dot for each policy, panels for predictions.

    None if there are no rows for it.

    The line joins the policies without hindsight that no other one beats in both.
    """
    shown = sweep.slice(["prediction"], **fixed)
    values = sweep.some("prediction", 3)
    means = shown.rows.groupby(["prediction", "policy"], observed=True)[[x, "mean_latency"]].mean()
    means = means.dropna().reset_index()
    if means.empty:
        return None
    named = sweep.best(shown.rows, "mean_latency", MOST_NAMED)
    figure, grid = plots.panels(len(values), 3, (2.7, 3.6), least=5.0, sharex=True, sharey=True)
    for axes, prediction in zip(grid, values, strict=True):
        plots.subtitle(axes, sweep.axes["prediction"].said(prediction))
        _dots(axes, means[means["prediction"] == prediction], x, named)
    plots.plain_log_axis(grid[0])
    if x == "wasted":
        plots.write_ticks(grid[0].xaxis, lambda value: f"{100 * value:g}%")
    else:
        plots.write_ticks(grid[0].xaxis)
    plots.name_axes(figure, label, f"mean latency ({sweep.time(fixed.get('clock'))})")
    _legend(figure, grid[0])
    caption = (
        "Down and to the left is better; the line joins the policies without hindsight that no "
        f"other one beats in both. Held: {shown.held}. Means over {shown.instances:,} instances."
    )
    return Drawing(f"latency_against_{x}", figure, f"Latency against {what}", caption)


def _dots(axes: Axes, table: pd.DataFrame, x: str, named: list[str]) -> None:
    """A dot for each policy, and the line of those that none beats."""
    others = table[~table["policy"].isin(named)]
    if len(others):
        axes.scatter(others[x], others["mean_latency"], s=8, color="#bbbbbb",
            label=f"{len(others)} others")  # fmt: skip
    for row in table[table["policy"].isin(named)].itertuples():
        look = look_of(row.policy)
        axes.plot(getattr(row, x), row.mean_latency, ls="", marker=look.marker, ms=6,
            color=look.color, label=look.label, mec="white", mew=0.4)  # fmt: skip
    line = front(table[table["policy"] != YARDSTICK], x)
    axes.plot(line[x], line["mean_latency"], color="#999999", lw=0.8, zorder=1)


def front(table: pd.DataFrame, x: str) -> pd.DataFrame:
    """The rows that no other row beats in both `x` and mean latency, by ascending `x`."""
    ordered = table.sort_values([x, "mean_latency"])
    latency = ordered["mean_latency"].to_numpy()
    before = np.minimum.accumulate(np.concatenate([[np.inf], latency[:-1]]))
    return ordered[latency < before]
