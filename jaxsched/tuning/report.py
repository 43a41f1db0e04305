"""What `jaxsched tune` prints and draws."""

from __future__ import annotations

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from rich.table import Table

from jaxsched.plots import STYLE
from jaxsched.studies.frames import half_width
from jaxsched.tables import count, new_table
from jaxsched.tuning.config import TuneConfig
from jaxsched.tuning.rules import lengths_text
from jaxsched.tuning.search import AGAINST, Outcome
from jaxsched.workloads.texts import read_prediction

COLORS = {"descent": "#0072B2", "cma_es": "#D55E00", "random": "#009E73", "grid": "#CC79A7"}
LINES = {"descent": "-", "cma_es": (0, (4, 1)), "random": (0, (1, 1)), "grid": (0, (3, 1, 1, 1))}

NOTE = """\
mean ratios of mean latencies on test instances, ± half a paired 95 % confidence interval
work: requests simulated for candidates; as written: the best by validation, made readable"""


def table(config: TuneConfig, outcome: Outcome) -> tuple[str, Table, str]:
    """One row per method and prediction, and the rule as written."""
    result = new_table(["/ h_sf", "/ a_min", "/ a_min:every_round", "work", "time"])
    for prediction in config.predictions:
        result.add_row(f"[bold]{read_prediction(prediction).label}[/bold]")
        for _, row in outcome.methods.iterrows():
            rows = outcome.tests[
                (outcome.tests["method"] == row["method"])
                & (outcome.tests["prediction"] == prediction)
            ]
            result.add_row(f"  {row['label']}", *_ratios(rows), *_cost(row))
        result.add_section()
    n, memory = config.num_requests, config.memory
    title = (
        f"[bold]{lengths_text(config)}, n = {n:,} requests, M = {memory:,} tokens, "
        f"{config.test_lanes} test instances[/bold]"
    )
    return title, result, NOTE


def _ratios(rows: pd.DataFrame) -> list[str]:
    columns = [rows[f"ratio_to_{name}"] for name in AGAINST]
    return [f"{values.mean():.4f} ±{half_width(values):.4f}" for values in columns]


def _cost(row: pd.Series) -> tuple[str, ...]:
    if pd.isna(row["work"]):
        return ()
    return count(row["work"]), f"{row['seconds']:.0f} s"


def score_against_work(curves: pd.DataFrame, title: str) -> Figure:
    """Validation score of the best candidate so far against the requests simulated.

    Args:
      curves: `Outcome.curves`.
      title: What was tuned.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(5.4, 3.2), layout="constrained")
        axes = figure.subplots()
        draw_curves(axes, curves)
        axes.set_xlabel("requests simulated for candidates")
        axes.set_ylabel("mean latency / that of H-SF")
        axes.set_title(title, loc="left", color="#555555")
        axes.legend()
    return figure


def draw_curves(axes: object, curves: pd.DataFrame) -> None:
    """A line for each method; its first point is that after the starts and a few steps."""
    for (method, label), line in curves.groupby(["method", "label"], sort=False):
        axes.step(
            line["work"], line["best"], where="post", color=COLORS[method], ls=LINES[method],
            label=label,
        )  # fmt: skip
    axes.set_xscale("log")
