"""The main job: every policy under every prediction on the same random instances.

The work is cut into points, one for each number of requests and policy. A finished point is a part
file, so an interrupted job loses at most the point it was in; see `jaxsched.store`.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from jaxsched import frames, policies, specs, store, workloads
from jaxsched.config import JobConfig, LengthsConfig, to_toml
from jaxsched.instance import REQUEST_FIELDS, Instance
from jaxsched.policies import Policy
from jaxsched.simulate import simulate
from jaxsched.workloads import intervals
from jaxsched.workloads.lengths import Lengths


@dataclasses.dataclass(frozen=True)
class Point:
    """What is simulated, and kept, in one go: one policy on all instances of n requests."""

    n: int
    policy: Policy

    @property
    def name(self) -> str:
        """Its name in the store; a tuned rule's ends in its numbers, as its file may change."""
        numbers = np.asarray([] if self.policy.params is None else self.policy.params)
        end = f"-{zlib.crc32(numbers.tobytes()):08x}" if numbers.size else ""
        return f"n{self.n}-{self.policy.name.replace(':', '-')}{end}"

    @property
    def label(self) -> str:
        """What it is called while it runs."""
        return f"n = {self.n:,}  {self.policy.name}"

    def predictions(self, config: JobConfig) -> tuple[str, ...]:
        """The predictions that it has to be run under: one, if it takes no notice of them."""
        return config.predictions if self.policy.reads_predictions else config.predictions[:1]

    def cost(self, config: JobConfig) -> int:
        """Requests that it simulates."""
        return self.n * config.lanes * len(self.predictions(config))


def points(config: JobConfig) -> list[Point]:
    """All points of a job, those with fewer requests first."""
    chosen = [policies.policy(name) for name in config.policies]
    return [Point(n, policy) for n in sorted(config.num_requests) for policy in chosen]


def run(
    config: JobConfig, folder: Path, on_point: Callable[[Point, bool], Any] = lambda *_: None
) -> pd.DataFrame:
    """Runs a job, or what is left of it, and returns its table.

    Args:
      config: What to run.
      folder: Where results go and earlier ones are found.
      on_point: Called as (point, finished) before a point is simulated and after it is there.

    Returns:
      One row per instance, prediction and policy (see `jaxsched.frames`), which is also in
      `folder`/results.parquet.

    Raises:
      ValueError: If the folder holds results of another configuration, or the instances are
        refused.
    """
    draw = Drawer(config)
    # Before there is a folder, so that instances which are refused leave nothing behind.
    for n in sorted(config.num_requests, reverse=True):
        draw(n)
    kept = store.open_store(folder, to_toml(config))
    tables = []
    for point in points(config):
        if not kept.has(point.name):
            on_point(point, False)
            kept.write(point.name, simulate_point(config, point, draw(point.n)))
        tables.append(kept.read(point.name))
        on_point(point, True)
    table = pd.concat(tables, ignore_index=True)
    table = frames.in_order(frames.with_ratios(table, ["n", "lane", "prediction"]))
    kept.finish(table)
    return table


class Drawer:
    """Draws the instances of a job; those drawn last are kept, for the next policy."""

    def __init__(self, config: JobConfig) -> None:
        self._config = config
        self._last: tuple[int, list[Instance], np.ndarray] | None = None

    def __call__(self, n: int) -> tuple[list[Instance], np.ndarray]:
        """One `Instance` of lane shape [lanes] per prediction, and the bound of each lane."""
        if self._last is None or self._last[0] != n:
            drawn = [draw_instances(self._config, n, spec) for spec in self._config.predictions]
            self._last = n, drawn, frames.bound_of(drawn[0])
        return self._last[1:]


def draw_instances(config: JobConfig, n: int, prediction: str) -> Instance:
    """The instances of n requests; lengths do not depend on the prediction.

    Raises:
      ValueError: If a request can never fit, or has no prediction.
    """
    source = specs.interval(prediction).source
    assert source is not None  # `JobConfig` refuses predictions that need a trace
    try:
        return workloads.make(
            jax.random.fold_in(jax.random.key(config.seed), n),
            lengths=lengths_of(config.lengths),
            intervals=source(config.memory),
            n=n,
            lanes=config.lanes,
            memory=config.memory,
        )
    except ValueError as error:
        text = str(error).replace(intervals.OPEN_ENDED, "lengths.max_output leaves longer ones out")
        raise ValueError(f"n = {n}, prediction {prediction!r}: {text}") from None


def lengths_of(config: LengthsConfig) -> Lengths:
    """The length distribution that a configuration names."""
    lengths = specs.LENGTHS[config.source]()
    return lengths.truncated(max_output=config.max_output, max_total=config.max_total)


def simulate_point(
    config: JobConfig, point: Point, drawn: tuple[list[Instance], np.ndarray]
) -> pd.DataFrame:
    """One row per prediction and lane; what does not depend on the prediction is run once."""
    instances, bound = drawn
    chosen = point.predictions(config)
    # Padded to one width, so that every n runs the program that was compiled for the first.
    batch = join(instances[: len(chosen)], max(config.num_requests))
    result = simulate(batch, point.policy)
    table = frames.result_frame(
        batch,
        result,
        np.tile(bound, len(chosen)),
        seed=config.seed,
        lane=np.tile(np.arange(config.lanes), len(chosen)),
        policy=point.policy.name,
    )
    pieces = [table.iloc[i * config.lanes : (i + 1) * config.lanes] for i in range(len(chosen))]
    pieces = pieces if len(pieces) > 1 else pieces * len(config.predictions)
    return pd.concat(_labelled(pieces, config.predictions), ignore_index=True)


def _labelled(tables: Sequence[pd.DataFrame], predictions: Sequence[str]) -> Iterator[pd.DataFrame]:
    for table, text in zip(tables, predictions, strict=True):
        spec = specs.interval(text)
        parameter = np.nan if spec.parameter is None else float(spec.parameter)
        yield table.assign(
            prediction=text, prediction_kind=spec.kind, prediction_parameter=parameter
        )


def join(instances: Sequence[Instance], width: int) -> Instance:
    """Puts instances of lane shape [lanes] one after another and pads them to `width` requests."""
    joined = concatenate(instances)
    n = joined.n
    padded = {
        field: np.pad(values, ((0, 0), (0, width - n)), mode="edge")
        for field in REQUEST_FIELDS
        if (values := getattr(joined, field)) is not None
    }
    return joined.replace(**padded, num_requests=np.full(joined.lanes, n, np.int32))


def concatenate(instances: Sequence[Instance]) -> Instance:
    """Puts instances of lane shape [lanes] and one number of requests one after another."""
    columns = {
        field: np.concatenate([np.asarray(getattr(instance, field)) for instance in instances])
        for field in REQUEST_FIELDS
        if getattr(instances[0], field) is not None
    }
    memory = np.concatenate([np.broadcast_to(i.memory, i.lanes) for i in instances])
    return Instance(**columns, memory=memory)
