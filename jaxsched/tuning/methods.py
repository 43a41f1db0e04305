"""What searches: the descent, and the baselines that it has to be better than at the same work.

A state is a pytree of numpy arrays that is all there is, and a step draws from a generator that is
seeded by its number alone. So a run that is taken up from a checkpoint goes on to the same bits.
"""

from __future__ import annotations

import itertools
import math
import zlib
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
import optax

from jaxsched.policies.family import FamilyParams
from jaxsched.policies.files import read_rule, rule_path
from jaxsched.tuning.config import TuneConfig
from jaxsched.tuning.estimators import estimator
from jaxsched.tuning.problem import Batch, Problem
from jaxsched.tuning.space import Coordinates, Floats, Space

MethodState = Any
"""A pytree of numpy arrays."""


class Step(NamedTuple):
    """What a step gives."""

    state: MethodState  # the next state
    incumbent: Floats  # the point that the method would name now, of shape [d]
    work: int  # requests simulated in the step


class Method(Protocol):
    """A way to search."""

    name: str  # as in the configuration
    label: str  # what it is called in tables
    steps: int  # how many steps it takes

    def init(self) -> MethodState:
        """The state before the first step."""

    def step(self, state: MethodState, step: int) -> Step:
        """The step of that number, counted from 0."""


def steps_for(work: float, each: int) -> int:
    """Steps of so much work each that come to `work`, at least one."""
    return max(1, round(work / each))


class _Search:
    """What all methods have: candidates, points of the space, and their scores."""

    name: str

    def __init__(self, config: TuneConfig, problem: Problem, space: Coordinates) -> None:
        self._config, self._problem, self._space = config, problem, space

    def _generator(self, step: int) -> np.random.Generator:
        seed = self._config.seed
        return np.random.default_rng([seed, zlib.crc32(self.name.encode()), step])

    def _scores(self, batch: Batch, points: Floats) -> Floats:
        """Mean scores of points, of shape [P]."""
        return self._problem.scores(batch, self._space.params(points)).mean(axis=1)

    def _best_starts(self, batch: Batch, rng: np.random.Generator) -> tuple[Floats, int]:
        """A_min, random points and known rules, the best first; the requests simulated for it."""
        starts = [self._space.origin[None], self._space.random(rng, self._config.descent.starts)]
        if self._config.serving:
            starts.append(self._space.hand_written())
        for text in self._config.begin:
            assert isinstance(self._space, Space)  # `TuneConfig` says so
            numbers = vars(read_rule(rule_path(text.removeprefix("tuned:"))).params)
            starts.append(self._space.clip(self._space.point(FamilyParams(**numbers))[None]))
        points = np.concatenate(starts)
        order = np.argsort(self._scores(batch, points), kind="stable")
        return points[order], self._problem.work(len(points))


class Descent(_Search):
    """An optax optimizer follows an estimated gradient, in a few chains side by side.

    Step 0 only chooses where to begin.
    """

    name = "descent"

    def __init__(self, config: TuneConfig, problem: Problem, space: Coordinates) -> None:
        super().__init__(config, problem, space)
        self._settings = settings = config.descent
        self.label = f"{settings.optimizer} on {settings.estimator}"
        self.steps = 1 + settings.steps
        self._gradient = estimator(settings, problem, space)
        self._optimizer = getattr(optax, settings.optimizer)(settings.scheduled("learning_rate"))

    def init(self) -> MethodState:
        """A_min for every chain, and the optimizer's own state."""
        z = np.tile(self._space.origin, (self._settings.chains, 1)).astype(np.float32)
        return jax.tree.map(np.asarray, (z, self._optimizer.init(z)))

    def step(self, state: MethodState, step: int) -> Step:
        """One step of the optimizer for every chain, brought back into the box."""
        rng, batch = self._generator(step), self._problem.fresh(step)
        if step == 0:
            points, work = self._best_starts(batch, rng)
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


GRID = {
    "admit_prompt": (0, 0.25, 1, 4),
    "admit_area": (0, 32, 1024),
    "reserve_factor": (0, 0.5, 1, 2),
    "evict_progress": (0, 1, 8, 64),
    "evict_prompt": (-0.25, 0, 0.25),
}
"""Values that are combined, 576 rules if all five are free; the other numbers stay as in A_min."""


class Screen(_Search):
    """Random search and the grid: candidates one after another, each scored once.

    All meet the same instances, those of step 0. The best since the last validation is the
    incumbent.
    """

    def __init__(
        self, config: TuneConfig, problem: Problem, space: Coordinates, name: str, work: float
    ) -> None:
        super().__init__(config, problem, space)
        self.name = name
        self.label = {"random": "random search", "grid": "grid"}[name]
        self._batch, self._count = problem.fresh(0), config.descent.candidates
        self.steps = steps_for(work, problem.work(self._count))
        self._grid: Floats | None = None
        if name == "grid":
            assert isinstance(space, Space)  # `TuneConfig` says so
            self._grid = _grid(space, self._generator(0))
            self.steps = min(self.steps, math.ceil(len(self._grid) / self._count))

    def init(self) -> MethodState:
        """No candidate yet."""
        return self._space.origin, np.array(np.inf)

    def step(self, state: MethodState, step: int) -> Step:
        """A few more candidates."""
        points = self._points(step)
        scores = self._scores(self._batch, points)
        point, score = self.init() if step % self._config.validate_every == 0 else state
        if scores.min() < score:
            point, score = points[np.argmin(scores)], np.array(scores.min())
        return Step((point, score), point, self._problem.work(len(points)))

    def _points(self, step: int) -> Floats:
        if self._grid is not None:
            return self._grid[step * self._count : (step + 1) * self._count]
        return self._space.random(self._generator(step), self._count)


