"""The paper's experiment: every policy under every prediction, for several sizes of a backlog."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import numpy as np
import pandas as pd

from jaxsched.instance import Instance
from jaxsched.policies import Policy
from jaxsched.result import Result
from jaxsched.studies import frames
from jaxsched.studies.axes import Cell, Values
from jaxsched.studies.config import (
    LARGEST_SEED,
    LengthsConfig,
    all_predictions,
    different_policies,
    own_digests,
)
from jaxsched.studies.plan import Plan, Study
from jaxsched.studies.rows import Simulator
from jaxsched.studies.run import Point, Work
from jaxsched.toml import at_least, several, to_toml


@dataclasses.dataclass(frozen=True, kw_only=True)
class BacklogConfig:
    """Every policy under every prediction, for several numbers of requests."""

    # Random instances for each number of requests; the same ones for every policy and prediction,
    # so that comparisons are paired
    lanes: int = at_least(2)
    memory: int = at_least(2)  # KV cache of the worker, M, in tokens
    num_requests: tuple[int, ...] = at_least(1)  # numbers of requests n, each a backlog
    policies: tuple[str, ...]  # names that `jaxsched.policy` understands
    predictions: tuple[str, ...]  # texts such as "relative:0.5" (see `jaxsched.workloads.texts`)
    lengths: LengthsConfig = LengthsConfig()  # where prompt and output lengths come from
    seed: int = at_least(0, LARGEST_SEED, default=0)  # of everything random

    def __post_init__(self) -> None:
        several("num_requests", self.num_requests)
        different_policies(self.policies)
        all_predictions(self.predictions, self.memory, trace=False)

    def study(self) -> Study:
        """What it asks for."""
        values = Values.of(
            num_requests=tuple(sorted(self.num_requests)),
            memory=(self.memory,),
            policies=self.policies,
            predictions=self.predictions,
            workloads=(self.lengths.text,),
            seeds=(self.seed,),
        )
        return Study(values, self.lanes, _measure, whole=True, bound=frames.strong_bound_of)

    def work(self) -> Work:
        """A point for each number of requests and policy, those with fewer requests first."""
        simulator = Simulator(Plan(self.study()))
        read = simulator.plan.values.read
        points = [
            _point(simulator, policy, i, n, j)
            for j, n in enumerate(read["num_requests"])
            for i, policy in enumerate(read["policies"])
        ]
        text = to_toml(self) + own_digests(self.policies)
        return Work(text, points, [simulator], _whole)


def _measure(instance: Instance, result: Result, bound: Any, cell: Cell) -> dict[str, Any]:
    memory = np.asarray(instance.memory, np.int64)
    return {**frames.result_columns(instance, result, bound), "memory": memory}


def _point(simulator: Simulator, policy: Policy, which: int, n: int, which_n: int) -> Point:
    """A policy on all instances of n requests, under all predictions."""
    start, stop = simulator.plan.rows_of(which, which_n)
    # The name ends in the numbers of a tuned rule, as its file may change.
    numbers = np.asarray([] if policy.params is None else policy.params)
    end = f"-{zlib.crc32(numbers.tobytes()):08x}" if numbers.size else ""
    once = 1 if policy.reads_predictions else simulator.plan.sizes["predictions"]

    def table() -> pd.DataFrame:
        rows = simulator.rows(start, stop)
        titles = simulator.titles({"predictions": rows.at["predictions"]})
        about = {name: rows.at[name] for name in ("seed", "lane")}
        frame = frames.lane_frame(rows.measured, **about, policy=policy.name)
        # Stored as texts, not as categories.
        return frame.assign(**{name: np.asarray(column) for name, column in titles.items()})

    name = f"n{n}-{policy.name.translate(str.maketrans(':/', '--'))}{end}"
    return Point(name, f"n = {n:,}  {policy.name}", n * (stop - start) // once, table)


def _whole(table: pd.DataFrame) -> pd.DataFrame:
    """The whole table, from those of all points."""
    whole = frames.with_ratios(table, ["n", "lane", "prediction"])
    return whole[frames.in_order(whole.columns)]
