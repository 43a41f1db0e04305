"""Random search and a coarse grid: what a descent has to be better than, at the same work."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from jaxsched.policies.family import FamilyParams
from jaxsched.tuning.config import TuneConfig
from jaxsched.tuning.method import State, Step, generator, steps_for
from jaxsched.tuning.problem import Problem
from jaxsched.tuning.space import Coordinates, Space

GRID = {
    "admit_prompt": (0, 0.25, 1, 4),
    "admit_area": (0, 32, 1024),
    "reserve_factor": (0, 0.5, 1, 2),
    "evict_progress": (0, 1, 8, 64),
    "evict_prompt": (-0.25, 0, 0.25),
}
"""Values that are combined, 576 rules if all five are free; the other numbers stay as in A_min."""


class Screen:
    """Random search and the grid: candidates one after another, each scored once.

    All meet the same instances, those of step 0. The best since the last validation is the
    incumbent.
    """

    def __init__(
        self, config: TuneConfig, problem: Problem, space: Coordinates, name: str, work: float
    ) -> None:
        self.name = name
        self.label = {"random": "random search", "grid": "grid"}[name]
        self._seed, self._every = config.seed, config.validate_every
        self._problem, self._space = problem, space
        self._batch, self._count = problem.fresh(0), config.descent.candidates
        self.steps = steps_for(work, problem.work(self._count))
        self._grid = None if name == "random" else _grid(space, generator(config.seed, name, 0))
        if self._grid is not None:
            self.steps = min(self.steps, math.ceil(len(self._grid) / self._count))

    def init(self) -> State:
        """No candidate yet."""
        return self._space.origin, np.array(np.inf)

    def step(self, state: State, step: int) -> Step:
        """A few more candidates."""
        points = self._points(step)
        scores = self._problem.scores(self._batch, self._space.params(points)).mean(axis=1)
        point, score = self.init() if step % self._every == 0 else state
        if scores.min() < score:
            point, score = points[np.argmin(scores)], np.array(scores.min())
        return Step((point, score), point, self._problem.work(len(points)))

    def _points(self, step: int) -> NDArray[np.float64]:
        if self._grid is not None:
            return self._grid[step * self._count : (step + 1) * self._count]
        return self._space.random(generator(self._seed, self.name, step), self._count)


def _grid(space: Space, rng: np.random.Generator) -> NDArray[np.float64]:
    """Every combination, in random order, so that any part of it is spread over all of it."""
    free = [name for name in GRID if name in space.free]
    rules = itertools.product(*(GRID[name] for name in free))
    points = [space.point(FamilyParams(**dict(zip(free, rule, strict=True)))) for rule in rules]
    return rng.permutation(np.array(points))
