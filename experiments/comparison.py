"""Every shipped rule beside every other: two workers, six kinds of requests, seven of knowledge.

In rounds, so that a proved bound stands beside every figure. A unit is one kind of requests, one
kind of arrivals and one worker; what a unit has found is kept in the folder at once, so that an
interrupted run goes on, and rules that are new, or tuned again, are added to what is there.
docs/comparison.md has what comes out.

Usage:

    python -m experiments.comparison out/comparison --traces FOLDER

The folder holds those of the recorded traces that you have; the others are skipped with a line that
says where they are.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray
from rich.progress import track

import jaxsched as js
from experiments.engine import common
from experiments.engine.common import PAPER, SHAREGPT, VLLM, WORKERS, Source
from jaxsched import bounds, clocks, policies, workloads
from jaxsched.clocks import Clock
from jaxsched.optimum.lane import fluid_bound, problems_of
from jaxsched.policies import files
from jaxsched.report import looks, plots
from jaxsched.report.tables import markdown
from jaxsched.studies import store
from jaxsched.studies.frames import half_width
from jaxsched.workloads import embedded, intervals
from jaxsched.workloads.intervals import IntervalSource

REQUESTS = 1000
LARGE, HUGE = 65_536, 262_144
LOADS = (0.7, 0.9, 1.1)
"""Rates of arrivals over what `fcfs` sustains of the same requests on the same worker."""

TRACES = {
    "Azure, chat": ("AzureLLMInferenceTrace_conv.csv*", "azure", LARGE, "Azure/AzurePublicDataset"),
    "Azure, code": ("AzureLLMInferenceTrace_code.csv*", "azure", LARGE, "Azure/AzurePublicDataset"),
    "Mooncake": ("*ooncake_conversation*", "mooncake", HUGE, "kvcache-ai/Mooncake"),
    "reasoning": ("servegen_deepseek-r1*", "servegen", LARGE, "alibaba/ServeGen"),
}
"""Name -> files of it, their format, KV cache in tokens, and the GitHub repository that has it."""

BLIND = (
    "fcfs", "fcfs:watermark=0.01", "lcf", "random_victim", "mcf", "gsa_spec",
    "gsa_spec:patience=1", "remaining_volume", "remaining_volume:age=1000",
    "remaining_volume:age=10000",
)  # fmt: skip
TOLD = (
    "a_max", "no_evict", "a_min:on_eviction", "a_min:every_round", "a_min:random_ties", "mc_sf",
    "svf:lower", "svf:point", "svf:upper", "sorted_f:point", "remaining_volume:lower",
    "remaining_volume:point", "remaining_volume:lower:age=1000", "remaining_volume:point:age=1000",
    "past_future", "tie", "tie:beta=0", "trail",
)  # fmt: skip
GUESSES = ("a_max", "no_evict", "a_min:on_eviction", "a_min:every_round", "mc_sf", "svf:point")
"""Rules that read predictions and still run where one interval is told of all."""
HINDSIGHT = (
    "h_sf", "svf:output", "sorted_f:output", "remaining_volume:output", "best:hindsight",
)  # fmt: skip
KNOWN = {"none": "one:", "real": "classes: real", "half": "relative:", "perfect": "relative:"}
"""What is known -> how a tuned rule says that it was tuned for it."""

MEASURES = ["mean", "p99", "longest"]


def questions() -> Iterator[tuple[str, str]]:
    """Every (what is known, policy)."""
    asked = {
        "none": (*BLIND, *GUESSES),
        "past": ("past_future",),
        "bit": ("svf:point", "remaining_volume:point"),
        **dict.fromkeys(("real", "half", "perfect"), TOLD),
        "hindsight": HINDSIGHT,
    }
    for known, names in asked.items():
        yield from ((known, name) for name in names)
    for name in files.names():
        origin = files.read_rule(files.rule_path(name)).origin
        told = (origin.predictions if origin else ()) or ("one:",)
        kind = told[0].partition(":")[0]
        yield from ((known, f"tuned:{name}") for known, kinds in KNOWN.items() if kind in kinds)


def rule(name: str) -> js.Policy:
    return js.mcf() if name == "mcf" else js.policy(name)


@dataclasses.dataclass(frozen=True)
class Unit:
    """What is simulated together: a kind of requests and arrivals on a worker."""

    source: Source
    arrivals: str  # "at once", "Poisson" or "recorded"
    load: float  # 0 if at once
    worker: str

    @property
    def name(self) -> str:
        return f"{self.source.name}, {self.arrivals} {self.load:g}, {self.worker}"

    def instance(self, known: str, lanes: int) -> js.Instance:
        """The same requests and arrivals whatever is known."""
        told = predictions(self.source)[known]
        if self.arrivals == "at once":
            drawn = self.source.backlog(REQUESTS, lanes, told)
        else:
            recorded = self.source.trace if self.arrivals == "recorded" else None
            source = dataclasses.replace(self.source, trace=recorded)
            drawn = source.stream(self.load * self.rate, REQUESTS, lanes, told)
        if known != "past":
            return drawn
        lengths = np.random.default_rng(0).permuted(drawn.output, axis=-1)
        return drawn.replace(point=lengths)

    @functools.cached_property
    def rate(self) -> float:
        """Requests a round that `fcfs` sustains."""
        return sustained(self.source, self.worker)

    def bound(self, instance: js.Instance) -> NDArray[np.float64]:
        """Lower bound on the mean latency of every lane, for every policy; none in seconds."""
        if self.source.clock is not None:
            return np.full(instance.lanes, np.nan)
        if self.worker == PAPER:
            return np.asarray(js.lower_bound(instance) / instance.n)
        if instance.arrival is None:
            told = (instance.prompt, instance.output, instance.memory)
            return bounds.latency_bound(*told, worker=WORKERS[VLLM]) / instance.n
        # A token's cache is needed a round later there; only the fluid allows for gaps in a run.
        lanes = (dataclasses.replace(x, prompt=x.prompt - 1) for x in problems_of(instance))
        return np.array([fluid_bound(lane) for lane in lanes]) / instance.n


@functools.cache
def sustained(source: Source, worker: str) -> float:
    return common.sustained(source, WORKERS[worker])


@functools.cache
def predictions(source: Source) -> dict[str, IntervalSource]:
    """What may be known -> intervals.

    Real ones are as wrong as a BERT proxy on LMSYS-Chat-1M (arXiv 2404.08509): its confusion of
    classes, with edges where the same shares of these outputs lie.
    """
    output = source.lengths.draw(jax.random.key(7), (100_000,)).output
    counts = np.asarray(embedded.CLASS_COUNTS)
    shares = np.cumsum(counts.sum(axis=1))[:-1] / counts.sum()
    edges = [0]
    for edge in (*np.quantile(output, shares, method="higher"), output.max() + 1):
        edges.append(max(int(edge), edges[-1] + 1, 2))
    return {
        "none": intervals.one_for_all(1, int(output.max())),
        "past": common.PERFECT,
        "bit": intervals.classes(edges=[0, edges[2], edges[-1]], open_ended=True),
        "real": intervals.confusion(edges, counts),
        "half": intervals.relative(0.5),
        "perfect": common.PERFECT,
        "hindsight": common.PERFECT,
    }


def sources(folder: Path | None, clock: Clock | None) -> Iterator[Source]:
    """The embedded lengths, and the traces that are there."""
    lmsys = embedded.lmsys_tokens().truncated(max_total=common.MEMORY)
    yield Source("ShareGPT", SHAREGPT, clock=clock)
    yield Source("LMSYS", lmsys, clock=clock)
    for name, (pattern, kind, memory, where) in TRACES.items():
        found = sorted(folder.glob(pattern)) if folder else []
        if not found:
            print(f"{name}: skipped; no {pattern} in --traces; see {where} on GitHub")
            continue
        trace = workloads.read_trace(found[0], format=kind, most=memory, zero_output="skip")
        lengths = workloads.lengths.empirical(trace.prompt, trace.output)
        recorded = trace if trace.arrival_seconds is not None else None
        yield Source(name, lengths, recorded, memory, clock)


def units(folder: Path | None, clock: Clock | None = None) -> Iterator[Unit]:
    for source in sources(folder, clock):
        kinds = ("Poisson",) if source.trace is None else ("Poisson", "recorded")
        for worker in WORKERS:
            yield Unit(source, "at once", 0, worker)
            for arrivals in kinds:
                yield from (Unit(source, arrivals, load, worker) for load in LOADS)


def simulated(unit: Unit, known: str, name: str, lanes: int) -> pd.DataFrame | None:
    """A row for every lane; None where the rule does not run there."""
    planned, live = name == "best:hindsight", unit.arrivals != "at once"
    if unit.worker == PAPER and name == "mcf":
        return None  # where tokens are lost it need not end
    if (planned and (unit.worker == VLLM or unit.source.clock)) or (
        live and name.startswith("sorted_f")
    ):
        return None
    instance = unit.instance(known, lanes)
    before = time.process_time()
    found = common.measure(unit.source, instance, rule(name), WORKERS[unit.worker])
    seconds = time.process_time() - before
    kept = {column: found[column] for column in (*MEASURES, "waste", "preemptions", "kv")}
    return common.rows(kept, known=known, policy=name, key=key(known, name), seconds=seconds)


def key(known: str, name: str) -> str:
    """Of a row: changes with a tuned rule's file."""
    told = "" if name == "mcf" else "".join(policies.policy_files(name).values())[:12]
    return f"{known} {name} {told}".strip()


