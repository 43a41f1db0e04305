"""The relaxation's gradient against evolution strategies in time, by how much there is to tune.

Usage:

    python -m experiments.gradient_dimensions OUT [--case NAME ...] [--seeds N]

Tables: the order of admission is A_min's but for a number of octaves for each class of 100
predicted tokens and each of so many ranges of prompts, learned without any idea of what its
neighbours say. The family and networks: as `jaxsched tune` searches them. ShareGPT, classes of
100, n = 512, M = 16,492; all begin at A_min. A score is the mean latency over that of `h_sf` on
instances that nothing is chosen on, at the point that was best so far on others, which no gradient
saw. Seconds are of a processor: to draw instances, simulate and step, not to score, and not to
compile, which has a column.

Writes runs/NAME-SEED.parquet (which the same command takes up); prints and draws what OUT holds.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

import jaxsched as js
from experiments.network_tuning import CONFIG
from jaxsched import relaxation
from jaxsched.policies import View
from jaxsched.policies.arithmetic import log2
from jaxsched.policies.family import FAMILY_FIELDS
from jaxsched.report import plots
from jaxsched.report.looks import in_house_style
from jaxsched.report.tables import markdown
from jaxsched.studies import store
from jaxsched.tuning import estimators
from jaxsched.tuning.config import DescentConfig, TuneConfig
from jaxsched.tuning.estimators import Estimator, Gradient
from jaxsched.tuning.problem import Batch, Problem
from jaxsched.tuning.space import Coordinates, Floats, NetworkSpace, Space

CLASSES, WIDTH = 18, 100
MOST = 16.0
"""Octaves by which a table moves a request, at most."""

UNIT = 1024
FAR = 10_000
"""Steps from here on have instances that no descent comes to."""

ZERO = 2**15
"""What `point` holds where a table says 0; it is at least 1."""


def lower(r: View) -> Any:
    return r.lower


def by_point(r: View) -> Any:
    return log2(r.estimate, 10) + r.point


def by_cell(r: View) -> Any:
    return log2(r.estimate, 10) + r.params[jnp.asarray(r.point).astype(np.int32)]


EXACT = js.Policy("table", estimate=lower, admission_key=by_point)
"""Octaves in `point`: of each instance its own, which the native engine can do."""

SOFT = js.Policy("table", estimate=lower, admission_key=by_cell)
"""The same with cells in `point`, and all octaves in `params`."""


@dataclasses.dataclass(frozen=True)
class TableSpace(Coordinates):
    """Octaves of every cell; at the origin the policy is A_min.

    Attributes:
      cells: How many, d.
    """

    cells: int

    @property
    def box(self) -> tuple[Floats, Floats]:
        """Least and largest octaves."""
        return np.full(self.cells, -MOST), np.full(self.cells, MOST)

    @property
    def origin(self) -> Floats:
        """No octave anywhere."""
        return np.zeros(self.cells)

    def params(self, z: Any, module: Any = np) -> Any:
        """The octaves."""
        return z

    def random(self, rng: np.random.Generator, count: int) -> Floats:
        """Points with octaves of deviation 2."""
        return self.clip(2 * rng.standard_normal((count, self.cells)))


class TableProblem(Problem):
    """Scores of tables.

    Attributes:
      edges: Prompts between ranges that are equally frequent, of shape [ranges - 1].
    """

    def __init__(self, config: TuneConfig, ranges: int) -> None:
        super().__init__(config)
        drawn = np.concatenate([np.ravel(self.fresh(FAR + i).instance.prompt) for i in range(16)])
        self.edges = np.quantile(drawn, np.linspace(0, 1, ranges + 1)[1:-1])

    def cells(self, instance: js.Instance) -> NDArray[np.int32]:
        """The cell of each request, of its shape."""
        predicted = np.minimum(np.asarray(instance.lower) // WIDTH, CLASSES - 1)
        ranges = np.searchsorted(self.edges, np.asarray(instance.prompt), side="right")
        return (ranges * CLASSES + predicted).astype(np.int32)

    def scores(self, batch: Batch, params: Any) -> NDArray[np.float64]:
        """Scores of tables, [P, d], of shape [P, L]."""
        total, unfinished = self._measured(batch.instance, np.asarray(params))
        return np.log(self._total(total, unfinished) / batch.yardstick["mean"])

    def _measured(self, instance: js.Instance, tables: Floats) -> tuple[Any, Any]:
        result = js.simulate(self.given(instance, tables), EXACT, max_rounds=self.last_round)
        shape = len(tables), -1
        left = np.sum(np.asarray(result.completion) < 0, axis=-1)
        return np.reshape(result.total_latency, shape), np.reshape(left, shape)

    def given(self, instance: js.Instance, tables: Floats) -> js.Instance:
        """The instances under each of the tables, [P L, n], the first table's first."""
        octaves = np.clip(tables, -MOST, MOST)[:, self.cells(instance)]
        point = ZERO + np.rint(UNIT * octaves).astype(np.int32)
        count, lanes, n = point.shape
        fields = {
            name: np.tile(getattr(instance, name), (count, 1))
            for name in ("prompt", "output", "lower", "upper")
        }
        memory = np.full(count * lanes, np.max(instance.memory))
        return js.Instance(**fields, memory=memory, point=point.reshape(-1, n))


