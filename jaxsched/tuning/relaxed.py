"""Estimators that differentiate the relaxed simulator (see docs/relaxation.md)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxsched.engines.soft import (
    A_MIN_FAMILY,
    A_MIN_NETWORK,
    Timeline,
    event_timeline,
    soft_simulate,
)
from jaxsched.instance import Instance
from jaxsched.simulate import simulate
from jaxsched.tuning.config import DescentConfig
from jaxsched.tuning.gradient import Estimator, Gradient, along_guide, from_pairs
from jaxsched.tuning.problem import Batch, Problem
from jaxsched.tuning.space import Coordinates

SOFT = {"family": A_MIN_FAMILY, "network": A_MIN_NETWORK}
"""`TuneConfig.member` -> the relaxed policy."""


def relaxation(settings: DescentConfig, problem: Problem, space: Coordinates) -> Estimator:
    """The gradient of the mean of ln(soft latency) over the instances.

    Every chain is simulated exactly as well: the steps of the relaxation follow its events, and
    that is how good it is.
    """
    temperature = settings.scheduled("temperature")
    soft = _soft_gradient(space, problem.config.member)

    def gradient(
        z: NDArray[np.float64], batch: Batch, step: int, rng: np.random.Generator
    ) -> Gradient:
        values, scores = [], []
        for point in z:
            result = simulate(batch.instance, problem.policy(space.params(point)))
            timeline = event_timeline(result, settings.soft_steps)
            at = point.astype(np.float32), np.float32(temperature(step))
            values.append(np.asarray(soft(*at, batch.instance, timeline), float))
            scores.append(np.log(result.total_latency / batch.yardstick).mean())
        # One exact and one soft simulation of every instance.
        return Gradient(np.array(values), np.array(scores), problem.work(2 * len(z)))

    return gradient


def combined(settings: DescentConfig, problem: Problem, space: Coordinates) -> Estimator:
    """Pairs as in "es", spread more along the gradient of the relaxation."""
    soft, sigma = relaxation(settings, problem, space), settings.scheduled("sigma")

    def gradient(
        z: NDArray[np.float64], batch: Batch, step: int, rng: np.random.Generator
    ) -> Gradient:
        guide = soft(z, batch, step, rng)
        noise = along_guide(rng, guide.value, settings.pairs, settings.guidance)
        found = from_pairs(problem, space, batch, z, noise, float(sigma(step)))
        return found._replace(work=found.work + guide.work)

    return gradient


@functools.cache
def _soft_gradient(space: Coordinates, member: str) -> Callable[..., jax.Array]:
    """(z, temperature, instance, timeline) -> gradient of shape [d]."""

    def score(
        z: jax.Array, temperature: jax.Array, instance: Instance, timeline: Timeline
    ) -> jax.Array:
        params, policy = space.params(z, jnp), SOFT[member]
        result = soft_simulate(instance, params, temperature, timeline, policy=policy)
        return jnp.mean(jnp.log(result.mean_latency))

    return jax.jit(jax.grad(score))
