"""The figures of docs/relaxation.md."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxsched.report import plots
from jaxsched.report.looks import in_house_style

RULES = (("#0072B2", "s"), ("#56B4E9", "D"), ("#D55E00", "o"))

LOOKS = {
    "relaxation, T = 0.3, clipped": ("#E69F00", "o", "-"),
    "relaxation, T = 1": ("#D55E00", "s", "-"),
    "straight-through, clipped": ("#CC79A7", "v", "-"),
    "guided ES": ("#882255", "X", "-"),
    "ES and relaxation": ("#009E73", "P", "-"),
    "antithetic ES": ("#0072B2", "^", "--"),
    "perturbed (optax)": ("#56B4E9", "D", "--"),
    "score function": ("#737373", "x", "--"),
}
"""Estimator -> color, marker and line; broken lines never differentiate the simulator."""


@in_house_style
def limit(table: pd.DataFrame) -> Figure:
    """Error of the relaxed latency against temperature, a panel for each kind of steps."""
    panels = list(dict.fromkeys(table["steps"]))
    figure = Figure(figsize=(2.6 * len(panels), 2.9), layout="constrained")
    grid = figure.subplots(1, len(panels), sharey=True)
    for axes, steps in zip(grid, panels, strict=True):
        panel = table[table["steps"] == steps]
        for rule, (color, marker) in zip(panel["rule"].unique(), RULES, strict=True):
            line = panel[panel["rule"] == rule]
            axes.plot(
                line["temperature"], 100 * line["error"], color=color, marker=marker, label=rule
            )
        axes.set(xscale="log", yscale="log")
        axes.invert_xaxis()
        axes.minorticks_off()
        axes.set_title(steps)
    figure.supxlabel("temperature, falling", fontsize=9)
    grid[0].set_ylabel("mean error of the mean\nlatency of an instance (%)")
    plots.legend_above(figure, grid[0])
    return figure


AXES = {
    "work": "simulations of an instance (128 requests) for an estimate",
    "seconds": "seconds of a processor for an estimate",
}


@in_house_style
def cosine(table: pd.DataFrame, against: str) -> Figure:
    """Mean cosine with the truth against "work", simulated, or "seconds", of a processor."""
    figure, grid = _panels(table, (8.6, 5.4))
    for axes, panel in grid:
        for name, (color, marker, line) in LOOKS.items():
            curve = panel[panel["estimator"] == name]
            axes.plot(curve[against], curve["cosine"], color=color, marker=marker, ls=line,
                      label=name)  # fmt: skip
        axes.axhline(0, color="#999999", lw=0.8)
        axes.set(xscale="log", ylim=(-1.05, 1.05))
        if against == "work":
            axes.set_xticks(sorted(table["work"].unique()))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    plots.name_axes(figure, AXES[against], "cosine with the gradient of the exact objective")
    plots.legend_above(figure, grid[0][0])
    return figure


SHOWN = ("relaxation, T = 1", "straight-through, clipped", "antithetic ES")


@in_house_style
def coordinates(table: pd.DataFrame) -> Figure:
    """The coordinates of some gradients, each divided by its norm, beside the truth's."""
    figure, grid = _panels(table, (8.6, 5.2))
    for axes, panel in grid:
        some = panel[panel["estimator"] == SHOWN[0]]
        names, norm = list(some["coordinate"]), np.linalg.norm(some["truth"])
        places = np.arange(len(names))
        axes.bar(places, some["truth"] / norm, yerr=3 * some["error"] / norm, color="#d0d0d0",
                 error_kw={"lw": 0.8}, label="exact objective (± 3 errors)")  # fmt: skip
        for i, name in enumerate(SHOWN):
            mean = panel[panel["estimator"] == name]["mean"]
            color, marker, _ = LOOKS[name]
            axes.plot(places + 0.22 * (i - 1), mean / np.linalg.norm(mean), color=color,
                      marker=marker, ls="", ms=4.5, label=name)  # fmt: skip
        axes.axhline(0, color="#999999", lw=0.8)
        axes.set_xticks(places, names, rotation=40, ha="right", rotation_mode="anchor")
        axes.grid(visible=False, axis="x")
        axes.set_ylim(-1.1, 1.1)
    figure.supylabel("coordinate of the gradient over its norm", fontsize=9)
    plots.legend_above(figure, grid[0][0])
    return figure


def _panels(
    table: pd.DataFrame, size: tuple[float, float]
) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """A row for each workload, a column for each point, with its rows of the table."""
    workloads, points = table["workload"].unique(), table["point"].unique()
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(workloads), len(points), sharex=True, sharey=True)
    panels = []
    for axes_of, workload in zip(grid, workloads, strict=True):
        for axes, point in zip(axes_of, points, strict=True):
            axes.set_title(f"{workload}: {point}")
            chosen = (table["workload"] == workload) & (table["point"] == point)
            panels.append((axes, table[chosen]))
    return figure, panels
