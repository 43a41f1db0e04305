"""CMA-ES: evolution strategies that adapt the covariance of their candidates, as a baseline.

Hansen, "The CMA Evolution Strategy: A Tutorial", arXiv 1604.00772, with the constants given there.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from jaxsched.tuning.config import TuneConfig
from jaxsched.tuning.descent import best_starts
from jaxsched.tuning.method import State, Step, generator, steps_for
from jaxsched.tuning.problem import Problem
from jaxsched.tuning.space import Coordinates

WIDEST = 2.0
"""Largest spread of the candidates."""


class CmaEs:
    """The method "cma_es".

    It begins as the descent does, and has as many candidates in a step. Candidates outside the box
    are scored where they meet it.
    """

    name = "cma_es"
    label = "CMA-ES"

    def __init__(
        self, config: TuneConfig, problem: Problem, space: Coordinates, work: float
    ) -> None:
        d, count = space.size, config.descent.candidates
        self._seed, self._starts = config.seed, config.descent.starts
        self._sigma, self._count = config.descent.sigma[0], count
        self._problem, self._space = problem, space
        first = problem.work(1 + self._starts)
        self.steps = 1 + steps_for(work - first, problem.work(count))
        self._mean_norm = math.sqrt(d) * (1 - 1 / (4 * d) + 1 / (21 * d**2))
        self._set_rates(d, count)

    def _set_rates(self, d: int, count: int) -> None:
        """Weights of the better half, and learning rates; table 1 of the tutorial."""
        half = count // 2
        weights = math.log((count + 1) / 2) - np.log(np.arange(1, half + 1))
        self._weights = weights / weights.sum()
        mass = 1 / np.sum(self._weights**2)
        self._mass = mass
        self._path = (4 + mass / d) / (d + 4 + 2 * mass / d)
        self._step_path = (mass + 2) / (d + mass + 5)
        self._rank_one = 2 / ((d + 1.3) ** 2 + mass)
        rank_many = 2 * (mass - 2 + 1 / mass) / ((d + 2) ** 2 + mass)
        self._rank_many = min(1 - self._rank_one, rank_many)
        self._damping = 1 + self._step_path
        self._damping += 2 * max(0.0, math.sqrt((mass - 1) / (d + 1)) - 1)

    def init(self) -> State:
        """Mean, spread, covariance, and the two evolution paths."""
        d = self._space.size
        return self._space.origin, np.array(self._sigma), np.eye(d), np.zeros(d), np.zeros(d)

    def step(self, state: State, step: int) -> Step:
        """One generation."""
        mean, sigma, covariance, path, step_path = state
        rng, batch = generator(self._seed, self.name, step), self._problem.fresh(step)
        if step == 0:
            points, work = best_starts(self._problem, self._space, batch, self._starts, rng)
            mean = points[0]
            return Step((mean, sigma, covariance, path, step_path), mean, work)
        values, basis = np.linalg.eigh(covariance)
        widths = np.sqrt(np.maximum(values, 1e-20))
        moves = (rng.standard_normal((self._count, len(mean))) * widths) @ basis.T
        points = self._space.clip(mean + sigma * moves)
        scores = self._problem.scores(batch, self._space.params(points)).mean(axis=1)
        chosen = moves[np.argsort(scores, kind="stable")[: len(self._weights)]]
        move = self._weights @ chosen
        mean = self._space.clip(mean + sigma * move)
        step_path = self._lengthen(step_path, self._step_path, basis @ ((basis.T @ move) / widths))
        norm = np.linalg.norm(step_path) / self._mean_norm
        # A path that grew in one leap says nothing about the covariance.
        steady = norm < (1.4 + 2 / (len(mean) + 1)) * math.sqrt(
            1 - (1 - self._step_path) ** (2 * step)
        )
        path = self._lengthen(path, self._path, steady * move)
        covariance = self._adapt(covariance, path, chosen, steady)
        # Where the score is flat the spread would grow without end.
        sigma = np.minimum(sigma * np.exp(self._step_path / self._damping * (norm - 1)), WIDEST)
        state = mean, sigma, covariance, path, step_path
        return Step(state, mean, self._problem.work(self._count))

    def _lengthen(
        self, path: NDArray[np.float64], rate: float, move: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        return (1 - rate) * path + math.sqrt(rate * (2 - rate) * self._mass) * move

    def _adapt(
        self,
        covariance: NDArray[np.float64],
        path: NDArray[np.float64],
        chosen: NDArray[np.float64],
        steady: bool,
    ) -> NDArray[np.float64]:
        """The covariance, moved towards the path's and the chosen candidates'."""
        lost = 0.0 if steady else self._path * (2 - self._path)
        kept = 1 - self._rank_one * (1 - lost) - self._rank_many
        among = (chosen.T * self._weights) @ chosen
        return kept * covariance + self._rank_one * np.outer(path, path) + self._rank_many * among
