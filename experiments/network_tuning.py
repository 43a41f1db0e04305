"""A network of 360 weights by evolution strategies and by the relaxation, at what work.

Usage:

    python -m experiments.network_tuning OUT [--seed N]
    python -m experiments.network_tuning --compare OUT ...

Tunes the network of `jaxsched.policies.network` for ShareGPT with classes of 100 tokens by
gradients of each kind, and the family beside it, at n = 512. Prints when each
first reaches the last score of the evolution strategies (validation instances, the best so far),
in requests simulated and in CPU time, and what the best networks do at n = 2,000, with another
memory, and on other lengths, beside the shipped rule. A soft simulation of an instance
counts as many requests as a hard one, but takes far longer; hence both columns. Compiling is
apart: every method takes a step before its clock starts. CPU times hold validation and checkpoints.
Writes runs/NAME.parquet and .npy (from which an interrupted command goes on), curves.parquet,
transfer.parquet, networks/NAME.toml and the figure. The second form says what several seeds come
to in equal CPU time: median, least and largest.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray
from rich.progress import Progress as Bar

import jaxsched as js
from jaxsched import workloads
from jaxsched.report import looks, plots
from jaxsched.report.looks import in_house_style
from jaxsched.report.tables import markdown
from jaxsched.studies import store
from jaxsched.studies.config import LengthsConfig
from jaxsched.studies.frames import half_width
from jaxsched.tuning import loop, rules, search
from jaxsched.tuning.config import DescentConfig, TuneConfig
from jaxsched.tuning.problem import Problem
from jaxsched.tuning.space import NetworkSpace
from jaxsched.workloads.texts import read_prediction

PREDICTION = "classes:100:18"
CONFIG = TuneConfig(
    memory=16_492, num_requests=512, predictions=(PREDICTION,), member="network", lanes=4,
    validation_lanes=64, test_lanes=2, validate_every=5, methods=("descent",),
    lengths=LengthsConfig(source="sharegpt"),
)  # fmt: skip
EVOLUTION = DescentConfig(
    steps=60, starts=95, chains=1, pairs=24, learning_rate=(0.6, 0.03), sigma=(1.0, 0.1)
)
SOFT = dataclasses.replace(
    EVOLUTION, starts=23, soft_steps=64, temperature=(0.2, 0.05), learning_rate=(0.4, 0.03)
)
# With the starts, or the relaxation before it, a fifth of the work of EVOLUTION.
FEW = dataclasses.replace(EVOLUTION, steps=70, starts=23, pairs=4)
RUNS = {
    "es": ("network", EVOLUTION),
    "es_few": ("network", FEW),
    "relaxation": (
        "network",
        dataclasses.replace(
            SOFT,
            estimator="relaxation",
            steps=12,
            starts=0,
            temperature=(0.3, 0.1),
            learning_rate=(0.4, 0.1),
        ),
    ),
    "combined": (
        "network",
        dataclasses.replace(SOFT, estimator="combined", steps=55, pairs=4, guidance=0.03),
    ),
    "handover": ("network", dataclasses.replace(FEW, starts=0)),
    "family": ("family", EVOLUTION),
}
"""Name -> what is tuned, and how.