def done(unit: Unit, folder: Path, lanes: int) -> pd.DataFrame:
    """The rows of a unit: those from the folder that are still right, and the others made now."""
    path = folder / "parts" / f"{unit.name.replace(' ', '_')}.parquet"
    wanted = {key(*asked): asked for asked in questions()}
    told, parts = {"lanes": str(lanes), "requests": str(REQUESTS)}, []
    told |= {"clock": repr(unit.source.clock)} if unit.source.clock else {}
    if path.exists():
        kept, about = store.read_parquet(path)
        parts = [kept[kept["key"].isin({*wanted, "bound"})]] if about == told else []
    there = set(parts[0]["key"]) if parts else set()
    try:
        if "bound" not in there:
            bound = {"mean": unit.bound(unit.instance("perfect", lanes))}
            parts.append(common.rows(bound, known="", policy="bound", key="bound", seconds=0.0))
        for each, (known, name) in wanted.items():
            if each not in there and (found := simulated(unit, known, name, lanes)) is not None:
                parts.append(found)
    finally:
        if parts[1 if there else 0 :]:
            store.write_parquet(path, pd.concat(parts, ignore_index=True), told)
    setting = {"source": unit.source.name, "arrivals": unit.arrivals, "load": unit.load}
    return pd.concat(parts, ignore_index=True).assign(**setting, worker=unit.worker)


