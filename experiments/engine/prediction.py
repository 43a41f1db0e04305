"""Does it help to predict lengths, on the papers' worker and on vLLM's?

Streams from light load to overload and a backlog, on both workers; perfect, half, a tenth, classes
of 100, a real predictor's classes, and no prediction. Loads are shares of what `fcfs` sustains on
the same worker. Writes results.parquet, prints tables and draws the figure.

Usage:

    python -m experiments.engine.prediction out/engine
    python -m experiments.engine.prediction out/azure --trace conv.csv    arrivals of a trace
    python -m experiments.engine.prediction out/first --first-look        the same in rounds
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.progress import track

import jaxsched as js
from experiments.engine import common
from experiments.engine.common import PAPER, SHAREGPT, VLLM, WORKERS, Source
from jaxsched import clocks, workloads
from jaxsched.policies import Policy
from jaxsched.policies.paper import one
from jaxsched.report import looks, plots
from jaxsched.report.tables import markdown
from jaxsched.workloads import intervals

PREDICTIONS = {
    "perfect": common.PERFECT,
    "half": intervals.relative(0.5),
    "tenth": intervals.relative(0.9),
    "classes": intervals.classes(width=100, count=41),
    "real": workloads.embedded.real_predictions(),
}
"""Name -> intervals; the lower bound is what most rules read."""

NOTHING = ("fcfs", "lcf", "remaining_volume", "remaining_volume:age=100")
HINDSIGHT = ("h_sf", "svf:output", "remaining_volume:output")
PREDICTED = (
    "a_max", "a_min:on_eviction", "a_min:every_round", "svf:lower", "remaining_volume:lower",
    "remaining_volume:lower:age=100",
)  # fmt: skip
TUNED = {
    "half": "tuned:sharegpt_relative",
    "tenth": "tuned:sharegpt_relative",
    "classes": "tuned:sharegpt_classes",
    "real": "tuned:sharegpt_classes",
}
LOADS = (0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.3)
BACKLOG = 9.9
"""The load that stands for a backlog in tables."""

REQUESTS = 1200
MEASURES = ["mean", "p99", "longest"]
MEANS = {
    "mean": "mean latency",
    "p99": "P99 of latency",
    "longest": "longest wait for a first token",
}
DRAWN = {
    ("h_sf", "hindsight"): "h_sf",
    ("svf:output", "hindsight"): "svf:output",
    ("a_max", "half"): "a_max",
    ("a_min:every_round", "half"): "a_min:every_round",
    ("lcf", "none"): "lcf",
    ("remaining_volume", "none"): "remaining_volume",
    ("remaining_volume:age=100", "none"): "remaining_volume:age=100",
    ("remaining_volume:lower", "half"): "remaining_volume:lower",
}
"""Lines of the figure: (policy, prediction) -> its look."""


def questions() -> list[tuple[str, str]]:
    """Every policy with every prediction that it may get."""
    asked = [("none", name) for name in NOTHING] + [("hindsight", name) for name in HINDSIGHT]
    for prediction in PREDICTIONS:
        more = [TUNED[prediction]] if prediction in TUNED else []
        asked += [(prediction, name) for name in (*PREDICTED, *more)]
    return asked


def study(source: Source, lanes: int) -> pd.DataFrame:
    """A row for every worker, load, prediction, policy and stream."""
    rates = {name: common.sustained(source, worker) for name, worker in WORKERS.items()}
    for name, rate in rates.items():
        print(f"{source.name}: fcfs sustains {rate:.3f} requests a second on the {name}")
    parts = []
    settings = [(name, load) for name in WORKERS for load in (*LOADS, BACKLOG)]
    for name, load in track(settings, "simulating"):
        for prediction, policy in questions():
            drawn = PREDICTIONS.get(prediction, common.PERFECT)
            if load == BACKLOG:
                instance = source.backlog(600, lanes, drawn)
            else:
                instance = source.stream(load * rates[name], REQUESTS, lanes, drawn)
            found = common.measure(source, instance, js.policy(policy), WORKERS[name])
            setting = dict(worker=name, load=load, prediction=prediction, policy=policy)
            parts.append(common.rows(found, **setting))
    return pd.concat(parts, ignore_index=True)


@looks.in_house_style
def draw(frame: pd.DataFrame, source: Source) -> Figure:
    """Ratios to fcfs against the load, and the memory pressure under them, on both workers."""
    frame = frame[frame["load"] != BACKLOG]
    table = common.ratios(frame, ["worker", "load"], MEASURES, "fcfs")
    figure = Figure(figsize=(7.2, 8.6), layout="constrained")
    grid = figure.subplots(4, 2, sharex=True, sharey="row", height_ratios=(3, 3, 3, 2))
    for column, worker in enumerate(WORKERS):
        own = table[table["worker"] == worker]
        for row, name in enumerate(MEASURES):
            axes = grid[row, column]
            axes.axhline(1, color="#999999", lw=0.8)
            for (policy, prediction), look in DRAWN.items():
                line = own[(own["policy"] == policy) & (own["prediction"] == prediction)]
                plots.draw_policies(axes, line.assign(policy=look), "load", name)
            axes.set_yscale("log")
            axes.set_ylim(0.2, 6)
            axes.set_yticks([0.2, 0.5, 1, 2, 5], minor=False)
            axes.minorticks_off()
            plots.write_ticks(axes.yaxis)
        grid[0, column].set_title(f"{worker}, {source.name}")
        pressure = frame[(frame["worker"] == worker) & (frame["policy"] == "fcfs")]
        means = pressure.groupby("load")[["kv", "preemptions"]].mean()
        for name, line, text in (
            ("kv", "-", "mean use of the KV cache"),
            ("preemptions", "--", "preemptions per request"),
        ):
            grid[3, column].plot(means.index, means[name], line, color="#333333", label=text)
        grid[3, column].set_xlabel("load: rate of arrivals over what fcfs sustains")
    for row, name in enumerate(MEASURES):
        grid[row, 0].set_ylabel(f"{MEANS[name]},\nover fcfs")
    grid[3, 0].set_ylabel("under fcfs")
    grid[3, 0].set_ylim(0, 1.6 * grid[3, 0].get_ylim()[1])  # room for the legend
    grid[3, 0].legend(loc="upper left")
    plots.legend_above(figure, grid[0, 0], 3)
    return figure


def table_of(frame: pd.DataFrame, worker: str) -> pd.DataFrame:
    """A row for each policy and prediction, a column for each load; ratios to fcfs.

    A cell has the mean, the P99 and the longest wait; the last columns are their half-widths.
    """
    table = common.ratios(frame[frame["worker"] == worker], ["load"], MEASURES, "fcfs")
    texts = [table[name].map("{:.2f}".format) for name in MEASURES]
    table["text"] = texts[0].str.cat(texts[1:], sep=", ")
    rules = ["policy", "prediction"]
    wide = table.pivot_table("text", rules, "load", aggfunc="first", sort=False)
    wide = wide.rename(columns={BACKLOG: "backlog"})
    wide.columns = [str(column) for column in wide.columns]
    groups = table.groupby(rules, sort=False)
    widest = {f"± {name} at most": groups[f"{name}_ci"].max() for name in MEASURES}
    return wide.assign(**widest).reset_index()


def from_which_load(frame: pd.DataFrame) -> pd.DataFrame:
    """For each policy and worker, the least load from which on it gains 2 % and more."""
    loads = frame[frame["load"] != BACKLOG]
    table = common.ratios(loads, ["worker", "load"], ["mean"], "fcfs")
    table["gains"] = table["mean"] + table["mean_ci"] < 0.98
    found = []
    for key, part in table.groupby(["policy", "prediction", "worker"], sort=False):
        part = part.sort_values("load", ascending=False)
        always = part["gains"].astype(int).cumprod().astype(bool)
        least = part["load"][always].min()
        found.append((*key, "none" if np.isnan(least) else f"{least:g}"))
    names = ["policy", "prediction", "worker", "load"]
    wide = pd.DataFrame(found, columns=names).pivot(
        index=names[:2], columns="worker", values="load"
    )
    return wide[[PAPER, VLLM]].reset_index()


# ---- the first look: a backlog and four rates, in rounds


def smallest_volume() -> Policy:
    """Smallest volume first in hindsight, the largest preempted first, no look-ahead."""
    return dataclasses.replace(
        js.svf("output"), name="svf, largest leaves", reserve=one, evict_largest=True
    )


LOOK = [
    (js.fcfs(), "none"),
    (js.lcf(), "none"),
    (js.h_sf(), "hindsight"),
    (smallest_volume(), "hindsight"),
    (js.a_min("on_eviction"), "half"),
    (js.a_min("every_round"), "half"),
    (js.remaining_volume("lower"), "half"),
    (js.remaining_volume("lower"), "tenth"),
    (js.remaining_volume(), "none"),
    (js.remaining_volume(age=1000), "none"),
]
GAPS = (13, 12, 11, 9)
"""Rounds between arrivals on average."""


def first_look(source: Source, lanes: int) -> pd.DataFrame:
    """600 requests at once, and 900 that arrive every so many rounds, on both workers."""
    source = dataclasses.replace(source, clock=None, memory=common.MEMORY)
    parts = []
    settings = [(name, gap) for name in WORKERS for gap in (0, *GAPS)]
    for name, gap in track(settings, "simulating"):
        for policy, prediction in LOOK:
            drawn = PREDICTIONS.get(prediction, common.PERFECT)
            if gap:
                instance = source.stream(1 / gap, 900, lanes, drawn)
            else:
                instance = source.backlog(600, lanes, drawn)
            found = common.measure(source, instance, policy, WORKERS[name])
            setting = dict(worker=name, gap=gap, prediction=prediction, policy=policy.name)
            parts.append(common.rows(found, **setting))
    return pd.concat(parts, ignore_index=True)


def look_tables(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean, P99 over those of fcfs on the same worker; of the mean with its half-width."""
    table = common.ratios(frame, ["worker", "gap"], ["mean", "p99"], "fcfs")
    texts = zip(table["mean"], table["mean_ci"], table["p99"], strict=True)
    table["text"] = [f"{mean:.3f} ± {half:.3f}, {p99:.2f}" for mean, half, p99 in texts]
    table["gap"] = table["gap"].replace({0: "at once"}).astype(str)
    wide = table.pivot(index=["worker", "policy", "prediction"], columns="gap", values="text")
    wide = wide[["at once", *map(str, GAPS)]]
    return wide.reset_index()


