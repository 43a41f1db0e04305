"""What an estimator of gradients is, and the gradient from antithetic pairs of candidates."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from jaxsched.tuning.problem import Batch, Problem
from jaxsched.tuning.space import Coordinates


class Gradient(NamedTuple):
    """Estimated gradients.

    Attributes:
      value: Of shape [chains, d].
      scores: How good each chain is, of shape [chains]; smaller is better.
      work: Requests that were simulated for it.
    """

    value: NDArray[np.float64]
    scores: NDArray[np.float64]
    work: int


Estimator = Callable[[NDArray[np.float64], Batch, int, np.random.Generator], Gradient]


def from_pairs(
    problem: Problem,
    space: Coordinates,
    batch: Batch,
    z: NDArray[np.float64],
    noise: NDArray[np.float64],
    sigma: float,
) -> Gradient:
    """Gradients from antithetic pairs z ± sigma noise, with noise of shape [pairs, chains, d]."""
    around = space.clip(np.concatenate([z + sigma * noise, z - sigma * noise]))
    flat = problem.scores(batch, space.params(around.reshape(-1, z.shape[1])))
    scores = flat.reshape(*around.shape[:2], -1)
    up, down = np.split(ranked(scores).mean(axis=2), 2)
    value = ((up - down)[..., None] * noise).mean(axis=0) / (2 * sigma)
    return Gradient(value, scores.mean(axis=(0, 2)), problem.work(len(flat)))


def along_guide(
    rng: np.random.Generator, guide: NDArray[np.float64], pairs: int, share: float
) -> NDArray[np.float64]:
    """Noise of shape [pairs, chains, d] that leans along a guide of shape [chains, d].

    Guided evolution strategies, arXiv 1806.10230: sqrt(1 - a) e + sqrt(a d) u g / |g| with a the
    share, e and u standard normal. Where g is poor it costs variance, never the sign.
    """
    norm = np.linalg.norm(guide, axis=1, keepdims=True)
    direction = guide / np.where(norm > 0, norm, 1.0)
    noise = rng.standard_normal((pairs, *guide.shape))
    along = rng.standard_normal((pairs, len(guide), 1)) * direction
    return np.sqrt(1 - share) * noise + np.sqrt(share * guide.shape[1]) * along


def ranked(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks along the first axis, of length P, from -1/2 to 1/2.

    Those that tie, as candidates do whose numbers round to the same, share the mean of their ranks.
    """
    ranks = stats.rankdata(scores, axis=0, method="average") - 1
    return ranks / max(len(scores) - 1, 1) - 0.5
