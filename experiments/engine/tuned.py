"""The rules tuned for vLLM's worker on requests that no tuning saw, beside what is to be beaten.

Backlogs, and streams of rounds, of ShareGPT lengths; then streams in seconds at 0.7 to 0.95 of what
`fcfs` sustains, on both workers, with traces given as --trace their last quarter as well, against
every shipped policy without hindsight. There a rule is also tuned for the source, worker and
prediction at hand (`jaxsched tune` with the first three quarters of a trace), which is kept in OUT.

Usage:

    python -m experiments.engine.tuned OUT
    python -m experiments.engine.tuned OUT --trace conv.csv --trace code.csv --lengths counts.csv
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from rich.progress import track

import jaxsched as js
from experiments.engine import common
from experiments.engine.common import SHAREGPT, VLLM, WORKERS, Source
from experiments.engine.prediction import PREDICTIONS, smallest_volume
from jaxsched import clocks, toml, workloads
from jaxsched.policies import SHIPPED, Policy
from jaxsched.report.tables import markdown
from jaxsched.studies.trace import TraceConfig
from jaxsched.tuning import search
from jaxsched.tuning.config import TuneConfig
from jaxsched.tuning.problem import SHARES, Problem
from jaxsched.workloads import intervals

NONE = "none"
KNOWN = PREDICTIONS | {
    NONE: intervals.one_for_all(1, common.MEMORY), "hindsight": common.PERFECT,
}  # fmt: skip
BACKLOGS = [
    (NONE, "remaining_volume"), (NONE, "tuned:vllm_sharegpt_one"),
    ("tenth", "remaining_volume:lower"), ("tenth", "tuned:vllm_sharegpt_relative"),
    ("half", "remaining_volume:lower"), ("half", "tuned:vllm_sharegpt_relative"),
    ("classes", "remaining_volume:lower"), ("classes", "tuned:vllm_sharegpt_classes"),
    ("real", "remaining_volume:lower"), ("real", "tuned:vllm_sharegpt_real"),
]  # fmt: skip
GAPS = (13, 12, 11, 9)
"""Rounds between arrivals on average."""

LIVE = [
    (NONE, "lcf"), (NONE, "remaining_volume"), (NONE, "remaining_volume:age=100"),
    (NONE, "tuned:vllm_sharegpt_one_live"),
    *((p, f"tuned:vllm_sharegpt_{kind}_live") for p, kind in (
        ("tenth", "relative"), ("half", "relative"), ("classes", "classes"), ("real", "real"),
    )),
]  # fmt: skip
LOADS = (0.7, 0.8, 0.9, 0.95)
STREAMS = {NONE: ("one", "one:1:16480"), "half": ("relative", "relative:0.5")}
"""Prediction -> name of its rules, text for tuning."""

CONFIG = Path(__file__).parents[2] / "configs" / "tune_vllm_live.toml"
CLOCK = "llama2_70b_2xa100"
OBJECTIVE = "mean:2,p99:1"
BEGIN = ("tuned:vllm_sharegpt_one_live", "tuned:vllm_sharegpt_relative_live")
TUNED_AT = (0.8, 0.95)
REQUESTS = 1000
MEASURES = ["mean", "p99"]
SEED = 77
"""Of the instances here; tunings have others."""

UNIT = clocks.Clock(fixed=1.0)
"""A second a round: the rounds of an engine, in which rules for seconds run as they do there."""


def measured(
    source: Source, instance: js.Instance, names: list[tuple[str, Any]], worker: str, **setting: Any
) -> pd.DataFrame:
    """A row for every policy, given as (prediction, name), and stream."""
    parts = []
    for prediction, name in names:
        policy = name if isinstance(name, Policy) else js.policy(name)
        lower, upper = KNOWN[prediction](jax.random.key(SEED), instance.output)
        told = instance.replace(lower=lower, upper=upper, point=lower + (upper - lower) // 2)
        found = common.measure(source, told, policy, WORKERS[worker])
        about = dict(prediction=prediction, policy=policy.name, worker=worker)
        parts.append(common.rows(found, **about, **setting))
    return pd.concat(parts, ignore_index=True)


def table_of(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    """A row for each policy and prediction, a column for each value of `by`: mean ±, then P99."""
    table = common.ratios(frame, [by], MEASURES, "fcfs")
    texts = zip(*(table[name] for name in ("mean", "mean_ci", "p99", "p99_ci")), strict=True)
    table["text"] = [f"{a:.3f} ± {b:.3f}, {c:.3f} ± {d:.3f}" for a, b, c, d in texts]
    rules = ["policy", "prediction"]
    wide = table.pivot_table("text", rules, by, aggfunc="first", sort=False)
    wide.columns = [str(column) for column in wide.columns]
    return wide.reset_index()


def backlogs(sources: list[Source], lanes: int) -> pd.DataFrame:
    """600 requests at once on vLLM's worker, in rounds."""
    names = [(NONE, "fcfs"), *BACKLOGS, ("hindsight", smallest_volume())]
    return pd.concat(
        measured(s, s.backlog(600, lanes, seed=SEED), names, VLLM, lengths=s.name)
        for s in track(sources, "backlogs")
    )