# ---- what is told of it

SETTING = ["worker", "source", "arrivals", "load"]


def ratios(frame: pd.DataFrame) -> pd.DataFrame:
    """Of every cell: mean, P99 and longest wait over those of `fcfs`, and the mean over the bound.

    Means over lanes of the ratios on one lane, with half-widths; waste as it is.
    """
    lane = [*SETTING, "lane"]
    base = frame[frame["policy"] == "fcfs"].set_index(lane)[MEASURES]
    bound = frame[frame["policy"] == "bound"].set_index(lane)["mean"].rename("bound")
    rows = frame[frame["policy"] != "bound"].join(base.add_suffix("_base"), on=lane)
    rows = rows.join(bound, on=lane)
    rows["bound"] = rows["mean"] / rows["bound"]
    for name in MEASURES:
        rows[name] /= rows[f"{name}_base"]
    groups = rows.groupby([*SETTING, "known", "policy"], sort=False)
    columns = {}
    for name in (*MEASURES, "bound"):
        columns |= {name: groups[name].mean(), f"{name}_ci": groups[name].agg(half_width)}
    columns |= {name: groups[name].mean() for name in ("waste", "preemptions", "kv")}
    return pd.DataFrame(columns).reset_index()


def over_sources(table: pd.DataFrame) -> pd.DataFrame:
    """Geometric means over the kinds of requests, with half-widths, and the worst P99 of a kind.

    Arrivals are the recorded ones where there are some.
    """
    recorded = table.groupby(["source", "load"])["arrivals"].transform(
        lambda kinds: (kinds == "recorded").any()
    )
    table = table[(table["arrivals"] != "Poisson") | ~recorded]
    by, columns = ["worker", "load", "known", "policy"], {}
    rules = table.groupby(by, sort=False)
    for name in (*MEASURES, "bound"):
        columns[name] = rules[name].agg(lambda x: np.exp(np.mean(np.log(x))))
        share = (table[f"{name}_ci"] / table[name]) ** 2
        spread = share.groupby([table[x] for x in by], sort=False)
        columns[f"{name}_ci"] = columns[name] * spread.agg(lambda x: np.sqrt(x.sum()) / len(x))
    columns |= {f"worst {name}": rules[name].max() for name in MEASURES}
    columns["waste"] = rules["waste"].mean()
    return pd.DataFrame(columns).reset_index()


