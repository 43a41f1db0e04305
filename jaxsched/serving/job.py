"""The serving job: latency against the rate of arrivals, for every policy and prediction.

The work is cut into points, one for each policy and prediction, as in `jaxsched.job`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jaxsched import clocks, metrics, policies, store
from jaxsched.bounds import busy_seconds_bound
from jaxsched.config import to_toml
from jaxsched.instance import Instance
from jaxsched.policies import Policy
from jaxsched.serving import frames, streams
from jaxsched.serving.config import ServingConfig, with_digest
from jaxsched.simulate import simulate

ANY = "any"
"""The prediction of rows of policies that read none."""


@dataclasses.dataclass(frozen=True)
class Point:
    """What is simulated, and kept, in one go: one policy under one prediction at all rates."""

    policy: Policy
    prediction: str

    @property
    def name(self) -> str:
        """Its name in the store."""
        prediction = self.prediction if self.policy.reads_predictions else ANY
        return f"{self.policy.name}-{prediction}".replace(":", "-").replace(",", "-")

    @property
    def label(self) -> str:
        """What it is called while it runs."""
        return f"{self.policy.name}, {self.prediction}"

    def cost(self, config: ServingConfig) -> int:
        """Requests that it simulates."""
        return config.num_requests * config.lanes * len(config.rates)


def points(config: ServingConfig) -> list[Point]:
    """All points of a job; a policy that reads no predictions has one."""
    chosen = [policies.policy(name) for name in config.policies]
    return [
        Point(policy, prediction)
        for policy in chosen
        for prediction in (config.predictions if policy.reads_predictions else [ANY])
    ]


def run(
    config: ServingConfig, folder: Path, on_point: Callable[[Point, bool], Any] = lambda *_: None
) -> pd.DataFrame:
    """Runs a job, or what is left of it, and returns its table.

    Args:
      config: What to run.
      folder: Where results go and earlier ones are found.
      on_point: Called as (point, finished) before a point is simulated and after it is there.

    Returns:
      One row per stream, rate, policy and prediction (see `jaxsched.serving.frames`; "any" is the
      prediction of policies that read none), which is also in `folder`/results.parquet.

    Raises:
      ValueError: If the folder holds results of another configuration, or the streams are refused.
    """
    config = with_digest(config)
    # Before there is a folder, so that streams which are refused leave nothing behind.
    drawn = {text: streams.draw(config, text) for text in config.predictions}
    drawn[ANY] = drawn[config.predictions[0]]
    kept = store.open_store(folder, to_toml(config))
    tables = []
    for point in points(config):
        if not kept.has(point.name):
            on_point(point, False)
            kept.write(point.name, simulate_point(config, point, drawn[point.prediction]))
        tables.append(kept.read(point.name))
        on_point(point, True)
    table = pd.concat(tables, ignore_index=True)
    kept.finish(table)
    return table


def simulate_point(config: ServingConfig, point: Point, unit: Instance) -> pd.DataFrame:
    """One row per rate and stream."""
    clock, energy = clocks.clock(config.clock), clocks.energy(config.clock)
    instance = streams.at_rates(unit, config.rates)
    result = simulate(instance, point.policy, clock=clock, max_batch=config.max_batch)
    found = metrics.serving(
        instance,
        result,
        clock,
        energy=energy,
        ttft_limit=config.ttft_limit,
        tpot_limit=config.tpot_limit,
    )
    busy = busy_seconds_bound(
        instance.prompt, instance.output, instance.memory, clock, max_batch=config.max_batch
    )
    return frames.serving_frame(
        instance,
        result,
        found,
        seed=config.seed,
        lane=np.tile(np.arange(config.lanes), len(config.rates)),
        clock=config.clock,
        rate=np.repeat(np.asarray(config.rates, np.float64), config.lanes),
        policy=point.policy.name,
        prediction=point.prediction,
        rate_bound=config.num_requests / busy,
        drain=frames.drain_seconds(instance, clock),
    )
