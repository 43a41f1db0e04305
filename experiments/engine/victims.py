"""Whom to preempt? Recomputed work and latency as the KV cache shrinks, for every victim.

The recompute-tax study of vLLM RFC 54644 on its worker: 300 requests at once, 400 to 2,800 blocks
of 16 tokens. What the RFC does not say is chosen so that its two known figures of the work hold:
about 560 tokens a request, and no preemption with 2,800 blocks. ShareGPT's lengths, which differ
more, stand beside them. Admission is in order of arrival for every rule but A_min's, remaining
volume's and the tuned one.

Usage:

    python -m experiments.engine.victims out/engine
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.progress import track

import jaxsched as js
from experiments.engine import common
from experiments.engine.common import SHAREGPT, Source
from jaxsched import clocks, workloads
from jaxsched.report import looks, plots
from jaxsched.report.tables import markdown

BLOCKS = (400, 500, 600, 800, 1000, 1200, 1600, 2000, 2400, 2800)
REQUESTS = 300
SEATS = 80
"""Most that run together: 80 of 560 tokens fill 2,800 blocks."""

WORKLOADS = {
    "even lengths": workloads.lengths.independent((64, 128), (256, 640)),
    "ShareGPT": SHAREGPT,
}
VICTIMS = {
    "fcfs": js.fcfs(),
    "lcf": js.lcf(),
    "random_victim": js.random_victim(),
    "mcf": js.mcf(),
}
OTHERS = {
    "a_min:every_round": js.a_min("every_round"),
    "remaining_volume": js.remaining_volume(),
    "remaining_volume:lower": js.remaining_volume("lower"),
    "tuned:sharegpt_relative": js.policy("tuned:sharegpt_relative"),
}
"""Rules that also choose whom to admit; lower bounds are half of the truth."""

RFC = pd.DataFrame(
    {
        "blocks": [2800, 1600, 800, 400],
        "tax": [0, 0.322, 0.579, 0.788],
        "lcf": [np.nan, 0.41, 0.60, 0.57],
    }
)
"""Of vLLM RFC 54644, offline, 0.5B: its tax under LIFO, and wasted tokens of LCF over LIFO's."""

SHOWN = {
    "tax": "tokens recomputed,\nover those needed once",
    "ttft": "mean time to first token,\nover LIFO's (FCFS)",
    "mean": "mean latency,\nover LIFO's",
    "p99": "P99 of latency,\nover LIFO's",
}


def study(lanes: int) -> pd.DataFrame:
    """A row for every workload, number of blocks, policy and backlog."""
    clock, parts = clocks.llama2_7b_a100(), []
    worker = js.workers.vllm(block=common.BLOCK, max_num_seqs=SEATS)
    settings = [(name, blocks) for name in WORKLOADS for blocks in BLOCKS]
    for name, blocks in track(settings, "simulating"):
        source = Source(name, WORKLOADS[name], memory=blocks * common.BLOCK, clock=clock)
        instance = source.backlog(REQUESTS, lanes, workloads.intervals.relative(0.5))
        for policy, rule in (VICTIMS | OTHERS).items():
            found = common.measure(source, instance, rule, worker)
            setting = dict(workload=name, blocks=blocks, policy=policy, prediction="half")
            parts.append(common.rows(found, **setting))
    frame = pd.concat(parts, ignore_index=True)
    return frame.assign(tax=frame["waste"] / (1 - frame["waste"]))


def taxes(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean of recomputed over needed tokens, with half-widths."""
    groups = frame.groupby(["workload", "blocks", "policy"], sort=False)["tax"]
    table = groups.agg(["mean", common.half_width]).reset_index()
    return table.rename(columns={"mean": "tax", "half_width": "tax_ci"})


@looks.in_house_style
def draw(frame: pd.DataFrame) -> Figure:
    """The share recomputed, and times over those of LIFO, against the number of blocks."""
    times = ["ttft", "mean", "p99"]
    tables = {"tax": taxes(frame)}
    relative = common.ratios(frame, ["workload", "blocks"], times, "fcfs")
    tables |= dict.fromkeys(times, relative)
    figure = Figure(figsize=(7.2, 8.8), layout="constrained")
    grid = figure.subplots(4, 2, sharex=True, sharey="row")
    for column, workload in enumerate(WORKLOADS):
        for row, name in enumerate(SHOWN):
            axes, table = grid[row, column], tables[name]
            plots.draw_policies(axes, table[table["workload"] == workload], "blocks", name)
        grid[0, column].set_title(workload)
        grid[3, column].set_xlabel("blocks of 16 tokens")
        grid[3, column].set_xscale("log")
        grid[3, column].set_xticks([400, 600, 800, 1200, 1600, 2800])
        grid[3, column].minorticks_off()
        plots.write_ticks(grid[3, column].xaxis)
    grid[0, 0].plot(RFC["blocks"], RFC["tax"], "k*", ms=9, ls="", label="LIFO in vLLM (RFC 54644)")
    for row, name in enumerate(SHOWN):
        grid[row, 0].set_ylabel(SHOWN[name])
    plots.legend_above(figure, grid[0, 0], 3)
    return figure


def beside_the_rfc(frame: pd.DataFrame) -> pd.DataFrame:
    """Their figures and ours: the share that LIFO recomputes, and what LCF saves of it."""
    parts = {"RFC: LIFO recomputes": RFC.set_index("blocks")["tax"]}
    parts["RFC: LCF over LIFO"] = RFC.set_index("blocks")["lcf"]
    for workload, own in frame.groupby("workload", sort=False):
        lifo = own[own["policy"] == "fcfs"].groupby("blocks")
        parts[f"{workload}: LIFO recomputes"] = lifo["tax"].mean()
        tokens = own.pivot_table("wasted_tokens", "blocks", "policy")
        for name, short in (("lcf", "LCF"), ("random_victim", "random"), ("mcf", "MCF")):
            parts[f"{workload}: {short} over LIFO"] = tokens[name] / tokens["fcfs"]
    return pd.DataFrame(parts).sort_index(ascending=False).reset_index()


def main(folder: Path, lanes: int) -> None:
    """Writes the figure and the rows behind it into a folder, and prints the tables."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = study(lanes)
    frame.assign(prediction="half").to_parquet(folder / "victims.parquet")
    print(plots.save(draw(frame), folder / "engine_victims"))
    print("", markdown(beside_the_rfc(frame), 2), sep="\n")
    relative = common.ratios(frame, ["workload", "blocks"], ["ttft", "mean", "p99"], "fcfs")
    for name in ("ttft", "mean", "p99"):
        wide = relative.pivot_table(name, ["workload", "policy"], "blocks", sort=False)
        wide.columns = [str(column) for column in wide.columns]
        widest = relative.groupby(["workload", "policy"], sort=False)[f"{name}_ci"].max()
        print("\n" + SHOWN[name].replace("\n", " ") + "\n")
        print(markdown(wide.assign(**{"± at most": widest}).reset_index(), 2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--lanes", type=int, default=8, help="backlogs of every kind")
    given = parser.parse_args()
    main(given.folder, given.lanes)
