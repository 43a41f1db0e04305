"""How near relaxed totals come to exact ones, and their order to that of the rules, by steps.

Usage:

    python -m experiments.relaxation.totals
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from scipy import stats

import jaxsched as js
from experiments.relaxation.cases import SPACE, WORKLOADS, Workload
from jaxsched import relaxation
from jaxsched.report.tables import markdown

STEPS, TEMPERATURES = (32, 48, 64, 128), (0.3, 1.0)
RULES, LANES = 24, 16


def table(workload: Workload) -> pd.DataFrame:
    """Error of the mean latency of an instance, and rank correlation over rules at random."""
    rng, away = np.random.default_rng(11), len(SPACE.free)
    points = list(workload.points().values())
    points += [
        SPACE.clip(SPACE.origin + rng.uniform(-1.5, 1.5, away)) for _ in range(RULES - len(points))
    ]
    instance = workload.draw(LANES, seed=21)
    found = [js.simulate(instance, js.a_min_family(jax.tree.map(float, SPACE.params(z))))
             for z in points]  # fmt: skip
    exact = np.log([np.asarray(result.mean_latency, float) for result in found])
    rows = []
    for steps in STEPS:
        timelines = [relaxation.event_timeline(result, steps) for result in found]
        for t in TEMPERATURES:
            pairs = zip(points, timelines, strict=True)
            soft = np.log([_latency(z, t, instance, timeline) for z, timeline in pairs])
            error = np.abs(np.exp(soft - exact) - 1).mean()
            rank = stats.spearmanr(soft.mean(axis=1), exact.mean(axis=1)).statistic
            rows.append({"requests": workload.name, "S": steps, "T": t,
                         "error": error, "rank correlation": rank})  # fmt: skip
    return pd.DataFrame(rows)


def _latency(
    z: np.ndarray, temperature: float, instance: js.Instance, timeline: relaxation.Timeline
) -> np.ndarray:
    at = jnp.asarray(z, jnp.float32), jnp.float32(temperature), instance, timeline
    return np.asarray(_soft(*at).mean_latency, float)


@jax.jit
def _soft(
    z: jax.Array, temperature: jax.Array, instance: js.Instance, timeline: relaxation.Timeline
) -> relaxation.SoftResult:
    return relaxation.soft_simulate(instance, SPACE.params(z, jnp), temperature, timeline)


if __name__ == "__main__":
    print(markdown(pd.concat([table(workload) for workload in WORKLOADS]), 3))