def _grid(space: Space, rng: np.random.Generator) -> Floats:
    """Every combination, in random order, so that any part of it is spread over all of it."""
    free = [name for name in GRID if name in space.free]
    rules = itertools.product(*(GRID[name] for name in free))
    points = [space.point(FamilyParams(**dict(zip(free, rule, strict=True)))) for rule in rules]
    return rng.permutation(np.array(points))


class CmaEs(_Search):
    """CMA-ES: evolution strategies that adapt the covariance of their candidates.

    Hansen, "The CMA Evolution Strategy: A Tutorial", arXiv 1604.00772, with the constants given
    there. It begins as the descent does, and has as many candidates in a step. Candidates outside
    the box are scored where they meet it.
    """

    name = "cma_es"
    label = "CMA-ES"

    def __init__(
        self, config: TuneConfig, problem: Problem, space: Coordinates, work: float
    ) -> None:
        super().__init__(config, problem, space)
        d, count = space.size, config.descent.candidates
        self._count = count
        first = problem.work(1 + config.descent.starts)
        self.steps = 1 + steps_for(work - first, problem.work(count))
        self._mean_norm = math.sqrt(d) * (1 - 1 / (4 * d) + 1 / (21 * d**2))
        self._set_rates(d, count)

    def _set_rates(self, d: int, count: int) -> None:
        """Weights of the better half, and learning rates; table 1 of the tutorial."""
        weights = math.log((count + 1) / 2) - np.log(np.arange(1, count // 2 + 1))
        self._weights = weights / weights.sum()
        self._mass = mass = 1 / np.sum(self._weights**2)
        self._path = (4 + mass / d) / (d + 4 + 2 * mass / d)
        self._step_path = (mass + 2) / (d + mass + 5)
        self._rank_one = 2 / ((d + 1.3) ** 2 + mass)
        rank_many = 2 * (mass - 2 + 1 / mass) / ((d + 2) ** 2 + mass)
        self._rank_many = min(1 - self._rank_one, rank_many)
        self._damping = 1 + self._step_path
        self._damping += 2 * max(0.0, math.sqrt((mass - 1) / (d + 1)) - 1)

    def init(self) -> MethodState:
        """Mean, spread, covariance, and the two evolution paths."""
        d, sigma = self._space.size, np.array(self._config.descent.sigma[0])
        return self._space.origin, sigma, np.eye(d), np.zeros(d), np.zeros(d)

    def step(self, state: MethodState, step: int) -> Step:
        """One generation."""
        mean, sigma, covariance, path, step_path = state
        rng, batch = self._generator(step), self._problem.fresh(step)
        if step == 0:
            points, work = self._best_starts(batch, rng)
            mean = points[0]
            return Step((mean, sigma, covariance, path, step_path), mean, work)
        values, basis = np.linalg.eigh(covariance)
        widths = np.sqrt(np.maximum(values, 1e-20))
        moves = (rng.standard_normal((self._count, len(mean))) * widths) @ basis.T
        points = self._space.clip(mean + sigma * moves)
        order = np.argsort(self._scores(batch, points), kind="stable")
        chosen = moves[order[: len(self._weights)]]
        move = self._weights @ chosen
        mean = self._space.clip(mean + sigma * move)
        step_path = self._lengthen(step_path, self._step_path, basis @ ((basis.T @ move) / widths))
        norm = float(np.linalg.norm(step_path)) / self._mean_norm
        # A path that grew in one leap says nothing about the covariance.
        steady = norm < (1.4 + 2 / (len(mean) + 1)) * math.sqrt(
            1 - (1 - self._step_path) ** (2 * step)
        )
        path = self._lengthen(path, self._path, steady * move)
        covariance = self._adapt(covariance, path, chosen, steady)
        # Where the score is flat the spread would grow without end.
        sigma = np.minimum(sigma * np.exp(self._step_path / self._damping * (norm - 1)), 2.0)
        state = mean, sigma, covariance, path, step_path
        return Step(state, mean, self._problem.work(self._count))

    def _lengthen(self, path: Floats, rate: float, move: Floats) -> Floats:
        return (1 - rate) * path + math.sqrt(rate * (2 - rate) * self._mass) * move

    def _adapt(self, covariance: Floats, path: Floats, chosen: Floats, steady: bool) -> Floats:
        """The covariance, moved towards the path's and the chosen candidates'."""
        lost = 0.0 if steady else self._path * (2 - self._path)
        kept = 1 - self._rank_one * (1 - lost) - self._rank_many
        among = (chosen.T * self._weights) @ chosen
        return kept * covariance + self._rank_one * np.outer(path, path) + self._rank_many * among
