"""The largest rate that memory allows, M / E[memory-time] (arXiv 2605.04595), and simulation.

With b the mean seconds of a round the bound is lambda < M / (b E[memory-time]): in rounds it needs
no b. Streams at rates around it, on both workers: what is left waiting at the end of a long stream
grows with it where the rate is too high. A share of the bound is sustained, which the policy and
the worker decide: what is drawn against it is the rate at which requests complete.

Usage:

    python -m experiments.engine.stability out/engine
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.progress import track

import jaxsched as js
from experiments.engine import common
from experiments.engine.common import SHAREGPT, WORKERS, Source
from jaxsched import bounds, clocks, workloads
from jaxsched.report import looks, plots
from jaxsched.report.tables import markdown

SHARES = (0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.1, 1.2)
"""Rates of arrivals, over the bound."""

REQUESTS = 3000
POLICIES = ("fcfs", "svf:output", "remaining_volume", "a_min:every_round", "a_max")
SOURCES = {
    "ShareGPT": Source("ShareGPT", SHAREGPT),
    "LMSYS": Source("LMSYS", workloads.embedded.lmsys_tokens().truncated(max_total=16_384)),
}


def bound_of(instance: js.Instance, worker: js.Worker) -> float:
    """Requests per round that memory allows: M over the mean memory-time."""
    prompts = instance.prompt - int(worker.blocks)  # a token is in the cache from the next round on
    volume = bounds.volume(prompts, instance.output)
    return float(instance.memory / np.mean(volume))


def study(lanes: int) -> pd.DataFrame:
    """A row for every source, worker, rate, policy and stream."""
    parts = []
    half = workloads.intervals.relative(0.5)
    settings = [(s, w, share) for s in SOURCES for w in WORKERS for share in SHARES]
    for name, label, share in track(settings, "simulating"):
        source, worker = SOURCES[name], WORKERS[label]
        bound = bound_of(source.backlog(REQUESTS, lanes, half), worker)
        instance = source.stream(share * bound, REQUESTS, lanes, half)
        for policy in POLICIES:
            found = served(instance, policy, worker)
            found["throughput"] /= bound
            setting = dict(source=name, worker=label, share=share, policy=policy, bound=bound)
            parts.append(common.rows(found, **setting))
    return pd.concat(parts, ignore_index=True)


def served(instance: js.Instance, policy: str, worker: js.Worker) -> dict[str, Any]:
    """Rate of completions while requests arrive, and who waits or runs at the last arrival.

    Over the second half of the arrivals; rates in requests per round, by lane.
    """
    result = js.simulate(instance, js.policy(policy), worker=worker, engine="native")
    arrival, done = np.asarray(instance.arrival), np.asarray(result.completion)
    middle, last = arrival[:, instance.n // 2, None], arrival[:, -1:]
    during = np.sum((done > middle) & (done <= last), axis=-1)
    return {
        "throughput": during / (last - middle)[:, 0],
        "left": np.mean(done > last, axis=-1),
        "mean": np.mean(done - arrival, axis=-1),
    }


@looks.in_house_style
def draw(frame: pd.DataFrame) -> Figure:
    """Completions over the bound against arrivals over the bound, and who is left."""
    groups = frame.groupby(["source", "worker", "share", "policy"], sort=False)
    table = pd.DataFrame(
        {
            name + end: groups[name].agg(how)
            for name in ("throughput", "left")
            for end, how in (("", "mean"), ("_ci", common.half_width))
        }
    ).reset_index()
    figure = Figure(figsize=(7.6, 4.8), layout="constrained")
    grid = figure.subplots(2, 4, sharex=True, sharey="row")
    for column, (name, worker) in enumerate((s, w) for s in SOURCES for w in WORKERS):
        own = table[(table["source"] == name) & (table["worker"] == worker)]
        plots.draw_policies(grid[0, column], own, "share", "throughput")
        plots.draw_policies(grid[1, column], own, "share", "left")
        grid[0, column].plot([0.3, 1, 1.2], [0.3, 1, 1], ":", color="#333333", zorder=1)
        grid[0, column].set_title(f"{name}, {worker}")
    grid[0, 0].set_ylabel("completions over the bound")
    grid[1, 0].set_ylabel("not complete at the last arrival")
    figure.supxlabel("arrivals over the bound M / E[memory-time]", fontsize=9)
    plots.legend_above(figure, grid[0, 0], 5)
    return figure


def boundaries(lanes: int) -> pd.DataFrame:
    """The bound in requests per round and per second, and what fcfs sustains of it."""
    clock, found = clocks.llama2_70b_2xa100(), []
    for name, source in SOURCES.items():
        for label, worker in WORKERS.items():
            instance = source.backlog(REQUESTS, lanes)
            timed = Source(name, source.lengths, clock=clock)
            result = js.simulate(instance, js.fcfs(), worker=worker, clock=clock, engine="native")
            seconds = np.mean(result.completion_seconds.max(axis=-1) / result.rounds)
            bound = bound_of(instance, worker)
            busy = bounds.busy_seconds_bound(
                instance.prompt, instance.output, instance.memory, clock, worker=worker
            )
            found.append(
                {
                    "lengths": name,
                    "worker": label,
                    "bound per round": bound,
                    "fcfs, of it": common.sustained(source, worker) / bound,
                    "b: seconds a round": seconds,
                    "bound per second": bound / seconds,
                    "busy_seconds_bound": float(np.mean(REQUESTS / busy)),
                    "fcfs per second": common.sustained(timed, worker),
                }
            )
    return pd.DataFrame(found)


def main(folder: Path, lanes: int) -> None:
    """Writes the figure and the rows behind it into a folder, and prints the tables."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = study(lanes)
    frame.to_parquet(folder / "stability.parquet")
    print(plots.save(draw(frame), folder / "engine_stability"))
    print("", markdown(boundaries(lanes), 3), sep="\n")
    highest = frame.groupby(["source", "worker", "policy", "share"], sort=False)["throughput"]
    best = highest.mean().groupby(["source", "worker", "policy"], sort=False).max()
    print("\nMost completions over the bound, at any of the rates\n")
    print(markdown(best.unstack("policy").reset_index(), 2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--lanes", type=int, default=8, help="streams of every kind")
    given = parser.parse_args()
    main(given.folder, given.lanes)