def live(source: Source, lanes: int) -> pd.DataFrame:
    """900 requests that arrive every so many rounds, on vLLM's worker."""
    names = [(NONE, "fcfs"), *LIVE]
    rounds, timed = source, dataclasses.replace(source, clock=UNIT)
    parts = []
    for gap in track(GAPS, f"streams of {source.name}"):
        instance = rounds.stream(1 / gap, 900, lanes, seed=SEED)
        instance = instance.replace(arrival=instance.arrival.astype(float))
        parts.append(measured(timed, instance, names, VLLM, gap=gap))
    return pd.concat(parts)


# ---- every shipped policy without hindsight, on streams in seconds


def rivals(prediction: str) -> list[tuple[str, str]]:
    """Shipped policies without hindsight that may know this prediction.

    Without those that read a point, which in the middle of (1 ± x)o is the truth.
    """
    named = {name: make() for name, make in SHIPPED.items()}
    allowed = {
        name: policy
        for name, policy in named.items()
        if not (policy.hindsight or policy.needs_point or policy.rank or policy.quantum)
    }
    return [
        (prediction if policy.reads_predictions else NONE, name)
        for name, policy in allowed.items()
        if prediction != NONE or not policy.reads_predictions
    ]


def tuned_here(source: Source, worker: str, prediction: str, path: Path | None, out: Path) -> str:
    """A rule for this source, worker and prediction, found as `jaxsched tune` finds one."""
    name = f"{source.name}_{WORKERS[worker].name}_{STREAMS[prediction][0]}"
    rule = out / name / f"{name}.toml"
    if rule.exists():
        return f"tuned:{rule}"
    given = {
        "worker": str(WORKERS[worker]), "clock": CLOCK, "predictions": [STREAMS[prediction][1]],
        "loads": TUNED_AT, "objective": OBJECTIVE, "test_lanes": 8, "descent.steps": 30,
        "begin": BEGIN,
    }  # fmt: skip
    config = toml.load(CONFIG, TuneConfig, given)
    if path is not None:
        trace = TraceConfig(str(path), skip_too_large=True).with_digest()
        config = dataclasses.replace(
            config, trace=trace, lengths=None, arrivals="trace", num_requests=REQUESTS
        )
    problem = Problem(config)
    chosen = search.methods(config, problem, search.space_of(config))
    found = search.run_search(config, problem, chosen, out / name, lambda *_: None)
    return f"tuned:{found.rule}"


def streams(source: Source, path: Path | None, lanes: int, out: Path) -> pd.DataFrame:
    """Loads up to 0.95 on both workers: rules tuned here, the shipped ones and all rivals."""
    parts = []
    settings = list(itertools.product(WORKERS, STREAMS))
    for worker, prediction in track(settings, f"streams of {source.name}"):
        rate = common.sustained(source, WORKERS[worker])
        kind = STREAMS[prediction][0]
        names = [(NONE, "fcfs"), (prediction, f"tuned:vllm_sharegpt_{kind}_live")]
        here = [(prediction, tuned_here(source, worker, prediction, path, out))]
        asked = dict.fromkeys([*names, *here, *rivals(prediction)])
        for load in LOADS:
            instance = source.stream(load * rate, REQUESTS, lanes, seed=SEED)
            found = measured(source, instance, list(asked), worker, load=load, asked=prediction)
            parts.append(found.assign(source=source.name))
    return pd.concat(parts)


