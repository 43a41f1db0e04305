"""Gradients of the score at points of the space, by name.

"es" needs the exact simulator only; "relaxation" differentiates the soft one; "combined" spreads
the candidates of "es" more along the gradient of the relaxation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jaxsched.tuning.config import DescentConfig
from jaxsched.tuning.gradient import Estimator, Gradient, from_pairs
from jaxsched.tuning.problem import Batch, Problem
from jaxsched.tuning.space import Coordinates


def estimator(settings: DescentConfig, problem: Problem, space: Coordinates) -> Estimator:
    """The estimator that `settings` names."""
    if settings.estimator == "es":
        return evolution(settings, problem, space)
    from jaxsched.tuning import relaxed  # noqa: PLC0415 - of no use to the others

    return getattr(relaxed, settings.estimator)(settings, problem, space)


def evolution(settings: DescentConfig, problem: Problem, space: Coordinates) -> Estimator:
    """Antithetic evolution strategies: the mean of (rank(z + s e) - rank(z - s e)) e / (2 s).

    Ranks among the candidates on each instance, from -1/2 to 1/2, rather than scores: a candidate
    that nearly stands still would outweigh all others (arXiv 1703.03864, section 2.1).
    """
    sigma = settings.scheduled("sigma")

    def gradient(
        z: NDArray[np.float64], batch: Batch, step: int, rng: np.random.Generator
    ) -> Gradient:
        noise = rng.standard_normal((settings.pairs, *z.shape))
        return from_pairs(problem, space, batch, z, noise, float(sigma(step)))

    return gradient
