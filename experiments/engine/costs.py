"""What do blocks, the token budget and the cap on running requests cost on vLLM's worker?

A backlog and a stream of ShareGPT lengths at 0.9 of what `fcfs` sustains; one number of the worker
varies, the others are vLLM's defaults. In seconds.

Usage:

    python -m experiments.engine.costs out/engine
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from rich.progress import track

import jaxsched as js
from experiments.engine import common
from experiments.engine.common import SHAREGPT, VLLM, WORKERS, Source
from jaxsched import clocks, workloads
from jaxsched.report import looks, plots
from jaxsched.report.tables import markdown

NUMBERS = {
    "block": (1, 4, 16, 64, 128, 256),
    "budget": (256, 512, 1024, 2048, 4096, 8192),
    "max_num_seqs": (8, 16, 32, 64, 128, 256),
}
TITLES = {
    "block": "tokens in a block",
    "budget": "token budget of a round",
    "max_num_seqs": "most running requests",
}
FIGURES = {
    "block": "engine_blocks",
    "budget": "engine_budget",
    "max_num_seqs": "engine_seats",
}
POLICIES = ("fcfs", "a_min:every_round", "remaining_volume", "remaining_volume:lower")
MEASURES = {
    "mean": "mean latency (s)",
    "p99": "P99 of latency (s)",
    "ttft": "mean TTFT (s)",
}
LOADS = {"backlog": 0.0, "load 0.9": 0.9}
CHUNKS = {
    "p50_itl": "median gap between tokens (s)",
    "p99_itl": "P99 of gaps between tokens (s)",
    "p99_ttft": "P99 of TTFT (s)",
}
"""What chunks are for: a small budget keeps the gaps of others short, and a prompt waits longer."""


def drawn(lanes: int) -> tuple[Source, dict[str, js.Instance]]:
    """A backlog and a stream at 0.9 of what `fcfs` sustains, `lanes` of each."""
    source = Source("ShareGPT", SHAREGPT, clock=clocks.llama2_70b_2xa100())
    rate, half = common.sustained(source, WORKERS[VLLM]), workloads.intervals.relative(0.5)
    return source, {
        "backlog": source.backlog(600, lanes, half),
        "load 0.9": source.stream(0.9 * rate, 1000, lanes, half),
    }


def chunks(lanes: int) -> pd.DataFrame:
    """Gaps between tokens and TTFT for every budget: a row for each load, policy and stream."""
    (source, instances), parts = drawn(lanes), []
    assert source.clock is not None
    for budget in track(NUMBERS["budget"], "chunks"):
        worker = js.workers.vllm(budget=budget)
        for load, instance in instances.items():
            for name in ("fcfs", "remaining_volume"):
                result = js.simulate(
                    instance, js.policy(name), worker=worker, clock=source.clock, history=True
                )
                found = js.metrics.serving(
                    instance, result, source.clock, worker=worker, names=["itl", "ttft"]
                )
                told = {"p50_itl": found.itl.p50, "p99_itl": found.itl.p99}
                told["p99_ttft"] = found.ttft.p99
                parts.append(common.rows(told, value=budget, load=load, policy=name))
    return pd.concat(parts, ignore_index=True)


@looks.in_house_style
def draw_chunks(table: pd.DataFrame) -> Figure:
    """Gaps and TTFT against the budget, of the backlog and of the stream."""
    figure = Figure(figsize=(8.4, 4.8), layout="constrained")
    grid = figure.subplots(2, 3, sharex=True)
    for row, load in enumerate(LOADS):
        for column, name in enumerate(CHUNKS):
            axes = grid[row, column]
            plots.draw_policies(axes, table[table["load"] == load], "value", name)
            axes.set_xscale("log", base=2)
            axes.set_xticks(NUMBERS["budget"])
            plots.write_ticks(axes.xaxis)
            axes.set_ylim(bottom=0)
            axes.set_title(f"{load}: {CHUNKS[name]}", fontsize=8)
    figure.supxlabel(TITLES["budget"], fontsize=9)
    plots.legend_above(figure, grid[0, 0], 2)
    return figure


def study(lanes: int) -> pd.DataFrame:
    """A row for every number of the worker, load, policy and stream."""
    (source, instances), parts = drawn(lanes), []
    settings = [(name, value) for name, values in NUMBERS.items() for value in values]
    for name, value in track(settings, "simulating"):
        numbers = {"budget": 2048, "max_num_seqs": 256} | {name: value}
        worker = js.workers.vllm(**numbers)
        for load, instance in instances.items():
            for policy in POLICIES:
                found = common.measure(source, instance, js.policy(policy), worker)
                setting = dict(number=name, value=value, load=load, policy=policy)
                parts.append(common.rows(found, **setting))
    return pd.concat(parts, ignore_index=True)


def means(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over streams, with half-widths."""
    groups = frame.groupby(["number", "value", "load", "policy"], sort=False)
    columns = [*MEASURES, "kv", "waste", "preemptions"]
    parts = {name: groups[name].mean() for name in columns}
    parts |= {f"{name}_ci": groups[name].agg(common.half_width) for name in columns}
    return pd.DataFrame(parts).reset_index()


@looks.in_house_style
def draw(table: pd.DataFrame, number: str) -> Figure:
    """Latencies against one number of the worker, of the backlog and of the stream."""
    figure = Figure(figsize=(8.4, 4.8), layout="constrained")
    grid = figure.subplots(2, 3, sharex=True)
    for row, load in enumerate(LOADS):
        own = table[(table["number"] == number) & (table["load"] == load)]
        for column, name in enumerate(MEASURES):
            axes = grid[row, column]
            plots.draw_policies(axes, own, "value", name)
            axes.set_xscale("log", base=2)
            axes.set_xticks(NUMBERS[number])
            plots.write_ticks(axes.xaxis)
            axes.set_ylim(bottom=0)
            axes.set_title(f"{load}: {MEASURES[name]}", fontsize=8)
    figure.supxlabel(TITLES[number], fontsize=9)
    plots.legend_above(figure, grid[0, 0], 2)
    return figure


def main(folder: Path, lanes: int, only_chunks: bool = False) -> None:
    """Writes the figures and the rows behind them into a folder, and prints the tables."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = chunks(lanes)
    rows.to_parquet(folder / "chunks.parquet")
    groups = rows.groupby(["load", "policy", "value"], sort=False)[[*CHUNKS]]
    table = groups.mean().join(groups.agg(common.half_width).add_suffix("_ci")).reset_index()
    print(plots.save(draw_chunks(table), folder / "engine_chunks"))
    print("", markdown(table, 3), sep="\n")
    if only_chunks:
        return
    frame = study(lanes)
    frame.to_parquet(folder / "costs.parquet")
    table = means(frame)
    for number, name in FIGURES.items():
        print(plots.save(draw(table, number), folder / name))
        own = table[(table["number"] == number) & table["policy"].isin(("fcfs", POLICIES[-1]))]
        columns = ["load", "policy", "value", "mean", "mean_ci", "p99", "ttft", "kv", "waste"]
        print("", markdown(own.sort_values(["load", "policy", "value"])[columns], 2), sep="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--lanes", type=int, default=8, help="backlogs and streams")
    parser.add_argument("--chunks", action="store_true", help="only the figure of chunks")
    given = parser.parse_args()
    main(given.folder, given.lanes, given.chunks)