@jax.jit
def _table_gradient(
    z: jax.Array, temperature: jax.Array, instance: js.Instance, timeline: relaxation.Timeline
) -> jax.Array:
    def score(z: jax.Array) -> jax.Array:
        soft = relaxation.soft_simulate(instance, UNIT * z, temperature, timeline, policy=SOFT)
        return jnp.mean(jnp.log(soft.mean_latency))

    return jax.grad(score)(z)


def table_relaxation(settings: DescentConfig, problem: TableProblem, space: Any) -> Estimator:
    """`estimators.relaxation` for tables."""
    temperature = settings.scheduled("temperature")

    def gradient(z: Floats, batch: Batch, step: int, rng: np.random.Generator) -> Gradient:
        result = js.simulate(problem.given(batch.instance, z), EXACT)
        timeline = relaxation.event_timeline(result, settings.soft_steps)
        instance = batch.instance.replace(point=problem.cells(batch.instance))
        at = z[0].astype(np.float32), np.float32(temperature(step))
        value = np.asarray(_table_gradient(*at, instance, timeline), float)
        return Gradient(value[None], np.zeros(1), problem.work(2))

    return gradient


class Case(NamedTuple):
    """What is tuned.

    Attributes:
      label: In tables.
      parts: From a configuration, its problem, space, and estimator by the relaxation.
    """

    label: str
    parts: Callable[[TuneConfig], tuple[Problem, Coordinates, Callable[..., Estimator]]]


def _table(ranges: int) -> Case:
    def parts(config: TuneConfig) -> tuple[Problem, Coordinates, Any]:
        problem = TableProblem(config, ranges)
        return problem, TableSpace(CLASSES * ranges), table_relaxation

    return Case(f"table, {CLASSES * ranges:,}", parts)


def _rule(label: str, member: str, space: Callable[[int], Coordinates]) -> Case:
    def parts(config: TuneConfig) -> tuple[Problem, Coordinates, Any]:
        own = dataclasses.replace(config, member=member)
        return Problem(own), space(config.seed), estimators.relaxation

    return Case(label, parts)


CASES = {
    **{f"table{CLASSES * ranges}": _table(ranges) for ranges in (4, 16, 64, 256)},
    "family8": _rule("family, 8", "family", lambda seed: Space(TuneConfig.free)),
    "family14": _rule("family, 14", "family", lambda seed: Space(FAMILY_FIELDS)),
    "network360": _rule("network, 360", "network", NetworkSpace),
    "network1368": _rule("network, 1,368", "network", lambda seed: NetworkSpace(seed, units=48)),
}

_ES = DescentConfig(starts=0, chains=1, sigma=(1.0, 0.1))
_FAR = {"learning_rate": (0.6, 0.03)}
_NEAR = {"learning_rate": (0.1, 0.03), "sigma": (1.0, 0.5)}
METHODS = {
    "es 4": dataclasses.replace(_ES, pairs=4, steps=80, learning_rate=(0.2, 0.03)),
    "es 4, far": dataclasses.replace(_ES, pairs=4, steps=80, **_FAR),
    "es 24": dataclasses.replace(_ES, pairs=24, steps=60, **_NEAR),
    "es 24, far": dataclasses.replace(_ES, pairs=24, steps=40, **_FAR),
    "es 96": dataclasses.replace(_ES, pairs=96, steps=60, learning_rate=(0.2, 0.02)),
    "relaxation": dataclasses.replace(
        _ES, estimator="relaxation", steps=12, soft_steps=64, temperature=(0.3, 0.1),
        learning_rate=(0.4, 0.1),
    ),
    "then es": dataclasses.replace(
        _ES, pairs=24, steps=60, learning_rate=(0.05, 0.02), sigma=(1.0, 0.5)
    ),
}  # fmt: skip
"""Name -> how a descent goes; "then es" begins at the best point of "relaxation".

Those by evolution strategies are what was best on another seed, for few parameters and for many.
"""