def main(given: argparse.Namespace) -> None:
    """Writes the rows and the figure into a folder, and prints the tables."""
    given.folder.mkdir(parents=True, exist_ok=True)
    clock = clocks.clock(given.clock)
    source = Source("ShareGPT, Poisson", SHAREGPT, clock=clock)
    if given.lengths:
        trace = workloads.read_trace(given.lengths)
        lengths = workloads.lengths.empirical(trace.prompt, trace.output)
        source = Source(f"{given.lengths.name.split('.')[0]}, Poisson", lengths, clock=clock)
    if given.trace:
        source = common.from_trace(given.trace, given.memory, clock)
    if given.first_look:
        frame = first_look(source, given.lanes)
        frame.to_parquet(given.folder / "first_look.parquet")
        print(markdown(look_tables(frame)))
        return
    frame = study(source, given.lanes)
    frame.to_parquet(given.folder / "prediction.parquet")
    print(plots.save(draw(frame, source), given.folder / given.name))
    pressure = frame[frame["policy"] == "fcfs"].groupby(["worker", "load"], sort=False)
    columns = ["mean", "p99", "longest", "kv", "preemptions", "waste"]
    print("", markdown(pressure[columns].mean().reset_index(), 2), sep="\n")
    for worker in WORKERS:
        print(f"\n{worker}: {', '.join(MEANS.values())}, over those of fcfs\n")
        print(markdown(table_of(frame, worker), 2))
    print("\nLeast load from which on the mean is 2 % below that of fcfs, and stays there\n")
    print(markdown(from_which_load(frame)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--lanes", type=int, default=24, help="streams of every kind")
    parser.add_argument("--trace", type=Path, help="a trace with arrivals, instead of ShareGPT")
    parser.add_argument("--lengths", type=Path, help="a trace whose lengths arrive as Poisson")
    parser.add_argument("--memory", type=int, default=common.MEMORY, help="with --trace: tokens")
    parser.add_argument("--clock", default="llama2_70b_2xa100", help="a preset")
    parser.add_argument("--name", default="engine_prediction", help="of the figure")
    parser.add_argument("--first-look", action="store_true", help="a few rules, in rounds")
    main(parser.parse_args())