"relaxation" begins at A_min: from networks at random it often went up. "handover" begins
where it came to.
"""

LOOKS = {
    "es": ("evolution strategies, 24 pairs", "#0072B2", "-"),
    "es_few": ("evolution strategies, 4 pairs", "#56B4E9", looks.DASHES),
    "relaxation": ("relaxation", "#D55E00", "-"),
    "combined": ("pairs along the relaxation", "#CC79A7", looks.DASH_DOTS),
    "handover": ("relaxation, then 4 pairs", "#009E73", looks.DASHES),
    "family": ("the family, evolution strategies", "#777777", looks.DOTS),
}
"""Name -> label, color, line."""

SHIPPED = "sharegpt_classes"
PLACES = {
    "home, n = 512": ("sharegpt", None, PREDICTION, 512, 16_492),
    "n = 2,000": ("sharegpt", None, PREDICTION, 2000, 16_492),
    "M = 8,192": ("sharegpt", None, PREDICTION, 512, 8_192),
    "LMSYS, n = 2,000": ("lmsys", 1000, "classes:100:10", 2000, 16_492),
}
"""Column of the table -> lengths, longest output, prediction, n, memory."""

KEY, LANES = 30_000, 64
FIFTH = 5


@dataclasses.dataclass(frozen=True)
class From(NetworkSpace):
    """The space of all networks with its origin somewhere else.

    Attributes:
      start: The origin, d numbers.
    """

    start: tuple[float, ...] = ()

    @functools.cached_property
    def origin(self) -> NDArray[np.float64]:
        """The point to begin at, of shape [d]."""
        return np.array(self.start)


class Run(NamedTuple):
    """What a run came to.

    Attributes:
      curve: One row per validation: name, work, CPU seconds, incumbent and best ratio to h_sf.
      best: The best point.
      policy: The rule there.
    """

    curve: pd.DataFrame
    best: NDArray[np.float64]
    policy: js.Policy


SECONDS = (1, 2, 4, 8, 16, 32)
"""Of a processor, at which seeds are compared."""


def main(argv: list[str] | None = None) -> None:
    """Tunes, prints the tables, draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, nargs="+", metavar="OUT")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--compare", action="store_true")
    args = parser.parse_args(argv)
    if args.compare:
        print(comparison([pd.read_parquet(out / "curves.parquet") for out in args.out]))
        return
    if len(args.out) > 1:
        parser.error("several OUT without --compare; expected one")
    (out,) = args.out
    found: dict[str, Run] = {}
    with Bar() as bar:
        for name in RUNS:
            found[name] = tune(name, args.seed, out, bar, found.get("relaxation"))
    curves = pd.concat([run.curve for run in found.values()], ignore_index=True)
    store.write_parquet(out / "curves.parquet", curves, {})
    print(f"\n{work_table(curves)}")
    policies = {name: run.policy for name, run in found.items()}
    policies[f"shipped `{SHIPPED}`"] = js.load_policy(SHIPPED)
    frame = pd.concat([transfer(place, policies) for place in PLACES], ignore_index=True)
    store.write_parquet(out / "transfer.parquet", frame, {})
    print(f"\n{transfer_table(frame)}\n")
    print(plots.save(figure(curves), out / "figures" / "network_tuning"))


def tune(name: str, seed: int, out: Path, bar: Bar, before: Run | None) -> Run:
    """One of `RUNS`; `before` is where "handover" begins, and its cost is added."""
    member, descent = RUNS[name]
    curve, point, path = (
        out / folder / f"{name}{ending}"
        for folder, ending in (("runs", ".parquet"), ("runs", ".npy"), ("networks", ".toml"))
    )
    if curve.exists() and point.exists() and path.exists():
        return Run(pd.read_parquet(curve), np.load(point), js.load_policy(path))
    config = dataclasses.replace(CONFIG, member=member, descent=descent, seed=seed)
    problem, space = Problem(config), search.space_of(config)
    spent = (0.0, 0.0)
    if name == "handover":
        space = From(config.seed, start=tuple(before.best.tolist()))
        spent = before.curve["work"].max(), before.curve["seconds"].max()
    compiling = _compiled(config, problem, space)
    (method,) = search.methods(config, problem, space)
    task = bar.add_task(LOOKS[name][0], total=method.steps)
    began, seconds = time.process_time(), []

    def on_step(_: Any, done: loop.Progress) -> None:
        bar.update(task, completed=int(done.steps))
        if np.isfinite(done.curve[:, 0]).sum() > len(seconds):
            seconds.append(time.process_time() - began)

    with tempfile.TemporaryDirectory() as folder:
        done = loop.run_method(config, problem, space, method, Path(folder), on_step)
    frame = pd.DataFrame(np.exp(done.curve[:, 1:]), columns=["incumbent", "best"])
    frame = frame.assign(
        name=name,
        work=spent[0] + done.curve[:, 0],
        seconds=spent[1] + np.array(seconds),
        compiling=compiling,
    )
    params = jax.tree.map(np.asarray, space.params(done.best))
    path.parent.mkdir(parents=True, exist_ok=True)
    origin = rules.origin(config, f"{descent.optimizer} on {descent.estimator}", int(done.work))
    rules.write_rule(path, params, origin, ())
    point.parent.mkdir(exist_ok=True)
    np.save(point, done.best)
    store.write_parquet(curve, frame, {})
    return Run(frame, done.best, js.load_policy(path))


def _compiled(config: TuneConfig, problem: Problem, space: Any) -> float:
    """Processor seconds of a first step, which compiles; other runs have compiled some of it."""
    began = time.process_time()
    first = dataclasses.replace(config.descent, steps=1)
    (method,) = search.methods(dataclasses.replace(config, descent=first), problem, space)
    with tempfile.TemporaryDirectory() as folder:
        loop.run_method(config, problem, space, method, Path(folder))
    return time.process_time() - began


