"""The shipped rules at home and away: other numbers of requests, other memories, other traces.

Usage:

    python -m experiments.tuned_rules OUT
    python -m experiments.tuned_rules OUT --trace NAME:MEMORY=FILE --trace …
    python -m experiments.tuned_rules OUT --rule lmsys_one=FILE    instead of the shipped rule

Every cell is a mean ratio of mean latencies on the same random instances, backlogs that no tuning
has seen. The formats of traces are recognized; requests that can never fit are left out, and said
so. Writes results.parquet, one row per instance and policy, and the figure.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.progress import track

import jaxsched as js
from jaxsched import bounds, workloads
from jaxsched.report import plots
from jaxsched.report.looks import in_house_style
from jaxsched.report.tables import markdown
from jaxsched.studies import store
from jaxsched.studies.config import LengthsConfig
from jaxsched.studies.frames import half_width
from jaxsched.workloads import Lengths
from jaxsched.workloads.texts import read_prediction

LENGTHS = {"sharegpt": ("sharegpt", None), "lmsys": ("lmsys", 1000)}
"""First part of a rule's name -> embedded lengths, longest output."""

REAL = "lmsys_real"
LABELS = {"sharegpt": "ShareGPT", "lmsys": "LMSYS"}
KINDS = {
    "one": "one interval",
    "classes": "classes of 100",
    "relative": "(1 ± 0.5)o",
    "real": "classes, real errors",
}

PREDICTIONS = {
    "sharegpt_one": "one:1:1500",
    "sharegpt_classes": "classes:100:18",
    "sharegpt_relative": "relative:0.5",
    "lmsys_one": "one:1:1000",
    "lmsys_classes": "classes:100:10",
    "lmsys_relative": "relative:0.5",
    REAL: "real",
}
"""Rule -> prediction that it was tuned on, at n = 1,000 and M = 16,492."""

SIZES = ((1000, 16_492), (250, 16_492), (2000, 16_492), (1000, 8_192), (1000, 32_768))
"""(n, M); the first is home. Requests that never fit into a smaller memory are left out."""

KEY = 20_000
"""Of the random instances; the seeds of tunings are other keys."""

READINGS = ("a_min:on_eviction", "a_min:every_round")
HINDSIGHT = "svf:output"

MARKS = {
    "a_min": ("better reading of $\\mathrm{A_{min}}$", "#0072B2", "s", 6),
    "rule": ("tuned rule (lower bounds only)", "#D55E00", "o", 6),
    HINDSIGHT: ("smallest volume first (hindsight)", "#000000", "o", 10),
    "bound": ("proved lower bound", "#777777", "|", 10),
}
"""Column of the table -> label, color, marker, size."""


@dataclasses.dataclass(frozen=True)
class Case:
    """Instances to try a rule on.

    Attributes:
      where: What the column of the table is called.
      rule: Name of a shipped rule.
      lengths: Where requests come from.
      prediction: An interval specification.
      n: Requests of an instance.
      memory: KV cache in tokens.
    """

    where: str
    rule: str
    lengths: Lengths
    prediction: str
    n: int
    memory: int


