"""Samples of the gradient of E ln(mean latency) at a point z, by every estimator.

The objective is that of the exact simulator with z + SIGMA · noise in the place of z, as evolution
strategies see it. A sample costs a number of simulations of an instance: a relaxed one with its
derivative counts as one, and so does the exact one that lays out its steps.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax.perturbations
from jax import lax
from numpy.typing import NDArray

import jaxsched as js
from experiments.relaxation.cases import SPACE
from jaxsched.engines import soft as relaxation
from jaxsched.engines.soft.simulate import AT_ONCE
from jaxsched.tuning.config import DescentConfig
from jaxsched.tuning.estimators import along_guide

SIGMA = 0.2
"""Deviation of the noise, in z; the tuning ends with as much."""

STEPS = 48
"""Steps of the relaxation that follow the events."""

DRAWS = 4
"""Perturbations of an instance by optax."""

GUIDANCE = DescentConfig.guidance
"""Share of the noise along the guide."""

BATCHES = 4
"""Samples are taken in so many batches; the fastest one says what a sample takes."""

MAX_ROUNDS = 2**20

Vectors = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Samples:
    """Samples of a gradient.

    Attributes:
      values: Of shape [samples, d].
      work: Simulations of an instance that a sample takes.
      seconds: Processor time that it takes.
    """

    values: Vectors
    work: int
    seconds: float


def lanes_of(tree: js.Instance, index: NDArray[np.int64]) -> js.Instance:
    """The lanes with these indices, of an instance or a timeline."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)


def taken(sample: Callable[[NDArray[np.int64]], Vectors], lanes: int, work: int) -> Samples:
    """Samples for all lanes, a batch at a time."""
    values, seconds = [], []
    for index in np.split(np.arange(lanes), BATCHES):
        start = time.process_time()
        values.append(sample(index))
        seconds.append((time.process_time() - start) / len(index))
    return Samples(np.concatenate(values), work, min(seconds))


@jax.jit
def _scores(z: jax.Array, instance: js.Instance) -> jax.Array:
    def one(z: jax.Array, instance: js.Instance) -> jax.Array:
        policy = js.a_min_family(SPACE.params(z, jnp))
        return jnp.log(js.simulate(instance, policy, max_rounds=MAX_ROUNDS).mean_latency)

    return jax.vmap(one)(z, instance)


def scores(z: Vectors, instance: js.Instance) -> Vectors:
    """ln(mean latency) of lane i under the rule at z[i], of shape [lanes]."""
    found = np.asarray(_scores(SPACE.clip(z).astype(np.float32), instance), float)
    if not np.all(np.isfinite(found)):
        raise ValueError(f"a lane did not finish within {MAX_ROUNDS} rounds; expected all to")
    return found


def smoothed_differences(z: Vectors, instance: js.Instance, rng: np.random.Generator) -> Samples:
    """Central differences of ± SIGMA / 2 at z + SIGMA · noise, in every coordinate."""
    lanes, axes, step = len(instance.prompt), np.eye(len(z)), SIGMA / 2
    around = z + SIGMA * rng.standard_normal((lanes, len(z)))

    def sample(index: NDArray[np.int64]) -> Vectors:
        few = lanes_of(instance, index)
        both = [[scores(around[index] + s * step * e, few) for s in (1, -1)] for e in axes]
        return np.stack([(up - down) / (2 * step) for up, down in both], axis=-1)

    return taken(sample, lanes, 2 * len(z))


def evolution(z: Vectors, instance: js.Instance, rng: np.random.Generator) -> Samples:
    """Antithetic evolution strategies: (f(z + s e) - f(z - s e)) e / (2 s), an instance a pair."""
    lanes = len(instance.prompt)
    noise = rng.standard_normal((lanes, len(z)))
    return taken(lambda index: slopes(z, noise[index], lanes_of(instance, index)), lanes, 2)


def slopes(z: Vectors, noise: Vectors, instance: js.Instance) -> Vectors:
    """The samples of `evolution` for given noise, of shape [lanes, d]."""
    up, down = (scores(z + s * SIGMA * noise, instance) for s in (1, -1))
    return (up - down)[:, None] * noise / (2 * SIGMA)


def guided(z: Vectors, guide: Vectors, instance: js.Instance, rng: np.random.Generator) -> Vectors:
    """Samples of `evolution` with the noise of `combined` in the tuning."""
    noise = along_guide(rng, guide[None], len(instance.prompt), GUIDANCE)[:, 0]
    return slopes(z, noise, instance)


def controlled(
    z: Vectors, guide: Vectors, instance: js.Instance, rng: np.random.Generator
) -> Vectors:
    """`evolution` with a guide as control variate, one estimate of shape [d].

    Half of the pairs measure the slope b along the direction u of the guide, the others the rest:
    b u + mean of ((f(z + s e) - f(z - s e)) / (2 s) - b u · e) (e - (u · e) u). Whatever u is, it
    tends to what `evolution` does.
    """
    half, d = len(instance.prompt) // 2, len(z)
    u = guide / max(np.linalg.norm(guide), 1e-30)
    noise = rng.standard_normal((2 * half, d))
    length = noise @ u
    across = noise - length[:, None] * u
    along_guide, rest = np.split(np.arange(2 * half), 2)
    base = np.where(np.arange(2 * half)[:, None] < half, across, 0)
    up, down = (scores(z + SIGMA * (base + s * (noise - base)), instance) for s in (1, -1))
    slope = (up - down) / (2 * SIGMA)
    b = np.sum(slope[along_guide] * length[along_guide]) / np.sum(length[along_guide] ** 2)
    left = slope[rest] - b * length[rest]
    return b * u + np.mean(left[:, None] * across[rest], axis=0)


