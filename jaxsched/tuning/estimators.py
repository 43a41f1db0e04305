"""Gradients of the score at points of the space, by name.

"es" needs the exact simulator only; "relaxation" differentiates the soft one (docs/relaxation.md);
"combined" spreads the candidates of "es" more along the gradient of the relaxation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from jaxsched.engines.soft import Timeline, event_timeline, soft_simulate
from jaxsched.instance import Instance
from jaxsched.policies import Policy
from jaxsched.simulate import simulate
from jaxsched.tuning.config import DescentConfig
from jaxsched.tuning.problem import Batch, Problem
from jaxsched.tuning.space import Coordinates, Floats

GRADIENTS = " gradients 3"
"""Goes into the names of checkpoints: what the relaxation's gradients are changes with it."""


class Gradient(NamedTuple):
    """Estimated gradients."""

    value: Floats  # of shape [chains, d]
    scores: Floats  # how good each chain is, of shape [chains]; smaller is better
    work: int  # requests that were simulated for it


Estimator = Callable[[Floats, Batch, int, np.random.Generator], Gradient]


def from_pairs(
    problem: Problem,
    space: Coordinates,
    batch: Batch,
    z: Floats,
    noise: Floats,
    sigma: float,
) -> Gradient:
    """Gradients from antithetic pairs z ± sigma noise, with noise of shape [pairs, chains, d]."""
    around = space.clip(np.concatenate([z + sigma * noise, z - sigma * noise]))
    flat = problem.scores(batch, space.params(around.reshape(-1, z.shape[1])))
    scores = flat.reshape(*around.shape[:2], -1)
    up, down = np.split(ranked(scores).mean(axis=2), 2)
    value = ((up - down)[..., None] * noise).mean(axis=0) / (2 * sigma)
    return Gradient(value, scores.mean(axis=(0, 2)), problem.work(len(flat)))


def along_guide(rng: np.random.Generator, guide: Floats, pairs: int, share: float) -> Floats:
    """Noise of shape [pairs, chains, d] that leans along a guide of shape [chains, d].

    Guided evolution strategies, arXiv 1806.10230: sqrt(1 - a) e + sqrt(a d) u g / |g| with a the
    share, e and u standard normal. Where g is poor it costs variance, never the sign.
    """
    norm = np.linalg.norm(guide, axis=1, keepdims=True)
    direction = guide / np.where(norm > 0, norm, 1.0)
    noise = rng.standard_normal((pairs, *guide.shape))
    along = rng.standard_normal((pairs, len(guide), 1)) * direction
    return np.sqrt(1 - share) * noise + np.sqrt(share * guide.shape[1]) * along


def ranked(scores: Floats) -> Floats:
    """Ranks along the first axis, of length P, from -1/2 to 1/2.

    Those that tie, as candidates do whose numbers round to the same, share the mean of their ranks.
    """
    ranks = stats.rankdata(scores, axis=0, method="average") - 1
    return ranks / max(len(scores) - 1, 1) - 0.5


def relaxation(settings: DescentConfig, problem: Problem, space: Coordinates) -> Estimator:
    """The gradient of the mean of ln(soft latency) over the instances.

    Every chain is simulated exactly as well: the steps of the relaxation follow its events, and
    that is how good it is.
    """
    temperature = settings.scheduled("temperature")
    soft = _soft_gradient(space, problem.policy)

    def gradient(z: Floats, batch: Batch, step: int, rng: np.random.Generator) -> Gradient:
        values, scores = [], []
        for point in z:
            result = simulate(batch.instance, problem.policy(space.params(point)))
            timeline = event_timeline(result, settings.soft_steps)
            at = point.astype(np.float32), np.float32(temperature(step))
            values.append(np.asarray(soft(*at, batch.instance, timeline), float))
            scores.append(np.log(result.total_latency / batch.yardstick["mean"]).mean())
        # One exact and one soft simulation of every instance.
        return Gradient(np.array(values), np.array(scores), problem.work(2 * len(z)))

    return gradient


def combined(settings: DescentConfig, problem: Problem, space: Coordinates) -> Estimator:
    """Pairs as in "es", spread more along the gradient of the relaxation."""
    soft, sigma = relaxation(settings, problem, space), settings.scheduled("sigma")

    def gradient(z: Floats, batch: Batch, step: int, rng: np.random.Generator) -> Gradient:
        guide = soft(z, batch, step, rng)
        noise = along_guide(rng, guide.value, settings.pairs, settings.guidance)
        found = from_pairs(problem, space, batch, z, noise, float(sigma(step)))
        return found._replace(work=found.work + guide.work)

    return gradient


@functools.cache
def _soft_gradient(space: Coordinates, make: Callable[..., Policy]) -> Callable[..., jax.Array]:
    """(z, temperature, instance, timeline) -> gradient of shape [d]."""
    policy = make()

    def score(
        z: jax.Array, temperature: jax.Array, instance: Instance, timeline: Timeline
    ) -> jax.Array:
        result = soft_simulate(instance, space.params(z, jnp), temperature, timeline, policy=policy)
        return jnp.mean(jnp.log(result.mean_latency))

    return jax.jit(jax.grad(score))


def evolution(settings: DescentConfig, problem: Problem, space: Coordinates) -> Estimator:
    """Antithetic evolution strategies: the mean of (rank(z + s e) - rank(z - s e)) e / (2 s).

    Ranks among the candidates on each instance, from -1/2 to 1/2, rather than scores: a candidate
    that nearly stands still would outweigh all others (arXiv 1703.03864, section 2.1).
    """
    sigma = settings.scheduled("sigma")

    def gradient(z: Floats, batch: Batch, step: int, rng: np.random.Generator) -> Gradient:
        noise = rng.standard_normal((settings.pairs, *z.shape))
        return from_pairs(problem, space, batch, z, noise, float(sigma(step)))

    return gradient


def estimator(settings: DescentConfig, problem: Problem, space: Coordinates) -> Estimator:
    """The estimator that `settings` names."""
    known = {"es": evolution, "relaxation": relaxation, "combined": combined}
    return known[settings.estimator](settings, problem, space)
