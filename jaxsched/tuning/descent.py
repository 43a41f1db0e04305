"""Descent: an optax optimizer follows an estimated gradient, in a few chains side by side."""

from __future__ import annotations

import jax
import numpy as np
import optax
from numpy.typing import NDArray

from jaxsched.tuning.config import TuneConfig
from jaxsched.tuning.estimators import estimator
from jaxsched.tuning.method import State, Step, generator
from jaxsched.tuning.problem import Batch, Problem
from jaxsched.tuning.space import Coordinates


class Descent:
    """The method "descent"; step 0 only chooses where to begin.

    Args:
      config: Its table [descent] and seed.
      problem: What to score candidates on.
      space: Where they lie.
    """

    name = "descent"

    def __init__(self, config: TuneConfig, problem: Problem, space: Coordinates) -> None:
        settings = config.descent
        self.label = f"{settings.optimizer} on {settings.estimator}"
        self.steps = 1 + settings.steps
        self._seed, self._settings = config.seed, settings
        self._problem, self._space = problem, space
        self._gradient = estimator(settings, problem, space)
        self._optimizer = getattr(optax, settings.optimizer)(settings.scheduled("learning_rate"))

    def init(self) -> State:
        """A_min for every chain, and the optimizer's own state."""
        z = np.tile(self._space.origin, (self._settings.chains, 1)).astype(np.float32)
        return jax.tree.map(np.asarray, (z, self._optimizer.init(z)))

    def step(self, state: State, step: int) -> Step:
        """One step of the optimizer for every chain, brought back into the box."""
        rng = generator(self._seed, self.name, step)
        batch = self._problem.fresh(step)
        if step == 0:
            starts = self._settings.starts
            points, work = best_starts(self._problem, self._space, batch, starts, rng)
            z = points[: self._settings.chains].astype(np.float32)
            return Step((z, state[1]), points[0], work)
        z, optimizer = state
        found = self._gradient(z.astype(float), batch, step - 1, rng)
        best = np.argmin(found.scores)
        # optax mixes dtypes, which JAX may have been told to refuse.
        with jax.numpy_dtype_promotion("standard"):
            gradient = found.value.astype(np.float32)
            updates, optimizer = self._optimizer.update(gradient, optimizer, z)
        z = self._space.clip(z + np.asarray(updates)).astype(np.float32)
        return Step(jax.tree.map(np.asarray, (z, optimizer)), z[best].astype(float), found.work)


def best_starts(
    problem: Problem, space: Coordinates, batch: Batch, count: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], int]:
    """A_min and `count` points anywhere, the best first, and the requests simulated for it."""
    points = np.concatenate([space.origin[None], space.random(rng, count)])
    scores = problem.scores(batch, space.params(points)).mean(axis=1)
    return points[np.argsort(scores, kind="stable")], problem.work(len(points))
