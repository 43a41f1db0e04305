"""Figures of the studies, from their tidy tables: the paper's experiment, serving, tuning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from jaxsched.report import plots
from jaxsched.report.formats import percent
from jaxsched.report.looks import BOUND, FAINT, LINES, Look, in_house_style, look_of
from jaxsched.report.plots import Drawing
from jaxsched.studies.axes import YARDSTICK
from jaxsched.studies.frames import SERVING_YARDSTICK, summarize, summarize_serving
from jaxsched.studies.serving import ANY
from jaxsched.workloads.texts import read_prediction

LATENCIES = {
    "mean_ttft": "mean TTFT (s)",
    "p99_ttft": "P99 TTFT (s)",
    "mean_e2el": "mean end-to-end latency (s)",
    "p99_e2el": "P99 end-to-end latency (s)",
}
"""Columns of serving that figures show, and the names of their axes."""

RATIO = "mean latency / mean latency of H-SF"


def of_backlog(frame: pd.DataFrame) -> Iterator[Drawing]:
    """Every figure of the table; one that it has no rows for says why it is left out."""
    bands = "Bands: 95 % confidence intervals."
    about = f"A panel for each prediction. {bands}"
    yield Drawing("latency_against_n", latency_against_n(frame), "Latency against n", about)
    title = "Latency against the width of predictions"
    yield _if_any("ratio_against_width", lambda: ratio_against_width(frame), title, bands)


class NothingToDrawError(ValueError):
    """A table has no rows for a figure; the text says which."""


def _if_any(name: str, make: Callable[[], Figure], title: str, about: str) -> Drawing:
    """The drawing, or why it is left out."""
    try:
        return Drawing(name, make(), title, about)
    except NothingToDrawError as reason:
        return Drawing(name, None, title, str(reason))


@in_house_style
def latency_against_n(frame: pd.DataFrame) -> Figure:
    """Mean latency against the number of requests, one panel per prediction.

    The figure of arXiv 2508.14544, with a logarithmic axis of latency, 95 % confidence bands and
    the proved lower bound.
    """
    table = summarize(frame, ["prediction", "policy", "n"])
    predictions = list(dict.fromkeys(table["prediction"]))
    figure, grid = plots.panels(
        len(predictions), 4, (2.35, 2.1), (0, 0.9), least=4.5, sharex=True, sharey=True
    )
    for axes, prediction in zip(grid, predictions, strict=True):
        panel = table[table["prediction"] == prediction]
        axes.set_title(read_prediction(prediction).label)
        plots.draw_policies(axes, panel, "n", "mean_latency")
        bound = panel.drop_duplicates("n").sort_values("n")
        axes.plot(
            bound["n"], bound["bound"] / bound["n"], ls=BOUND.line, color=BOUND.color,
            label=BOUND.label, zorder=1,
        )  # fmt: skip
        plots.plain_log_axis(axes)
        plots.write_ticks(axes.xaxis)
    plots.name_axes(figure, "requests in the backlog, n", "mean latency (rounds)")
    plots.legend_above(figure, grid[0])
    return figure


@in_house_style
def ratio_against_width(frame: pd.DataFrame) -> Figure:
    """Mean latency relative to H-SF against the half width x of the intervals (1 ± x)o.

    At the largest number of requests in the table; the band is the paired 95 % confidence interval.

    Raises:
      NothingToDrawError: If there is nothing to draw.
    """
    n = frame["n"].max()
    chosen = frame[(frame["prediction_kind"] == "relative") & (frame["n"] == n)]
    if chosen.empty:
        raise NothingToDrawError('there is no prediction "relative:x"')
    if chosen["ratio_to_h_sf"].isna().all():
        raise NothingToDrawError(f"there is no finished {YARDSTICK} to compare with")
    table = summarize(chosen, ["prediction_parameter", "policy"])
    figure, (axes,) = plots.panels(1, 1, (5.4, 3.4))
    plots.draw_policies(axes, table, "prediction_parameter", "ratio_to_h_sf")
    axes.xaxis.set_major_locator(FixedLocator(sorted(table["prediction_parameter"].unique())))
    plots.plain_log_axis(axes)
    axes.set_xlabel("half width x of the predicted interval (1 ± x)o")
    axes.set_ylabel(RATIO)
    memory, lanes = int(chosen["memory"].iloc[0]), chosen["lane"].nunique()
    title = f"n = {n:,}, M = {memory:,}, {lanes} instances; the midpoint is the true length"
    plots.subtitle(axes, title)
    plots.label_ends(axes, table, "prediction_parameter", "ratio_to_h_sf")
    return figure


def of_serving(frame: pd.DataFrame) -> Iterator[Drawing]:
    """Every figure that the table has rows for; one without a finished line says why."""
    predictions = [text for text in dict.fromkeys(frame["prediction"]) if text != ANY]
    for prediction in predictions or [ANY]:
        name = "".join(c if c.isalnum() else "-" for c in prediction)
        told = "" if prediction == ANY else f": {read_prediction(prediction).label}"
        yield Drawing(
            f"latency_against_rate-{name}", latency_against_rate(frame, prediction),
            f"Latency against the rate of arrivals{told}",
            "Hollow: more than the policy sustains. Bands: 95 % confidence intervals.",
        )  # fmt: skip
    if predictions and (frame["policy"] == SERVING_YARDSTICK).any():
        about = "At the rates that fcfs sustains. Bands: 95 % confidence intervals."
        name, title = "gain_from_prediction", "What prediction gains"
        yield _if_any(name, lambda: gain_from_prediction(frame), title, about)


@in_house_style
def latency_against_rate(
    frame: pd.DataFrame, prediction: str, figures: Sequence[str] = tuple(LATENCIES)
) -> Figure:
    """Latency against the rate of arrivals under one prediction, one panel per figure.

    Hollow markers: the policy does not sustain the rate, so the latency is that of a stream of this
    length and grows with it. The vertical line is the proved bound on what any policy sustains.

    The columns `figures` are keys of `LATENCIES`.
    """
    table = summarize_serving(frame)
    table = table[table["prediction"].isin((prediction, ANY))]
    figure, grid = plots.panels(len(figures), 2, (3.4, 2.3), (0, 0.9), sharex=True)
    for axes, column in zip(grid, figures, strict=True):
        draw_rates(axes, table, column)
        axes.set_title(LATENCIES[column], loc="left")
    for axes in grid[-2:]:
        axes.set_xlabel("requests that arrive per second")
    figure.supxlabel(_subject(frame, prediction), fontsize=7.5, color=FAINT)
    plots.legend_above(figure, grid[0], columns=3)
    return figure


def draw_rates(axes: Axes, table: pd.DataFrame, column: str) -> None:
    """A line with a confidence band for each policy, and the bound on the rate."""
    for policy in dict.fromkeys(table["policy"]):
        line = table[table["policy"] == policy].sort_values("rate")
        _line(axes, line, column, look_of(policy))
    _mark_bound(axes, table)
    # Bands may reach below zero where streams differ much; the lines decide what is shown.
    axes.set_ylim(table[column].min() / 1.3, table[column].max() * 1.3)
    plots.plain_log_axis(axes)
    axes.set_xlim(left=0)


def _line(axes: Axes, line: pd.DataFrame, column: str, look: Look) -> None:
    x, y = line["rate"], line[column]
    axes.plot(x, y, color=look.color, ls=look.line, zorder=3)
    plots.band(axes, line, "rate", column, color=look.color, alpha=0.15, zorder=2)
    kept = line["sustained"].to_numpy(bool)
    for chosen, fill in ((kept, look.color), (~kept, "white")):
        axes.plot(x[chosen], y[chosen], ls="", marker=look.marker, color=look.color, mfc=fill,
                  mew=0.9, zorder=4)  # fmt: skip
    # For the legend only: line and marker together.
    axes.plot([], [], color=look.color, ls=look.line, marker=look.marker, label=look.label)


def _mark_bound(axes: Axes, table: pd.DataFrame) -> None:
    bound, largest = table["rate_bound"].mean(), table["rate"].max()
    left = bound > 0.8 * largest
    axes.axvline(bound, color=BOUND.color, ls=BOUND.line, lw=1.2, zorder=1)
    axes.annotate(
        "no policy\nsustains more", (bound, 0.02), xycoords=("data", "axes fraction"),
        xytext=(-3 if left else 3, 0), textcoords="offset points", fontsize=7, color=FAINT,
        va="bottom", ha="right" if left else "left",
    )  # fmt: skip


def _subject(frame: pd.DataFrame, prediction: str) -> str:
    first = frame.iloc[0]
    told = "" if prediction == ANY else f"; prediction: {read_prediction(prediction).label}"
    return (
        f"{first['clock']}, M = {int(first['memory']):,}; {frame['lane'].nunique()} streams of "
        f"{int(first['n']):,} requests{told}"
    )


@in_house_style
def gain_from_prediction(frame: pd.DataFrame) -> Figure:
    """What knowing lengths gains over fcfs, and the memory pressure at which it does.

    Mean end-to-end latency of fcfs over the policy's, against the mean KV use under fcfs, at the
    rates that fcfs sustains: a panel per policy that reads predictions, a line per prediction.

    Raises:
      NothingToDrawError: If there is nothing to draw.
    """
    table = summarize_serving(frame)
    kept = table[(table["policy"] == SERVING_YARDSTICK) & table["sustained"]]
    if kept.empty:
        raise NothingToDrawError(f"{SERVING_YARDSTICK} sustains none of the rates")
    fcfs = kept.set_index("rate")["kv_mean"]
    table = table[table["prediction"] != ANY].assign(pressure=table["rate"].map(fcfs))
    table = table.dropna(subset=["pressure"])
    policies = list(dict.fromkeys(table["policy"]))
    figure, grid = plots.panels(
        len(policies), 3, (2.2, 2.1), (0, 0.8), least=4.5, sharex=True, sharey=True
    )
    for axes, policy in zip(grid, policies, strict=True):
        look = look_of(policy)
        axes.set_title(look.label)
        axes.axhline(1.0, color=BOUND.color, ls=BOUND.line, zorder=1)
        _gains(axes, table[table["policy"] == policy], look)
        plots.write_ticks(axes.xaxis, percent)
    for axes in grid[-min(3, len(policies)) :]:
        axes.xaxis.set_tick_params(labelbottom=True)
    plots.name_axes(figure, "KV cache in use under FCFS, mean", "mean latency of FCFS / policy")
    plots.legend_above(figure, grid[0])
    for handle in filter(None, figure.legends[0].legend_handles):
        handle.set(color="#333333", marker="")
    return figure


def _gains(axes: Axes, table: pd.DataFrame, look: Look) -> None:
    for prediction, style in zip(dict.fromkeys(table["prediction"]), LINES * 9, strict=False):
        line = table[table["prediction"] == prediction].sort_values("rate")
        label = read_prediction(prediction).label
        axes.plot(
            line["pressure"], line["gain"], color=look.color, ls=style, marker=look.marker,
            label=label,
        )  # fmt: skip
        plots.band(axes, line, "pressure", "gain", color=look.color, alpha=0.15)


@in_house_style
def score_against_work(curves: pd.DataFrame, title: str, yardstick: str = "h_sf") -> Figure:
    """Validation score of the best candidate so far (`Found.curves`) against the requests."""
    figure, (axes,) = plots.panels(1, 1, (5.4, 3.2))
    draw_curves(axes, curves)
    axes.set_xlabel("requests simulated for candidates")
    if yardstick == "h_sf":
        axes.set_ylabel("mean latency / that of H-SF")
    else:
        axes.set_ylabel(f"score / that of {yardstick}")
    plots.subtitle(axes, title)
    axes.legend()
    return figure


def draw_curves(axes: Axes, curves: pd.DataFrame) -> None:
    """A line for each method; its first point is that after the starts and a few steps."""
    for (method, label), line in curves.groupby(["method", "label"], sort=False):
        look = look_of(method)
        axes.step(
            line["work"], line["best"], where="post", color=look.color, ls=look.line, label=label,
            marker="o" if len(line) == 1 else None,  # a grid is a single point
        )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.grid(visible=True, which="both")  # often there is one power of ten only
