"""A whole tuning: every method, the rule that comes of it, and its scores on the test instances."""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from jaxsched import policies, toml
from jaxsched._version import __version__
from jaxsched.policies.files import Score
from jaxsched.studies import store
from jaxsched.studies.frames import half_width, missed
from jaxsched.studies.store import Store
from jaxsched.tuning import loop, rules
from jaxsched.tuning.config import TuneConfig
from jaxsched.tuning.estimators import GRADIENTS
from jaxsched.tuning.loop import OnStep, Progress
from jaxsched.tuning.methods import CmaEs, Descent, Method, Screen
from jaxsched.tuning.problem import Problem
from jaxsched.tuning.space import Coordinates, NetworkSpace, Space, lanes_of

RATIOS = {"mean": "ratio", "p99": "p99", "attainment": "missed"}
"""Measure -> the first word of columns that hold its ratios."""

WRITTEN = "as written"
"""Method name of the rule that goes into the file."""


@dataclasses.dataclass(frozen=True)
class Found:
    """What a tuning found."""

    rule: Path  # path of the rule's file
    # One row per method, and one for the rule as written: method, label, steps, work, seconds,
    # validation (mean score, as a ratio to the yardstick)
    methods: pd.DataFrame
    # One row per method, prediction, load and test instance: measures, their ratios to each policy
    # of `TuneConfig.against`, and the score as a ratio
    tests: pd.DataFrame
    # One row per method and validation: work, and the ratio of incumbent and best
    curves: pd.DataFrame


def space_of(config: TuneConfig) -> Coordinates:
    """Where a configuration searches."""
    return NetworkSpace(config.seed) if config.member == "network" else Space(config.free)


def methods(config: TuneConfig, problem: Problem, space: Coordinates) -> list[Method]:
    """The methods that a configuration names, the descent first."""
    descent = Descent(config, problem, space)
    each = problem.work(config.descent.candidates)
    total = problem.work(1 + config.descent.starts) + config.descent.steps * each
    work = total * config.baseline_work
    make: dict[str, Callable[[], Method]] = {
        "descent": lambda: descent,
        "cma_es": lambda: CmaEs(config, problem, space, work),
        "random": lambda: Screen(config, problem, space, "random", work),
        "grid": lambda: Screen(config, problem, space, "grid", work),
    }
    return [make[name]() for name in sorted(config.methods, key=list(make).index)]


def run_search(
    config: TuneConfig, problem: Problem, chosen: list[Method], folder: Path, on_step: OnStep
) -> Found:
    """Runs what is left of a tuning and writes the rule of the best validation.

    Everything goes into the folder, where checkpoints of the same configuration are taken up.
    `on_step` is called as (method, progress) after every step.
    """
    text = toml.to_toml(config)
    kept = store.open_store(folder, text)
    with store.alone(folder):
        return _run(config, problem, chosen, kept, on_step)


def _run(
    config: TuneConfig, problem: Problem, chosen: list[Method], kept: Store, on_step: OnStep
) -> Found:
    space, folder, text = space_of(config), kept.folder, kept.metadata["config"]
    # A folder may hold checkpoints of another configuration or version as well.
    version = f"{__version__}{'' if config.descent.estimator == 'es' else GRADIENTS}"
    stamp = f"{zlib.crc32((version + text).encode()):08x}"
    folders = {method: folder / "checkpoints" / stamp / method.name for method in chosen}
    for each in folders.values():  # before hours of work, not after
        loop.check(each)
    found = {
        method.name: loop.run_method(config, problem, space, method, each, on_step)
        for method, each in folders.items()
    }
    best = min(chosen, key=lambda method: float(found[method.name].score))
    written = _rule(space, found[best.name])
    if config.member == "family":
        written = rules.readable(problem, written)
    tried = {name: _rule(space, progress) for name, progress in found.items()}
    tried[WRITTEN] = written
    rows, tests = _method_rows(problem, chosen, found, written), _test_rows(problem, tried)
    curves = pd.concat([_curve(method, found[method.name]) for method in chosen])
    name = folder.resolve().name.removeprefix("tune_") or "rule"
    origin = rules.origin(config, best.label, int(found[best.name].work))
    rules.write_rule(folder / f"{name}.toml", written, origin, tuple(_scores(config, tests)))
    for table, title in ((rows, "methods"), (tests, "results"), (curves, "curves")):
        kept.finish(table.reset_index(drop=True), title)
    return Found(folder / f"{name}.toml", rows, tests, curves)