LEFT_OUT = {
    "network360": ("es 24", "es 96", "then es"),
    "network1368": ("es 24", "es 24, far", "es 96", "then es"),
}
"""Case -> methods that take too long there; `experiments.network_tuning` has "then es"."""

LOOKS = {
    "es": ("evolution strategies, the best at each time", "#0072B2", "s", "--"),
    "relaxation": ("relaxation", "#D55E00", "o", "-"),
    "then es": ("relaxation, then evolution strategies", "#009E73", "D", "-"),
}
SECONDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
CHECKS = 8
"""Scores on the way of a descent."""


def main(argv: list[str] | None = None) -> None:
    """Runs what is missing, prints the table, draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--case", action="append", choices=CASES, metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    args = parser.parse_args(argv)
    for name in args.case or CASES:
        for seed in range(args.seeds):
            path = args.out / "runs" / f"{name}-{seed}.parquet"
            if not path.exists():
                store.write_parquet(path, race(name, seed), {})
                print(f"{name}, seed {seed}", flush=True)
    files = sorted((args.out / "runs").glob("*.parquet"))
    frame = pd.concat([pd.read_parquet(path) for path in files], ignore_index=True)
    at = scores(frame)
    print(f"\n{table(frame, at)}\n\n{reached(frame)}\n")
    print(plots.save(figure(at, frame), args.out / "figures" / "gradient_dimensions"))


def race(name: str, seed: int) -> pd.DataFrame:
    """All methods on a case: a row for every check."""
    config = dataclasses.replace(
        CONFIG, member="family", seed=seed, validation_lanes=32, test_lanes=64
    )
    problem, space, soft = CASES[name].parts(config)
    rows, found = [], {}
    for method, settings in METHODS.items():
        if method in LEFT_OUT.get(name, ()):
            continue
        make = soft if settings.estimator == "relaxation" else estimators.evolution
        start, spent = found["relaxation"] if method == "then es" else (space.origin, 0.0)
        began = time.process_time()
        once = dataclasses.replace(settings, steps=1)
        descend(problem, space, make(once, problem, space), once, space.origin)
        compiling = time.process_time() - began
        estimate = make(settings, problem, space)
        curve, found[method] = descend(problem, space, estimate, settings, start, spent)
        case = {"case": name, "size": space.size, "seed": seed, "method": method}
        rows += [case | {"compiling": compiling} | row for row in curve]
    return pd.DataFrame(rows)


def descend(
    problem: Problem,
    space: Coordinates,
    estimate: Estimator,
    settings: DescentConfig,
    start: Floats,
    spent: float = 0.0,
) -> tuple[list[dict[str, float]], tuple[Floats, float]]:
    """Adam along estimates; checks on the way, and the best point with the seconds to the end."""
    z = start.astype(np.float32)
    optimizer = optax.adam(settings.scheduled("learning_rate"))
    state, best, chosen, rows = optimizer.init(z), np.inf, z, []
    every = max(1, settings.steps // CHECKS)
    for step in range(settings.steps):
        if spent > SECONDS[-1]:
            break
        began = time.process_time()
        rng = np.random.default_rng([problem.config.seed, step])
        found = estimate(z[None].astype(float), problem.fresh(step), step, rng)
        updates, state = optimizer.update(found.value[0].astype(np.float32), state, z)
        z = space.clip(z + np.asarray(updates)).astype(np.float32)
        spent += time.process_time() - began
        if (step + 1) % every == 0 or step in (1, settings.steps - 1):
            point = space.params(z[None].astype(float))
            score = problem.scores(problem.validation, point).mean()
            if score < best:
                best, chosen = score, z
                judged = float(np.exp(problem.scores(problem.test, point).mean()))
            rows.append({"seconds": spent, "score": judged, "chosen_by": float(np.exp(best))})
    return rows, (chosen.astype(float), spent)


def scores(frame: pd.DataFrame) -> pd.DataFrame:
    """The score at equal times: a row for each case, method, seed and time.

    Of evolution strategies the number of pairs that is best in the median of the seeds.
    """
    rows = []
    for (case, size, method, seed), own in frame.groupby(["case", "size", "method", "seed"]):
        for limit in SECONDS:
            there = own[own["seconds"] <= limit]
            if len(there):
                rows.append({"case": case, "size": size, "method": method, "seed": seed,
                             "limit": limit, "score": there["score"].iloc[-1]})  # fmt: skip
    at = pd.DataFrame(rows)
    kind = at["method"].where(~at["method"].str.startswith("es"), "es")
    median = at.groupby(["case", "method", "limit"])["score"].transform("median")
    best = median.groupby([at["case"], kind, at["limit"]]).transform("min")
    return at.assign(method=kind)[median == best]


def table(frame: pd.DataFrame, at: pd.DataFrame) -> str:
    """One row per case and method: median, least and largest score at equal times; compiling."""
    compiling = frame.groupby(["case", "method"])["compiling"].max()
    rows = []
    for name in (name for name in CASES if name in set(at["case"])):
        for method, (label, *_) in LOOKS.items():
            own = at[(at["case"] == name) & (at["method"] == method)]
            if not len(own):
                continue
            row = {"parameters": CASES[name].label, "gradient": label}
            for limit in SECONDS:
                values = own[own["limit"] == limit]["score"]
                row[f"{limit:g} s"] = _range(values) if len(values) else "–"
            # Of the exact simulator, which the relaxation needs too, and of its gradient.
            first = compiling[name]["es 4"] + (method != "es") * compiling[name]["relaxation"]
            rows.append(row | {"compiling, s": f"{first:.0f}"})
    return markdown(pd.DataFrame(rows))


def reached(frame: pd.DataFrame) -> str:
    """One row per case: seconds to the last score of the relaxation, by each kind of gradient.

    In the median of the seeds, each its own score; of evolution strategies the fastest of all.
    """
    rows = []
    for name in (name for name in CASES if name in set(frame["case"])):
        own = frame[frame["case"] == name]
        times: dict[str, list[float]] = {"relaxation": [], "es": []}
        lasts = []
        for _, one in own.groupby("seed"):
            soft = one[one["method"] == "relaxation"]
            lasts.append(soft["score"].iloc[-1])
            for method, of_it in (("relaxation", soft), ("es", one[one["method"].str[:2] == "es"])):
                there = of_it[of_it["score"] <= lasts[-1]]["seconds"]
                times[method].append(there.min() if len(there) else np.inf)
        soft, es = (float(np.median(times[method])) for method in ("relaxation", "es"))
        most = own[own["method"].str[:2] == "es"].groupby("method")["seconds"].max().max()
        rows.append({
            "parameters": CASES[name].label, "score": f"{np.median(lasts):.3f}",
            "relaxation": f"{soft:.2f} s",
            "evolution strategies": f"{es:.2f} s" if np.isfinite(es) else f"not in {most:.0f} s",
            "ratio": f"{es / soft:.1f}" if np.isfinite(es) else f"> {most / soft:.0f}",
        })  # fmt: skip
    return markdown(pd.DataFrame(rows))


def _range(values: pd.Series) -> str:
    return f"{values.median():.3f} ({values.min():.3f} … {values.max():.3f})"


LIMITS = (0.5, 4.0)
SHOWN = "table1152"


@in_house_style
def figure(at: pd.DataFrame, frame: pd.DataFrame) -> Figure:
    """Scores of tables at two times against their size, and one table's against time."""
    drawn = Figure(figsize=(8.6, 3.1), layout="constrained")
    *sizes, by_time = drawn.subplots(1, len(LIMITS) + 1, sharey=True)
    tables = at[at["case"].str.startswith("table")]
    for axes, limit in zip(sizes, LIMITS, strict=True):
        for method, (label, color, marker, line) in LOOKS.items():
            own = tables[(tables["method"] == method) & (tables["limit"] == limit)]
            by_size = own.groupby("size")["score"].agg(["median", "min", "max"])
            if len(by_size):
                spread = [by_size["median"] - by_size["min"], by_size["max"] - by_size["median"]]
                axes.errorbar(by_size.index, by_size["median"], yerr=spread, color=color,
                              marker=marker, ls=line, label=label, capsize=2)  # fmt: skip
        axes.set(xscale="log", xlabel="parameters", title=f"after {limit:g} s")
        axes.set_xticks(sorted(tables["size"].unique()))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    for method, (label, color, marker, line) in LOOKS.items():
        own = at[(at["case"] == SHOWN) & (at["method"] == method)]
        median = own.groupby("limit")["score"].median()
        by_time.plot(median.index, median, color=color, marker=marker, ls=line, label=label)
        if method == "then es" and len(own):
            of_it = (frame["case"] == SHOWN) & (frame["method"] == "relaxation")
            shift = frame[of_it]["compiling"].max()
            by_time.plot(median.index + shift, median, color=color, marker=marker, ls=":",
                         mfc="none", label="the same, with compiling")  # fmt: skip
    by_time.set(xscale="log", xlabel="seconds of a processor", title=CASES[SHOWN].label)
    by_time.xaxis.set_major_formatter("{x:g}")
    by_time.minorticks_off()
    sizes[0].set_ylabel("mean latency / that of H-SF")
    plots.legend_above(drawn, by_time, columns=2)
    return drawn


if __name__ == "__main__":
    main()