def advice(table: pd.DataFrame, worker: str = VLLM) -> pd.DataFrame:
    """For every load: what harms nobody, and the least mean by what is known."""
    some, rows = over_sources(table), []
    some = some[(some["worker"] == worker) & ~some["policy"].str.startswith("sorted_f")]
    some = some[some["known"] != "hindsight"]
    for load in (*LOADS, 0):
        own = some[some["load"] == load]
        blind, calm = (
            own["known"] == "none",
            own[["worst p99", "worst longest"]].max(axis=1) <= 1.02,
        )
        chosen = {
            "nothing, and nobody may be worse off": own[blind & calm],
            "nothing predicted": own[blind],
            "real predictions": own[blind | (own["known"] == "real")],
            "perfect predictions": own[blind | own["known"].isin(("real", "perfect"))],
        }
        for known, few in chosen.items():
            best = few.loc[few["mean"].idxmin()]
            p99 = f"{best['p99']:.2f} ± {best['p99_ci']:.2f} ({best['worst p99']:.2f})"
            rows.append(
                {
                    "load": f"{load:g}" if load else "backlog",
                    "known": known,
                    "least mean": f"`{best['policy']}`",
                    "mean": f"{best['mean']:.2f} ± {best['mean_ci']:.2f}",
                    "P99 (at worst)": p99,
                    "longest wait": f"{best['longest']:.1f} ± {best['longest_ci']:.1f}",
                }
            )
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame, worker: str) -> pd.DataFrame:
    """A row for every rule and what it knows, geometric means over the kinds of requests.

    Mean, P99 and longest wait over those of `fcfs`, a column for each load; of a backlog also the
    mean over the bound and the waste. Rules of equal figures share a row.
    """
    own = over_sources(table)
    own = own[own["worker"] == worker].copy()
    texts = [own[name].map("{:.2f}".format) for name in MEASURES]
    own["text"] = texts[0].str.cat(texts[1:], sep=", ")
    rules = ["policy", "known"]
    found = own.pivot_table("text", rules, "load", aggfunc="first", sort=False)[[*LOADS, 0]]
    found.columns = [*(f"{load:g}" for load in LOADS), "backlog"]
    backlog = own[own["load"] == 0].set_index(rules)
    for name, column in (("over the bound", "bound"), ("waste", "waste")):
        found[name] = backlog[column].map("{:.2f}".format)
    found["± mean"] = own.groupby(rules, sort=False)["mean_ci"].max().map("{:.2f}".format)
    found = found.fillna("–").reset_index()
    figures = [*found.columns[2:]]
    rows = found.groupby(figures, sort=False).apply(_named).rename("rule (what it is told)")
    return rows.reset_index()[[rows.name, *figures]]


def _named(rows: pd.DataFrame) -> str:
    """Rules of equal figures, each with what it is told."""
    told = rows.groupby("policy", sort=False)["known"].agg(", ".join)
    return ", ".join(f"`{name}`" + f" ({x})" * (x != "none") for name, x in told.items())


