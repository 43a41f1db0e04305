"""What latency costs: Pareto plots of a sweep."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from jaxsched import plots
from jaxsched.studies.axes import YARDSTICK
from jaxsched.sweep.select import Drawing, Sweep, legend, said

MOST_NAMED = 9
"""Policies with a look of their own; others are grey dots."""


def paretos(sweep: Sweep) -> Iterator[Drawing | None]:
    """Latency against the share of wasted work, and against energy where it is known."""
    if sweep.frame["wasted_tokens"].any():
        yield pareto(sweep, "wasted", "share of generated tokens lost to evictions", "wasted work")
    if "energy_per_token" in sweep.frame and sweep.frame["energy_per_token"].notna().any():
        rows = sweep.frame[sweep.frame["energy_per_token"].notna()]
        label = "energy per output token (J)"
        yield pareto(sweep, "energy_per_token", label, "energy", clock=rows["clock"].iloc[0])


def pareto(sweep: Sweep, x: str, label: str, what: str, **fixed: str) -> Drawing | None:
    """Mean latency against the mean of `x`, a dot for each policy, panels for predictions.

    None if there are no rows for it.

    The line joins the policies without hindsight that no other one beats in both.
    """
    shown = sweep.slice(["prediction"], **fixed)
    panels = sweep.some("prediction", 3)
    means = shown.rows.groupby(["prediction", "policy"], observed=True)[[x, "mean_latency"]].mean()
    means = means.dropna().reset_index()
    if means.empty:
        return None
    named = sweep.best(shown.rows, "mean_latency", MOST_NAMED)
    with rc_context(plots.STYLE):
        size = max(2.7 * len(panels), 5.0), 3.6
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        for axes, prediction in zip(grid, panels, strict=True):
            axes.set_title(said("prediction", prediction), loc="left", color="#555555")
            table = means[means["prediction"] == prediction]
            others = table[~table["policy"].isin(named)]
            if len(others):
                axes.scatter(others[x], others["mean_latency"], s=8, color="#bbbbbb",
                    label=f"{len(others)} others")  # fmt: skip
            for row in table[table["policy"].isin(named)].itertuples():
                look = plots.look_of(row.policy)
                axes.plot(getattr(row, x), row.mean_latency, ls="", marker=look.marker, ms=6,
                    color=look.color, label=look.label, mec="white", mew=0.4)  # fmt: skip
            line = front(table[table["policy"] != YARDSTICK], x)
            axes.plot(line[x], line["mean_latency"], color="#999999", lw=0.8, zorder=1)
        plots.plain_log_axis(grid[0])
        if x == "wasted":
            grid[0].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
        else:
            grid[0].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        figure.supxlabel(label, fontsize=9)
        clock = fixed.get("clock", sweep.typical("clock"))
        figure.supylabel(f"mean latency ({sweep.time(clock)})", fontsize=9)
        legend(figure, grid[0])
    caption = (
        "Down and to the left is better; the line joins the policies without hindsight that no "
        f"other one beats in both. Held: {shown.held}. Means over {shown.instances:,} instances."
    )
    return Drawing(f"latency_against_{x}", f"Latency against {what}", caption, figure)


def front(table: pd.DataFrame, x: str) -> pd.DataFrame:
    """The rows that no other row beats in both `x` and mean latency, by ascending `x`."""
    ordered = table.sort_values([x, "mean_latency"])
    latency = ordered["mean_latency"].to_numpy()
    before = np.minimum.accumulate(np.concatenate([[np.inf], latency[:-1]]))
    return ordered[latency < before]