def against_rivals(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each source, worker, prediction and rule, tuned for it or shipped.

    At each load its mean and P99 over those of fcfs, and in brackets the least mean of a rival;
    `met` counts the loads where its mean is no larger and its P99 at most 1.1.
    """
    keys = ["source", "worker", "asked"]
    table = common.ratios(frame, [*keys, "load"], MEASURES, "fcfs")
    shipped = table["policy"].str.startswith("tuned:vllm_sharegpt")
    here = table["policy"].str.startswith("tuned:") & ~shipped
    least = table[~(shipped | here)].groupby([*keys, "load"])["mean"].min().rename("least")
    found = []
    for name, mask in (("tuned for it", here), ("shipped", shipped)):
        own = table[mask].join(least, on=[*keys, "load"]).assign(rule=name)
        own["met"] = (own["mean"] <= own["least"]) & (own["p99"] <= 1.1)
        texts = zip(own["mean"], own["p99"], own["least"], strict=True)
        own["text"] = [f"{mean:.3f}, {p99:.2f} ({least:.3f})" for mean, p99, least in texts]
        wide = own.pivot_table("text", [*keys, "rule"], "load", aggfunc="first", sort=False)
        wide.columns = [str(load) for load in wide.columns]
        met = own.groupby([*keys, "rule"], sort=False)["met"].sum()
        found.append(wide.assign(met=met.map(f"{{}} of {len(LOADS)}".format)))
    return pd.concat(found).sort_index(level=keys, sort_remaining=False).reset_index()


def main(given: argparse.Namespace) -> None:
    """Writes the rows into a folder, and prints the tables."""
    given.folder.mkdir(parents=True, exist_ok=True)
    sources = [Source("ShareGPT", SHAREGPT)]
    if given.lengths:
        counts = workloads.read_trace(given.lengths)
        law = workloads.lengths.empirical(counts.prompt, counts.output)
        sources.append(Source("ShareGPT, real counts", law))
    frame = backlogs(sources, given.lanes)
    frame.to_parquet(given.folder / "backlogs.parquet")
    print("", markdown(table_of(frame, "lengths")), sep="\n")
    for source in sources:
        frame = live(source, given.lanes)
        frame.to_parquet(given.folder / f"live_{len(source.name)}.parquet")
        print(f"\n{source.name}\n", markdown(table_of(frame, "gap")), sep="\n")
    if given.quick:
        return
    clock = clocks.clock(CLOCK)
    timed: list[tuple[Source, Path | None]] = [(Source("ShareGPT", SHAREGPT, clock=clock), None)]
    timed += [(held_out(path), path) for path in given.trace]
    frame = pd.concat(streams(s, path, given.lanes, given.folder) for s, path in timed)
    frame.to_parquet(given.folder / "streams.parquet")
    print("", markdown(against_rivals(frame)), sep="\n")


def held_out(path: Path) -> Source:
    """The last quarter of a trace's requests, on which nothing is tuned."""
    source = common.from_trace(path, common.MEMORY, clocks.clock(CLOCK))
    trace = source.trace
    assert trace is not None
    last = np.arange(round(sum(SHARES[:2]) * len(trace)), len(trace))
    return dataclasses.replace(source, trace=trace.select(last))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, metavar="OUT", help="where to write")
    parser.add_argument("--lanes", type=int, default=24, help="streams of every kind")
    parser.add_argument("--trace", type=Path, action="append", default=[], help="with arrivals")
    parser.add_argument("--lengths", type=Path, help="a trace whose lengths are drawn as well")
    parser.add_argument("--quick", action="store_true", help="ShareGPT in rounds only")
    main(parser.parse_args())