def comparison(seeds: list[pd.DataFrame]) -> str:
    """Best score at equal CPU times, a row for each method: median (least … largest)."""
    curves = pd.concat([own.assign(seed=i) for i, own in enumerate(seeds)])
    rows = []
    for name, own in curves.groupby("name", sort=False):
        row = {"gradient": LOOKS[name][0]}
        for limit in SECONDS:
            there = own[own["seconds"] <= limit].groupby("seed")["best"].min()
            row[f"{limit} s"] = _range(there) if len(there) == len(seeds) else "–"
        last = own.groupby("seed").agg({"best": "min", "seconds": "max", "work": "max"})
        row |= {"in the end": _range(last["best"]), "after": f"{last['seconds'].median():.0f} s"}
        rows.append(row | {"work": _millions(last["work"].median())})
    return markdown(pd.DataFrame(rows))


def _range(values: pd.Series) -> str:
    return f"{values.median():.3f} ({values.min():.3f} … {values.max():.3f})"


def work_table(curves: pd.DataFrame) -> str:
    """Last scores, and what it took to come to that of "es" and to its score at a fifth of it."""
    es = curves[curves["name"] == "es"]
    last, fifth = es["best"].min(), es["work"].max() / FIFTH
    rows = []
    for name, own in curves.groupby("name", sort=False):
        there = own[own["best"] <= last]
        reached = ("not reached", "–")
        if len(there):
            reached = _millions(there["work"].iloc[0]), f"{there['seconds'].iloc[0]:.0f} s"
        rows.append(
            {
                "gradient": LOOKS[name][0],
                "work": _millions(own["work"].max()),
                "CPU time": f"{own['seconds'].max():.0f} s",
                "best": own["best"].min(),
                f"best at {_millions(fifth)}": own.loc[own["work"] <= fifth, "best"].min(),
                f"work to {last:.4f}": reached[0],
                "CPU time to it": reached[1],
            }
        )
    return markdown(pd.DataFrame(rows), 4)


def _millions(requests: float) -> str:
    return f"{requests / 1e6:.2f} M"


def transfer(place: str, policies: dict[str, js.Policy]) -> pd.DataFrame:
    """Ratios to h_sf of every policy on instances that nothing was tuned on."""
    source, longest, prediction, n, memory = PLACES[place]
    instance = workloads.make(
        jax.random.key(KEY),
        lengths=LengthsConfig(source, longest, memory).law,
        intervals=read_prediction(prediction).source(memory),
        n=n,
        memory=memory,
        lanes=LANES,
    )
    latency = {name: js.simulate(instance, one).total_latency for name, one in policies.items()}
    yardstick = js.simulate(instance, js.h_sf()).total_latency
    frames = [
        pd.DataFrame({"place": place, "name": name, "ratio": total / yardstick})
        for name, total in latency.items()
    ]
    return pd.concat(frames)


def transfer_table(frame: pd.DataFrame) -> str:
    """One row per rule, one column per place: mean latency over that of h_sf."""
    cells = frame.groupby(["name", "place"], sort=False)["ratio"].agg(
        lambda ratio: f"{ratio.mean():.3f} ± {half_width(ratio):.3f}"
    )
    table = cells.unstack("place")[list(PLACES)].loc[list(dict.fromkeys(frame["name"]))]
    table.insert(0, "rule", [LOOKS[name][0] if name in LOOKS else name for name in table.index])
    return markdown(table)


@in_house_style
def figure(curves: pd.DataFrame) -> Figure:
    """The best so far against the requests simulated, and against CPU time."""
    drawn = Figure(figsize=(6.8, 3.2), layout="constrained")
    by_work, by_time = drawn.subplots(1, 2, sharey=True)
    for axes, column in ((by_work, "work"), (by_time, "seconds")):
        for name, own in curves.groupby("name", sort=False):
            label, color, line = LOOKS[name]
            axes.step(own[column], own["best"], where="post", color=color, ls=line, label=label)
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    es = curves[curves["name"] == "es"]
    by_work.axhline(es["best"].min(), color="#0072B2", lw=0.6)
    by_work.axvline(es["work"].max() / FIFTH, color="#0072B2", lw=0.6)
    by_work.set_xlabel("requests simulated for candidates")
    seconds = (2, 5, 10, 20, 50)
    by_time.set_xticks(seconds, [str(second) for second in seconds])
    by_time.set_xlabel("CPU seconds")
    by_work.set_ylabel("mean latency / that of H-SF")
    plots.legend_above(drawn, by_work, columns=2)
    return drawn


if __name__ == "__main__":
    main()
