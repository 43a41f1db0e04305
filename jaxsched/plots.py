"""Figures of results: functions from a tidy table (see `jaxsched.studies.frames`) to a figure.

Colors are Okabe and Ito's, which color-blind readers can tell apart; every policy also has a
marker and a line style of its own, so that the figures survive a black-and-white printer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from jaxsched.studies import store
from jaxsched.studies.axes import YARDSTICK
from jaxsched.studies.frames import summarize
from jaxsched.workloads.texts import read_prediction


@dataclasses.dataclass(frozen=True)
class Look:
    """How a policy is drawn, and what it is called in a legend."""

    label: str
    color: str
    marker: str
    line: str | tuple[int, tuple[float, ...]] = "-"


DASHES, DOTS, DASH_DOTS = (0, (4, 1)), (0, (1, 1)), (0, (3, 1, 1, 1))


LOOKS = {
    "h_sf": Look("H-SF (hindsight)", "#000000", "o"),
    "a_max": Look(r"$\mathrm{A_{max}}$", "#D55E00", "^"),
    "a_min:on_eviction": Look(r"$\mathrm{A_{min}}$, refined on eviction", "#0072B2", "s"),
    "a_min:every_round": Look(r"$\mathrm{A_{min}}$, refined every round", "#56B4E9", "D", DASHES),
    "mc_sf": Look("MC-SF (midpoint)", "#009E73", "v", DOTS),
    "fcfs": Look("FCFS", "#CC79A7", "P", DASH_DOTS),
    "tuned:lmsys_one": Look("tuned for one interval", "#A50F15", "*"),
    "tuned:lmsys_classes": Look("tuned for classes of 100", "#A50F15", "X", DASHES),
    "tuned:lmsys_relative": Look("tuned for (1 ± 0.5)o", "#A50F15", "h", DOTS),
    "svf:output": Look("SVF (hindsight)", "#E69F00", "p"),
    "svf:point": Look("SVF (midpoint)", "#7B3294", "X", DASHES),
    "svf:lower": Look("SVF (lower bound)", "#E69F00", ">", DASHES),
    "svf:upper": Look("SVF (upper bound)", "#E69F00", "<", DASH_DOTS),
    "sorted_f:output": Look("Sorted-F (hindsight)", "#882255", "*"),
    "sorted_f:point": Look("Sorted-F (midpoint)", "#882255", "X", DOTS),
    "sorted_f:lower": Look("Sorted-F (lower bound)", "#882255", ">", DASHES),
    "sorted_f:upper": Look("Sorted-F (upper bound)", "#882255", "<", DASH_DOTS),
    "gsa_spec": Look("GSA-Spec", "#999933", "h"),
    "gsa_spec:patience=1": Look("GSA, slices enforced", "#999933", "H", DASHES),
}
SPARE_COLORS = ("#737373", "#A6761D", "#B2182B", "#4D9221")
SPARE_MARKERS = ("X", "*", "<", "p")
BOUND = Look("proved lower bound", "#777777", "", ":")

STYLE = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.which": "major",
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "legend.frameon": False,
    # Text stays text in the PDF.
    "pdf.fonttype": 42,
}


def look_of(policy: str) -> Look:
    """The look of a policy; those not drawn in the papers get a spare color."""
    if policy in LOOKS:
        return LOOKS[policy]
    color, marker = divmod(sum(policy.encode()) % 16, 4)
    return Look(policy, SPARE_COLORS[color], SPARE_MARKERS[marker], "--")


def latency_against_n(frame: pd.DataFrame) -> Figure:
    """Mean latency against the number of requests, one panel per prediction.

    The figure of arXiv 2508.14544, with a logarithmic axis of latency, 95 % confidence bands and
    the proved lower bound.
    """
    table = summarize(frame, ["prediction", "policy", "n"])
    predictions = list(dict.fromkeys(table["prediction"]))
    columns = min(4, len(predictions))
    rows = math.ceil(len(predictions) / columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(max(2.35 * columns, 4.5), 2.1 * rows + 0.9), layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, prediction in zip(grid, predictions, strict=False):
            panel = table[table["prediction"] == prediction]
            axes.set_title(read_prediction(prediction).label)
            draw_policies(axes, panel, "n", "mean_latency")
            mean_bound = panel.drop_duplicates("n").sort_values("n")
            axes.plot(
                mean_bound["n"], mean_bound["bound"] / mean_bound["n"], ls=BOUND.line,
                color=BOUND.color, label=BOUND.label, zorder=1,
            )  # fmt: skip
            plain_log_axis(axes)
            axes.xaxis.set_major_formatter(FuncFormatter(_plain))
        for axes in grid[len(predictions) :]:
            axes.set_visible(False)
        figure.supxlabel("requests in the backlog, n", fontsize=9)
        figure.supylabel("mean latency (rounds)", fontsize=9)
        legend_above(figure, grid[0])
    return figure


def why_no_ratio(frame: pd.DataFrame) -> str | None:
    """Why `ratio_against_width` has nothing to draw from the table; None if it has."""
    chosen = frame[(frame["prediction_kind"] == "relative") & (frame["n"] == frame["n"].max())]
    if chosen.empty:
        return 'there is no prediction "relative:x"'
    if chosen["ratio_to_h_sf"].isna().all():
        return f"there is no finished {YARDSTICK} to compare with"
    return None


def ratio_against_width(frame: pd.DataFrame) -> Figure:
    """Mean latency relative to H-SF against the half width x of the intervals (1 ± x)o.

    At the largest number of requests in the table; the band is the paired 95 % confidence interval.

    Raises:
      ValueError: If there is nothing to draw; see `why_no_ratio`.
    """
    if reason := why_no_ratio(frame):
        raise ValueError(f"nothing to draw: {reason}")
    n = frame["n"].max()
    chosen = frame[(frame["prediction_kind"] == "relative") & (frame["n"] == n)]
    table = summarize(chosen, ["prediction_parameter", "policy"])
    with rc_context(STYLE):
        figure = Figure(figsize=(5.4, 3.4), layout="constrained")
        axes = figure.subplots()
        draw_policies(axes, table, "prediction_parameter", "ratio_to_h_sf")
        axes.xaxis.set_major_locator(FixedLocator(sorted(table["prediction_parameter"].unique())))
        plain_log_axis(axes)
        axes.set_xlabel("half width x of the predicted interval (1 ± x)o")
        axes.set_ylabel("mean latency / mean latency of H-SF")
        memory, lanes = int(chosen["memory"].iloc[0]), chosen["lane"].nunique()
        title = f"n = {n:,}, M = {memory:,}, {lanes} instances; the midpoint is the true length"
        axes.set_title(title, loc="left", color="#555555")
        label_ends(axes, table, "prediction_parameter", "ratio_to_h_sf")
    return figure


def draw_policies(axes: Axes, table: pd.DataFrame, x: str, y: str) -> None:
    """A line with a confidence band for each policy of a table from `summarize`."""
    for policy in dict.fromkeys(table["policy"]):
        look = look_of(policy)
        line = table[table["policy"] == policy].sort_values(x)
        # The yardstick lies under the others so that lines which meet it can be seen.
        order = 2 if policy == YARDSTICK else 3
        axes.plot(
            line[x], line[y], color=look.color, marker=look.marker, ls=look.line,
            label=look.label, zorder=order, mec="white", mew=0.4,
        )  # fmt: skip
        low, high = line[y] - line[f"{y}_ci"], line[y] + line[f"{y}_ci"]
        axes.fill_between(line[x], low, high, color=look.color, alpha=0.18, lw=0, zorder=order)


def label_ends(axes: Axes, table: pd.DataFrame, x: str, y: str) -> None:
    """Writes each policy's name at the right end of its line, moved apart where ends meet."""
    last = table[table[x] == table[x].max()].dropna(subset=[y]).sort_values(y)
    low, high = (math.log(limit) for limit in axes.get_ylim())
    gap = (high - low) * 0.062
    heights: list[float] = []
    for value in last[y]:
        wanted = math.log(value)
        heights.append(max(wanted, heights[-1] + gap) if heights else wanted)
    # What was pushed out at the top moves everything down by as much.
    excess = max(0.0, heights[-1] - high) if heights else 0.0
    for policy, height in zip(last["policy"], heights, strict=True):
        look = look_of(policy)
        axes.annotate(
            look.label, (1.0, (height - excess - low) / (high - low)), xycoords="axes fraction",
            xytext=(4, 0), textcoords="offset points", va="center", color=look.color, fontsize=8,
            annotation_clip=False,
        )  # fmt: skip