def main(argv: list[str] | None = None) -> None:
    """Simulates, prints the tables, draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--trace", action="append", default=[], metavar="NAME:MEMORY=FILE")
    parser.add_argument("--rule", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--lanes", type=int, default=128, metavar="N")
    args = parser.parse_args(argv)
    cases = [*home_and_sizes(), *(case for text in args.trace for case in on_trace(text))]
    files = {name: name for name in PREDICTIONS} | dict(text.split("=", 1) for text in args.rule)
    frame = pd.concat(
        [compare(case, files[case.rule], args.lanes) for case in track(cases, "simulating")]
    )
    store.write_parquet(args.out / "results.parquet", frame, {})
    sizes = frame["where"].isin({where(*size) for size in SIZES})
    for part in (frame[sizes], frame[~sizes]):
        for against in ("a_min", "h_sf") if len(part) else ():
            print(f"\nmean latency / {against}\n\n{markdown(ratios(part, against))}")
    home = frame[frame["where"] == where(*SIZES[0])]
    print(plots.save(figure(home), args.out / "figures" / "tuned_rules"))


def home_and_sizes() -> Iterator[Case]:
    """Each rule on its own lengths and prediction, at every size."""
    for rule, prediction in PREDICTIONS.items():
        source, longest = LENGTHS[rule.partition("_")[0]]
        if rule == REAL:
            source, longest = "lmsys_tokens", None
        for n, memory in SIZES:
            lengths = LengthsConfig(source, longest, memory).law
            yield Case(where(n, memory), rule, lengths, prediction, n, memory)


def where(n: int, memory: int) -> str:
    """The name of a size."""
    return f"n = {n:,}, M = {memory:,}"


def on_trace(text: str) -> Iterator[Case]:
    """Every rule on the requests of a trace, under the kind of prediction it was tuned on.

    Upper bounds go up to the memory, which neither the rules nor A_min read. A trace without
    prompts is one of outputs and predicted classes.
    """
    name, _, path = text.partition("=")
    name, _, memory = name.partition(":")
    trace = workloads.read_trace(path, zero_output="skip")
    if trace.prompt is None:
        # The predictor's classes; prompts as published of the same data set.
        lengths = trace.lengths(workloads.embedded.lmsys().prompt)
        fitting = lengths.truncated(max_total=int(memory))
        yield Case(f"{name}, M = {int(memory):,}", REAL, fitting, "columns", 1000, int(memory))
        return
    fits = trace.prompt.astype(np.int64) + trace.output <= int(memory)
    lengths = trace.select(fits).lengths()
    column = f"{name}, M = {int(memory):,}" + ("" if fits.all() else f", {fits.mean():.2%} fit")
    predictions = {
        "one": f"one:1:{memory}",
        "classes": f"classes:100:{-(-int(memory) // 100)}",
        "relative": "relative:0.5",
    }
    for rule in (name for name in PREDICTIONS if name != REAL):
        kind = rule.partition("_")[2]
        yield Case(column, rule, lengths, predictions[kind], 1000, int(memory))


def compare(case: Case, rule: str, lanes: int) -> pd.DataFrame:
    """Mean latency, in rounds, of a rule and other policies on fresh instances: one row each."""
    source = read_prediction(case.prediction).source
    instance = workloads.make(
        jax.random.key(KEY), lengths=case.lengths, n=case.n, memory=case.memory, lanes=lanes,
        intervals=source and source(case.memory),
    )  # fmt: skip
    chosen = {name: js.policy(name) for name in ("h_sf", HINDSIGHT, *READINGS)}
    frame = {"rule": latency(instance, js.load_policy(rule))} | {
        name: latency(instance, policy) for name, policy in chosen.items()
    }
    bound = bounds.mean_busy_time_bound(instance.prompt, instance.output, instance.memory)
    table = pd.DataFrame(frame | {"bound": bound / case.n})
    # Better in the mean, not instance by instance.
    table["a_min"] = table[min(READINGS, key=lambda name: table[name].mean())]
    table.insert(0, "name", case.rule)
    table.insert(1, "where", case.where)
    return table


def latency(instance: js.Instance, policy: js.Policy) -> np.ndarray:
    """Mean latency of every lane; NaN where the policy does not come to an end."""
    result = js.simulate(instance, policy, max_rounds=2**22)
    ended = np.asarray(result.status) == js.Status.FINISHED
    return np.where(ended, np.asarray(result.mean_latency, float), np.nan)


def ratios(frame: pd.DataFrame, against: str) -> pd.DataFrame:
    """One row per rule and one column per place: mean ratio ± half a 95 % confidence interval."""
    ratio = frame.assign(ratio=frame["rule"] / frame[against])
    cells = ratio.groupby(["name", "where"], sort=False)["ratio"].agg(
        lambda values: f"{values.mean(skipna=False):.3f} ± {half_width(values):.3f}"
    )
    names, places = (list(dict.fromkeys(frame[column])) for column in ("name", "where"))
    table = cells.unstack("where").loc[names, places].fillna("")
    table.insert(0, "rule", [f"`{name}`" for name in names])
    return table


@in_house_style
def figure(home: pd.DataFrame) -> Figure:
    """Ratios to H-SF where the rules were tuned: one line per rule, one mark per policy."""
    names = list(dict.fromkeys(home["name"]))
    ratio = home[list(MARKS)].div(home["h_sf"], axis=0).groupby(home["name"]).mean().loc[names]
    places = range(len(names))
    drawn = Figure(figsize=(6.4, 3.1), layout="constrained")
    axes = drawn.subplots()
    axes.axvline(1, color="#000000", lw=1, zorder=1)
    axes.text(1, -0.75, "H-SF (hindsight)", ha="center", fontsize=7.5)
    axes.hlines(places, ratio["rule"], ratio["a_min"], color="#c8c8c8", lw=2, zorder=2)
    for column, (label, color, marker, size) in MARKS.items():
        hollow = column == HINDSIGHT
        axes.plot(
            ratio[column], places, ls="", marker=marker, color=color, label=label, ms=size,
            mfc="none" if hollow else color, mew=1.2 if hollow else 0.6, zorder=3,
        )  # fmt: skip
    axes.set_yticks(places, [_label(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("mean latency / mean latency of H-SF")
    axes.grid(axis="y", visible=False)
    plots.legend_above(drawn, axes, columns=2)
    return drawn


def _label(rule: str) -> str:
    lengths, _, kind = rule.partition("_")
    return f"{LABELS[lengths]}, {KINDS[kind]}"


if __name__ == "__main__":
    main()
