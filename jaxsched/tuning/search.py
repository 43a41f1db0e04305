"""A whole tuning: every method, the rule that comes of it, and its scores on the test instances."""

from __future__ import annotations

import dataclasses
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
from jaxsched.simulate import simulate
from jaxsched.studies import store
from jaxsched.studies.frames import half_width
from jaxsched.studies.store import Store
from jaxsched.tuning import loop, rules
from jaxsched.tuning.config import TuneConfig
from jaxsched.tuning.estimators import GRADIENTS
from jaxsched.tuning.loop import OnStep, Progress
from jaxsched.tuning.methods import CmaEs, Descent, Method, Screen
from jaxsched.tuning.problem import Problem
from jaxsched.tuning.space import Coordinates, NetworkSpace, Space, lanes_of

AGAINST = ("h_sf", "a_min:on_eviction", "a_min:every_round")
"""Policies that a rule is compared with."""

WRITTEN = "as written"
"""Method name of the rule that goes into the file."""


@dataclasses.dataclass(frozen=True)
class Found:
    """What a tuning found."""

    rule: Path  # path of the rule's file
    # One row per method, and one for the rule as written: method, label, steps, work, seconds,
    # validation (mean ratio to h_sf)
    methods: pd.DataFrame
    # One row per method, prediction and test instance: mean latency, and its ratio to each policy
    # of `AGAINST`
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
    rules.write_rule(folder / f"{name}.toml", written, origin, tuple(_scores(tests)))
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
    total = problem.latencies(batch, lanes_of(list(tried.values())))
    each, lanes = total.shape[1], config.test_lanes
    frame = pd.DataFrame(
        {
            "method": np.repeat(list(tried), each),
            "prediction": np.tile(np.repeat(config.predictions, lanes), len(tried)),
            "lane": np.tile(np.arange(lanes), len(tried) * len(config.predictions)),
            "mean_latency": total.ravel() / config.num_requests,
        }
    )
    for name in AGAINST:
        other = simulate(batch.instance, policies.policy(name)).total_latency
        frame[f"ratio_to_{name}"] = (total / other).ravel()
    return frame


def _scores(tests: pd.DataFrame) -> Iterator[Score]:
    """The scores that go into the rule's file."""
    written = tests[tests["method"] == WRITTEN]
    for prediction, rows in written.groupby("prediction", sort=False):
        for name in AGAINST:
            ratio = rows[f"ratio_to_{name}"]
            mean, half = round(float(ratio.mean()), 4), round(half_width(ratio), 4)
            yield Score(str(prediction), name, mean, half, len(ratio))


def _curve(method: Method, progress: Progress) -> pd.DataFrame:
    frame = pd.DataFrame(progress.curve, columns=["work", "incumbent", "best"])
    frame[["incumbent", "best"]] = np.exp(frame[["incumbent", "best"]])
    frame.insert(0, "label", method.label)
    frame.insert(0, "method", method.name)
    return frame