def plain_log_axis(axes: Axes) -> None:
    """A logarithmic y axis with plain numbers: 1, 2, 5, 10 … rather than powers of ten."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    subs: Sequence[float] = (1, 2, 5) if high / low < 300 else (1,)
    if high / low < 4:
        subs = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 7)
    axes.yaxis.set_major_locator(LogLocator(subs=subs) if high / low > 1.5 else MaxNLocator(5))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))


def _plain(value: float, position: int | None = None) -> str:
    return f"{value:,g}"


def legend_above(figure: Figure, axes: Axes, columns: int = 4) -> None:
    """One legend for all panels, above them, of so many columns at most."""
    handles, labels = axes.get_legend_handles_labels()
    columns = min(columns, len(labels))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, handlelength=2.6)


def write_all(frame: pd.DataFrame, folder: Path) -> list[Path]:
    """Writes every figure that the table has rows for; returns the paths of the PNGs."""
    written = [save(latency_against_n(frame), folder / "latency_against_n")]
    if why_no_ratio(frame) is None:
        written.append(save(ratio_against_width(frame), folder / "ratio_against_width"))
    return written


def save(figure: Figure, stem: Path) -> Path:
    """Writes `stem`.png and `stem`.pdf, each whole or not at all; returns the path of the PNG."""
    for suffix in (".png", ".pdf"):
        # No date, so that the same results give the same file.
        metadata = {"CreationDate": None} if suffix == ".pdf" else None
        store.write_atomically(
            stem.with_suffix(suffix),
            lambda path, suffix=suffix, metadata=metadata: figure.savefig(
                path, format=suffix[1:], dpi=200, metadata=metadata
            ),
        )
    return stem.with_suffix(".png")