def _rule(space: Coordinates, progress: Progress) -> Any:
    """The numbers of the best rule of a method."""
    return jax.tree.map(np.asarray, space.params(progress.best))


def _method_rows(
    problem: Problem, chosen: list[Method], found: dict[str, Progress], written: Any
) -> pd.DataFrame:
    rows = [
        {
            "method": method.name,
            "label": method.label,
            "steps": method.steps,
            "work": int(found[method.name].work),
            "seconds": float(found[method.name].seconds),
            "validation": float(np.exp(found[method.name].score)),
        }
        for method in chosen
    ]
    score = problem.scores(problem.validation, lanes_of([written])).mean()
    last = {"method": WRITTEN, "label": WRITTEN, "validation": float(np.exp(score))}
    return pd.DataFrame([*rows, last])


def _test_rows(problem: Problem, tried: dict[str, Any]) -> pd.DataFrame:
    """One row per rule, prediction and test instance, in this order."""
    batch, config = problem.test, problem.config
    instance, lanes = batch.instance, config.test_lanes
    others = {name: problem.run(instance, policies.policy(name)) for name in config.against}
    known = {name: problem.measures(instance, other) for name, other in others.items()}
    first = config.against[0]
    best = problem.tail(instance, others[first], known[first])
    settings = pd.DataFrame(problem.settings).loc[np.repeat(range(len(problem.settings)), lanes)]
    parts = []
    for method, params in tried.items():
        policy = problem.policy(params)
        result = problem.run(instance, policy, problem.last_round)
        found = problem.measures(instance, result)
        part = {
            "mean_latency": found["mean"] / (1 if config.serving else config.num_requests),
            **{
                f"{RATIOS[measure]}_to_{name}": found[measure] / other[measure]
                for measure, (name, other) in itertools.product(found, known.items())
            },
            **problem.tail(instance, result, found),
            **{f"{name}_of_{first}": values for name, values in best.items()},
            "missed": missed(instance, policy),
            "score": np.exp(problem.compared(found, batch.yardstick)),
        }
        frame = settings.assign(lane=np.tile(np.arange(lanes), len(problem.settings)), **part)
        frame.insert(0, "method", method)
        parts.append(frame)
    frame = pd.concat(parts, ignore_index=True)
    return frame if config.serving else frame.drop(columns=["load", "score"])


def _scores(config: TuneConfig, tests: pd.DataFrame) -> Iterator[Score]:
    """The scores that go into the rule's file."""
    written = tests[tests["method"] == WRITTEN]
    by = ["prediction", "load"] if "load" in written else ["prediction"]
    for (prediction, *load), rows in written.groupby(by, sort=False):
        against = config.against[:1] if config.serving else config.against
        for name, (measure, column) in itertools.product(against, RATIOS.items()):
            if (title := f"{column}_to_{name}") in rows:
                ratio = rows[title]
                mean, half = round(float(ratio.mean()), 4), round(half_width(ratio), 4)
                about = {"measure": measure, "load": (load or [0.0])[0]}
                yield Score(prediction, name, mean, half, len(ratio), **about)


def _curve(method: Method, progress: Progress) -> pd.DataFrame:
    frame = pd.DataFrame(progress.curve, columns=["work", "incumbent", "best"])
    frame[["incumbent", "best"]] = np.exp(frame[["incumbent", "best"]])
    frame.insert(0, "label", method.label)
    frame.insert(0, "method", method.name)
    return frame