DRAWN = {
    ("fcfs", "none"): "fcfs",
    ("lcf", "none"): "lcf",
    ("gsa_spec", "none"): "gsa_spec",
    ("remaining_volume", "none"): "remaining_volume",
    ("remaining_volume:age=1000", "none"): "remaining_volume:age=100",
    ("a_max", "real"): "a_max",
    ("a_min:on_eviction", "real"): "a_min:on_eviction",
    ("a_min:every_round", "real"): "a_min:every_round",
    ("mc_sf", "real"): "mc_sf",
    ("svf:point", "real"): "svf:point",
    ("remaining_volume:lower", "real"): "remaining_volume:lower",
    ("past_future", "real"): "past_future",
    ("tie", "real"): "tie",
    ("trail", "real"): "trail",
    ("h_sf", "hindsight"): "h_sf",
    ("svf:output", "hindsight"): "svf:output",
}
"""Points of the figure: (policy, what is known) -> its look."""


@looks.in_house_style
def draw(table: pd.DataFrame, worker: str = VLLM, load: float = 0.9) -> Figure:
    """P99 against mean, both over those of `fcfs`, a panel for every kind of requests."""
    own = table[(table["worker"] == worker) & (table["load"] == load)]
    names = list(dict.fromkeys(own["source"]))
    figure, grid = plots.panels(len(names), 3, (2.8, 2.4), (0, 1.3))
    for axes, source in zip(grid, names, strict=True):
        some = own[own["source"] == source]
        arrivals = "recorded" if "recorded" in set(some["arrivals"]) else "Poisson"
        some = some[some["arrivals"] == arrivals].set_index(["policy", "known"])
        for asked, look in ((x, looks.look_of(name)) for x, name in DRAWN.items()):
            if asked not in some.index:
                continue
            row = some.loc[asked]
            axes.errorbar(
                row["mean"], row["p99"], row["p99_ci"], row["mean_ci"], look.marker,
                color=look.color, ms=5,
                label=look.label + ", real predictions" * (asked[1] == "real"), mec="white",
                mew=0.5, elinewidth=0.5,
            )  # fmt: skip
        axes.axhline(1, color="#999999", lw=0.7, zorder=1)
        axes.axvline(1, color="#999999", lw=0.7, zorder=1)
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            low, high = axis.get_view_interval()
            few = LogLocator(subs=(1, 1.5, 2, 3, 5, 7)) if high > 1.7 * low else MaxNLocator(4)
            axis.set_major_locator(few)
            axis.set_minor_locator(NullLocator())
            plots.write_ticks(axis)
        axes.set_title(f"{source}, {arrivals} arrivals")
    plots.name_axes(figure, "mean latency over that of fcfs", "P99 of latency over that of fcfs")
    plots.legend_above(figure, grid[0], 3)
    return figure


def main(given: argparse.Namespace) -> None:
    """Simulates what is missing, writes table and figure into the folder, and prints the tables."""
    started, before = time.perf_counter(), time.process_time()
    asked = [*units(given.traces, given.clock and clocks.clock(given.clock))]
    parts = [done(x, given.folder, given.lanes) for x in track(asked, "units")]
    frame = pd.concat(parts, ignore_index=True)
    table = ratios(frame)
    table.round(3).to_csv(given.folder / "comparison.csv.gz", index=False)
    print(plots.save(draw(table), given.folder / "comparison"))
    for worker in WORKERS:
        print(f"\nWhich rule, on {worker}\n", markdown(advice(table, worker)), sep="\n")
        print(f"\nEvery rule on {worker}: mean, P99 and longest wait over those of fcfs\n")
        print(markdown(summary(table, worker)))
    slowest = frame.groupby("policy")["seconds"].sum().sort_values(ascending=False)
    wall, used = time.perf_counter() - started, time.process_time() - before
    print(f"\n{frame['seconds'].sum() / given.lanes:,.0f} s of processor time for all simulations")
    print(
        f"this call took {wall:,.0f} s, {used:,.0f} s of processor time; the slowest rules, in s:"
    )
    print((slowest / given.lanes).head(8).round(1).to_dict())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where to write; goes on from what is there")
    parser.add_argument("--traces", type=Path, help="folder with recorded traces")
    parser.add_argument("--clock", help="a preset, for seconds instead of rounds and bounds")
    parser.add_argument("--lanes", type=int, default=24, help="instances of every kind")
    main(parser.parse_args())
