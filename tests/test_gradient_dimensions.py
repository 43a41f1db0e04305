"""Tables of `experiments.gradient_dimensions`: one policy in the engines and in the relaxation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import jaxsched as js
from experiments import gradient_dimensions as tables
from experiments.network_tuning import CONFIG

SMALL = dataclasses.replace(
    CONFIG, member="family", memory=3_000, num_requests=120, lanes=2, validation_lanes=4,
    lengths=dataclasses.replace(CONFIG.lengths, max_total=3_000),
)  # fmt: skip
RANGES = 3


@pytest.fixture(scope="module")
def problem() -> tables.TableProblem:
    return tables.TableProblem(SMALL, RANGES)


def test_cells_are_classes_and_ranges(problem: tables.TableProblem) -> None:
    instance = problem.fresh(0).instance
    cells = problem.cells(instance)
    assert np.array_equal(cells % tables.CLASSES, np.asarray(instance.lower) // tables.WIDTH)
    share = np.bincount((cells // tables.CLASSES).ravel(), minlength=RANGES) / cells.size
    np.testing.assert_allclose(share, 1 / RANGES, atol=0.15)
    order = np.argsort(np.ravel(instance.prompt))
    assert np.all(np.diff(np.ravel(cells // tables.CLASSES)[order]) >= 0)


def test_scores_are_those_of_the_policy_with_cells(problem: tables.TableProblem) -> None:
    batch, rng = problem.fresh(1), np.random.default_rng(0)
    found = 2 * rng.standard_normal((2, tables.CLASSES * RANGES))
    found[0] = 0
    scores = problem.scores(batch, found)
    a_min = js.simulate(batch.instance, js.a_min()).total_latency
    np.testing.assert_allclose(scores[0], np.log(a_min / batch.yardstick["mean"]))
    # `point` is at least 1 in an exact simulation.
    instance = batch.instance.replace(point=problem.cells(batch.instance) + 1)
    octaves = np.rint(tables.UNIT * np.pad(found[1], (1, 0))).astype(np.int32)
    policy = dataclasses.replace(tables.SOFT, params=octaves)
    total = js.simulate(instance, policy, engine="jax").total_latency
    np.testing.assert_allclose(scores[1], np.log(total / batch.yardstick["mean"]))
    assert not np.array_equal(scores[0], scores[1])


def test_a_step_along_the_relaxation_goes_downhill(problem: tables.TableProblem) -> None:
    settings = dataclasses.replace(tables.METHODS["relaxation"], soft_steps=32)
    space = tables.TableSpace(tables.CLASSES * RANGES)
    gradient = tables.table_relaxation(settings, problem, space)
    batch = problem.fresh(2)
    found = gradient(space.origin[None], batch, 0, np.random.default_rng(0)).value
    assert found.shape == (1, space.size) and np.all(np.isfinite(found))
    unseen = np.setdiff1d(np.arange(space.size), problem.cells(batch.instance))
    assert len(unseen) and np.all(found[0, unseen] == 0)
    points = np.concatenate([space.origin[None], -np.sign(found)])
    before, after = problem.scores(batch, points).mean(axis=1)
    assert after < before - 0.01