def score_function(z: Vectors, instance: js.Instance, rng: np.random.Generator) -> Samples:
    """Policy gradient: (f(z + s e) - mean of f over the others) e / s, once an instance."""
    lanes = len(instance.prompt)
    noise = rng.standard_normal((lanes, len(z)))

    def sample(index: NDArray[np.int64]) -> Vectors:
        found = scores(z + SIGMA * noise[index], lanes_of(instance, index))
        baseline = (found.sum() - found) / (len(found) - 1)
        return (found - baseline)[:, None] * noise[index] / SIGMA

    return taken(sample, lanes, 1)


def perturbed(z: Vectors, instance: js.Instance, seed: int) -> Samples:
    """`optax.perturbations` with normal noise: the mean of (f(z + s e) - f(z)) e / s over DRAWS."""

    def gradient(key: jax.Array, instance: js.Instance) -> jax.Array:
        def score(z: jax.Array) -> jax.Array:
            policy = js.a_min_family(SPACE.params(z, jnp))
            return jnp.log(js.simulate(instance, policy, max_rounds=MAX_ROUNDS).mean_latency)

        smooth = optax.perturbations.make_perturbed_fun(
            score, DRAWS, SIGMA, optax.perturbations.Normal()
        )
        return jax.grad(smooth, argnums=1)(key, jnp.asarray(z, jnp.float32))

    run = jax.jit(jax.vmap(gradient))
    keys = jax.random.split(jax.random.key(seed), len(instance.prompt))

    def sample(index: NDArray[np.int64]) -> Vectors:
        return np.asarray(run(keys[index], lanes_of(instance, index)), float)

    return taken(sample, len(instance.prompt), DRAWS + 1)


def pathwise(
    z: Vectors, instance: js.Instance, temperature: float, exact_gradient: bool = False
) -> Samples:
    """The gradient of the relaxation, on steps that follow the events of an exact simulation."""
    result = js.simulate(instance, js.a_min_family(jax.tree.map(float, SPACE.params(z))))
    timeline = relaxation.event_timeline(result, STEPS)
    return _relaxed(z, instance, temperature, timeline, exact_gradient)


def straight_through(z: Vectors, instance: js.Instance, temperature: float) -> Samples:
    """Derivatives of the relaxation along the decisions of the exact simulation."""
    policy = js.a_min_family(jax.tree.map(float, SPACE.params(z)))
    result = js.simulate(instance, policy, history=True)
    timeline = padded(relaxation.exact_timeline(instance, result), 256)
    return _relaxed(z, instance, temperature, timeline, False)


def padded(timeline: relaxation.Timeline, multiple: int) -> relaxation.Timeline:
    """Steps of no length up to a multiple, so that few programs are compiled."""
    more = -timeline.start.shape[1] % multiple
    return relaxation.Timeline(
        start=np.pad(timeline.start, ((0, 0), (0, more)), mode="edge"),
        length=np.pad(timeline.length, ((0, 0), (0, more))),
        admitted=np.pad(timeline.admitted, ((0, 0), (0, more), (0, 0))),
        evicted=np.pad(timeline.evicted, ((0, 0), (0, more), (0, 0))),
    )


def _relaxed(
    z: Vectors,
    instance: js.Instance,
    temperature: float,
    timeline: relaxation.Timeline,
    exact_gradient: bool,
) -> Samples:
    at = jnp.asarray(z, jnp.float32), jnp.float32(temperature)

    def sample(index: NDArray[np.int64]) -> Vectors:
        few = lanes_of(instance, index), lanes_of(timeline, index)
        return np.asarray(soft_gradients(*at, *few, exact_gradient=exact_gradient), float)

    return taken(sample, len(instance.prompt), 2)


@jax.jit(static_argnames="exact_gradient")
def soft_gradients(
    z: jax.Array,
    temperature: jax.Array,
    instance: js.Instance,
    timeline: relaxation.Timeline,
    exact_gradient: bool = False,
) -> jax.Array:
    """Gradients of ln(relaxed mean latency) at one point, [lanes, d], a few lanes at a time."""

    def score(z: jax.Array, of: tuple[js.Instance, relaxation.Timeline]) -> jax.Array:
        params = SPACE.params(z, jnp)
        soft = relaxation.soft_simulate(
            of[0], params, temperature, of[1], exact_gradient=exact_gradient
        )
        return jnp.log(soft.mean_latency)

    gradient = functools.partial(jax.grad(score), z)
    return lax.map(gradient, (instance, timeline), batch_size=AT_ONCE)
