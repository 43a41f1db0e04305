"""The comparisons that papers published of schedulers, run again.

GSA-Spec against A_min (arXiv 2601.22996): a prompt of 79 tokens for all, outputs as in
LMSYS-Chat-1M, as they are or rounded to powers of two, nothing predicted. The case of the same
paper that is bad for A_min. And the orders that know outputs or classes of them: shortest first,
smallest volume first (2606.22327), Sorted-F (2508.06133). docs/schedulers.md has what comes out
beside what the papers say.

Usage:

    python -m experiments.published_comparisons out/published
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import jaxsched as js
from jaxsched.report import plots
from jaxsched.report.looks import in_house_style
from jaxsched.report.tables import markdown
from jaxsched.studies.frames import half_width
from jaxsched.workloads import draws, embedded, intervals

PROMPT, MEMORIES, SIZES = 79, (4096, 8192), (100, 200, 300, 400, 500, 600, 700, 800, 900, 1000)
KINDS = ("raw lengths", "powers of two")
BLIND = ("a_min:on_eviction", "gsa_spec", "gsa_spec:patience=1", "a_min:every_round", "h_sf")
SEEING = ("fcfs", "h_sf", "svf:output", "sorted_f:output", "mc_sf", "svf:point", "sorted_f:point")


def backlogs(kind: str, memory: int, lanes: int) -> js.Instance:
    """Of shape [sizes, lanes]; a smaller one is the beginning of a larger one."""
    n = max(SIZES)
    lengths = embedded.lmsys_tokens()
    output = lengths.draw(draws.lane_keys(jax.random.key(79), lanes), (lanes, n)).output
    output = output if kind == KINDS[0] else powers_of_two(output)
    shape = (len(SIZES), lanes)
    return js.Instance(
        prompt=np.full((*shape, n), PROMPT),
        output=np.broadcast_to(output, (*shape, n)),
        lower=np.ones((*shape, n), np.int32),
        upper=np.full((*shape, n), memory - PROMPT),
        memory=np.full(shape, memory),
        num_requests=np.broadcast_to(np.array(SIZES)[:, None], shape),
    )


def powers_of_two(length: np.ndarray) -> np.ndarray:
    """The nearest power of two, by ratio."""
    return np.exp2(np.rint(np.log2(length))).astype(np.int32)


def gsa_against_a_min(lanes: int) -> pd.DataFrame:
    """Mean latency of every policy, kind of lengths, memory, number of requests, and instance."""
    parts = []
    for kind in KINDS:
        for memory in MEMORIES:
            instance = backlogs(kind, memory, lanes)
            for name in BLIND:
                total = np.asarray(js.simulate(instance, js.policy(name)).total_latency)
                n, lane = np.meshgrid(SIZES, np.arange(lanes), indexing="ij")
                columns = {"n": n, "lane": lane, "mean_latency": total / n}
                flat = {column: values.ravel() for column, values in columns.items()}
                parts.append(
                    pd.DataFrame({"lengths": kind, "memory": memory, "policy": name, **flat})
                )
    return pd.concat(parts, ignore_index=True)


def ratios(frame: pd.DataFrame, to: str, by: list[str]) -> pd.DataFrame:
    """Mean over instances of the ratio to a policy on the same instance, and its 95 % interval."""
    keys = [*by, "lane"]
    base = frame[frame["policy"] == to].set_index(keys)["mean_latency"]
    ratio = frame.join(base.rename("base"), on=keys)
    ratio["ratio"] = ratio["mean_latency"] / ratio["base"]
    table = ratio.groupby([*by, "policy"], sort=False)["ratio"].agg(["mean", half_width])
    return table.set_axis(["ratio", "ratio_ci"], axis=1).reset_index()


@in_house_style
def draw(table: pd.DataFrame) -> Figure:
    """Ratio of mean latencies to A_min against the number of requests."""
    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True, sharey="row")
    for row, kind in zip(grid, KINDS, strict=True):
        for axes, memory in zip(row, MEMORIES, strict=True):
            panel = table[(table["lengths"] == kind) & (table["memory"] == memory)]
            axes.set_title(f"{kind}, M = {memory:,}")
            plots.draw_policies(axes, panel, "n", "ratio")
    plots.name_axes(
        figure,
        "requests in the backlog, n",
        r"mean latency over that of $\mathrm{A_{min}}$, on eviction",
    )
    plots.legend_above(figure, grid[0, 0], 3)
    return figure


def bad_case() -> pd.DataFrame:
    """Total latency of 6 requests of 160 tokens and 194 of 1, prompts of 96, in 256 tokens."""
    long_first = np.repeat([160, 1], [6, 194])
    rng = np.random.default_rng(0)
    orders = {
        "the long ones first": long_first[None],
        "shuffled (mean of 100)": rng.permuted(np.tile(long_first, (100, 1)), axis=1),
        "the long ones last": long_first[None, ::-1],
    }
    rows = {}
    for order, output in orders.items():
        ones = np.ones_like(output)
        instance = js.Instance(
            prompt=96 * ones, output=output, lower=ones, upper=160 * ones, memory=256
        )
        latency = {name: js.simulate(instance, js.policy(name)).total_latency for name in BLIND}
        rows[order] = {name: float(np.mean(value)) for name, value in latency.items()}
    return pd.DataFrame(rows).T.rename_axis("order of the requests").reset_index()


def known_lengths(lanes: int) -> pd.DataFrame:
    """Mean latency over the proved lower bound in backlogs of 1,000 requests, M = 16,492.

    Points are the middles of classes of 100 tokens.
    """
    rows = []
    laws = {
        "ShareGPT": embedded.sharegpt().truncated(max_total=4030),
        "LMSYS, words": embedded.lmsys(),
        "LMSYS, tokens": embedded.lmsys_tokens().truncated(max_total=16_384),
    }
    for law, lengths in laws.items():
        instance = js.workloads.make(
            jax.random.key(0), lengths=lengths, intervals=intervals.classes(width=100, count=41),
            n=1000, memory=16_492, lanes=lanes,
        )  # fmt: skip
        bound = js.mean_busy_time_bound(instance.prompt, instance.output, instance.memory)
        row = {"lengths": law, "bound (rounds)": float(np.mean(bound)) / 1000}
        for name in SEEING:
            total = np.asarray(js.simulate(instance, js.policy(name)).total_latency)
            row[name] = float(np.mean(total / np.asarray(bound)))
        rows.append(row)
    return pd.DataFrame(rows)


def main(folder: Path, lanes: int) -> None:
    """Writes the figure and the rows behind it into a folder, and prints the tables."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = gsa_against_a_min(lanes)
    frame.to_parquet(folder / "gsa_against_a_min.parquet")
    table = ratios(frame, BLIND[0], ["lengths", "memory", "n"])
    print(plots.save(draw(table), folder / "gsa_against_a_min"))
    some = table[table["n"].isin((100, 400, 1000))]
    wide = some.pivot_table("ratio", ["lengths", "memory", "n"], "policy", sort=False)
    print(markdown(wide[list(BLIND)].reset_index(), 2), markdown(bad_case(), 0), sep="\n\n")
    print("", markdown(known_lengths(lanes), 2), sep="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--lanes", type=int, default=20, help="instances of every kind")
    given = parser.parse_args()
    main(given.folder, given.lanes)
