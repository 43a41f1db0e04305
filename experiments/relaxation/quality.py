"""How near estimates come to the gradient of the exact objective, at equal simulated work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

import jaxsched as js
from experiments.relaxation import estimators as by
from experiments.relaxation.cases import SPACE, Workload
from experiments.relaxation.estimators import Samples, Vectors

TRUTH, BLACK_BOX, RELAXED = 16_384, 8192, 64
"""Instances for the truth, for estimators on the exact simulator, and for the relaxation."""

BUDGETS = 4 ** np.arange(1, 6)
"""Simulations of an instance that an estimate may take."""

WORK = 64
"""The one for the table."""

REPETITIONS = 100

TEMPERATURES = (0.1, 0.3, 1.0, 3.0)

Estimate = Callable[[int, np.random.Generator], Vectors]
"""(simulations, generator) -> an estimated gradient of shape [d]."""


@dataclasses.dataclass(frozen=True)
class Estimator:
    """How a gradient is estimated at one point.

    Attributes:
      name: In tables and figures.
      samples: A pool, whose mean is what the estimator tends to; of a combination, estimates of
        much work.
      estimate: An estimate of given work.
      most: Work that the pool is enough for, half of it at a time.
    """

    name: str
    samples: Samples
    estimate: Estimate
    most: int


def tables(
    workload: Workload, point: str, z: Vectors, advance: Callable[[], None]
) -> dict[str, pd.DataFrame]:
    """Estimators, their cosines against work, and their coordinates, at one point."""
    rng = np.random.default_rng(0)
    true = by.smoothed_differences(z, workload.draw(TRUTH, seed=1), rng).values
    truth, error = true.mean(axis=0), true.std(axis=0) / np.sqrt(TRUTH)
    advance()
    found: dict[str, list[dict[str, object]]] = {"estimators": [], "work": [], "coordinates": []}
    for estimator in _estimators(workload, z, rng):
        case = {"workload": workload.name, "point": point, "estimator": estimator.name}
        by_work = _at_budgets(estimator, rng)
        for work, values in by_work.items():
            seconds = {"seconds": work / estimator.samples.work * estimator.samples.seconds}
            found["work"].append(case | {"work": work} | seconds | _cosines(values, truth))
        summary, coordinates = _summary(estimator.samples, by_work[WORK], truth, error)
        found["estimators"].append(case | summary)
        found["coordinates"] += [case | row for row in coordinates]
        advance()
    return {name: pd.DataFrame(rows) for name, rows in found.items()}


ADVANCES = 15
"""Calls of `advance` in `tables`."""


def _estimators(workload: Workload, z: Vectors, rng: np.random.Generator) -> Iterator[Estimator]:
    few, many = workload.draw(RELAXED, seed=2), workload.draw(BLACK_BOX, seed=3)
    soft = {}
    for t in TEMPERATURES:
        soft[t] = by.pathwise(z, few, t)
        yield _mean(f"relaxation, T = {t:g}", soft[t])
    for t in (0.3, 1.0):
        yield _mean(f"relaxation, T = {t:g}, clipped", soft[t], clipped)
    yield _mean("relaxation, T = 0.3, undamped", by.pathwise(z, few, 0.3, exact_gradient=True))
    through = by.straight_through(z, few, 0.3)
    yield _mean("straight-through", through)
    yield _mean("straight-through, clipped", through, clipped)
    pairs = by.evolution(z, many, rng)
    yield _mean("antithetic ES", pairs)
    part = by.lanes_of(many, np.arange(BLACK_BOX // 8))
    yield _mean("perturbed (optax)", by.perturbed(z, part, seed=4))
    yield _mean("score function", by.score_function(z, many, rng))
    yield _combined("guided ES", z, soft[1.0], pairs, many, _guided)
    yield _combined("ES and relaxation", z, soft[1.0], pairs, many, by.controlled)


def clipped(values: Vectors) -> Vectors:
    """Samples of more than twice the median norm, brought down to that."""
    norm = np.linalg.norm(values, axis=1, keepdims=True)
    return values * np.minimum(1, 2 * np.median(norm) / np.maximum(norm, 1e-30))


def _mean(
    name: str, samples: Samples, change: Callable[[Vectors], Vectors] = np.asarray
) -> Estimator:
    """The mean of as many samples as the work is enough for, after a change to them."""

    def estimate(work: int, rng: np.random.Generator) -> Vectors:
        chosen = rng.choice(len(samples.values), work // samples.work, replace=False)
        return change(samples.values[chosen]).mean(axis=0)

    pool = dataclasses.replace(samples, values=change(samples.values))
    return Estimator(name, pool, estimate, len(samples.values) * samples.work // 2)


Combine = Callable[[Vectors, Vectors, js.Instance, np.random.Generator], Vectors]
"""(z, guide, instances for pairs, generator) -> an estimate of shape [d]."""


def _guided(z: Vectors, guide: Vectors, instance: js.Instance, rng: np.random.Generator) -> Vectors:
    return by.guided(z, guide, instance, rng).mean(axis=0)


def _combined(
    name: str, z: Vectors, soft: Samples, pairs: Samples, many: js.Instance, combine: Combine
) -> Estimator:
    """Half of the work for a guide from the relaxation, half for pairs."""
    work = soft.work + pairs.work

    def estimate(budget: int, rng: np.random.Generator) -> Vectors:
        count = budget // work
        guide = clipped(soft.values[rng.choice(RELAXED, count, replace=False)]).mean(axis=0)
        chosen = by.lanes_of(many, rng.choice(BLACK_BOX, count, replace=False))
        return combine(z, guide, chosen, rng)

    guide, rng = clipped(soft.values).mean(axis=0), np.random.default_rng(5)
    parts = np.split(np.arange(BLACK_BOX), 16)
    values = np.array([combine(z, guide, by.lanes_of(many, part), rng) for part in parts])
    pool = Samples(values, work, soft.seconds + pairs.seconds)
    return Estimator(name, pool, estimate, RELAXED * work // 2)


def _at_budgets(estimator: Estimator, rng: np.random.Generator) -> dict[int, Vectors]:
    """Work -> estimates of shape [REPETITIONS, d]."""
    return {
        int(work): np.array([estimator.estimate(int(work), rng) for _ in range(REPETITIONS)])
        for work in BUDGETS
        if 2 * estimator.samples.work <= work <= estimator.most
    }


def _summary(
    samples: Samples, estimates: Vectors, truth: Vectors, error: Vectors
) -> tuple[dict[str, object], list[dict[str, object]]]:
    """One row for the estimator, and one for every coordinate."""
    mean, square = samples.values.mean(axis=0), np.sum(truth**2)
    clear = np.abs(truth) > 3 * error
    agree = np.mean(np.sign(estimates) == np.sign(truth), axis=0)
    row = {
        "cosine_of_pool": cosine(mean, truth),
        **_cosines(estimates, truth),
        "signs": float(agree[clear].mean()),
        "clear_signs": int(clear.sum()),
        "norm_ratio": float(np.linalg.norm(mean) / np.sqrt(square)),
        "variance": float(estimates.var(axis=0).sum() / square),
        "largest_over_median": float(np.divide(*np.quantile(_norms(samples.values), (1, 0.5)))),
        "samples": len(samples.values),
        "work": samples.work,
        "milliseconds": 1e3 * samples.seconds,
    }
    columns = zip(SPACE.free, mean, truth, error, agree, clear, strict=True)
    names = ("coordinate", "mean", "truth", "error", "sign_agreement", "clear")
    return row, [dict(zip(names, values, strict=True)) for values in columns]


def _cosines(estimates: Vectors, truth: Vectors) -> dict[str, float]:
    """Mean over the estimates, and the range of nine tenths of them."""
    cosines = np.array([cosine(estimate, truth) for estimate in estimates])
    low, high = np.quantile(cosines, (0.05, 0.95))
    return {"cosine": float(cosines.mean()), "low": float(low), "high": float(high)}


def cosine(a: Vectors, b: Vectors) -> float:
    """Of the angle between two vectors; 0 if one is 0."""
    product = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / product if product > 0 else 0.0


def _norms(values: Vectors) -> Vectors:
    return np.linalg.norm(values, axis=1)
