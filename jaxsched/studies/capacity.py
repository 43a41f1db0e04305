"""Capacity: the largest rate of arrivals at which a policy keeps a service level on a trace.

The trace's own arrivals are stretched or squeezed in time; nothing else about them changes. The
rates tried for one policy are lanes of one simulation, which cut the interval that holds the answer
in five at a time.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pandas as pd

from jaxsched import clocks, metrics, policies, workloads
from jaxsched.bounds import busy_seconds_bound
from jaxsched.clocks import Clock
from jaxsched.instance import Instance
from jaxsched.simulate import simulate
from jaxsched.studies import frames
from jaxsched.studies.replay import Loaded, ReplayConfig
from jaxsched.studies.run import Point, Work, part_name
from jaxsched.workers import Worker
from jaxsched.workloads import Lengths

LANES = 4
"""Rates tried side by side."""

FACTORS = ((1 / 64, 1 / 16, 1 / 4, 1), (2, 4, 8, 16), (2**-14, 2**-12, 2**-10, 2**-8))
"""First rates, over the proved ceiling; the next ones if all of them keep the level, or none."""

RATE_TOLERANCE = 1.005
"""The answer lies between the rate told and this many times it."""

LONGEST_SPAN = 2.0**61 / clocks.TICKS_PER_SECOND
"""Seconds (27 days) that arrivals are stretched to, at most."""

TOLD = ("attainment", "ttft", "e2el")
"""Metrics that are kept of every rate tried."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CapacityConfig(ReplayConfig):
    """A replay with a service level; `at` is the share of the requests that have to keep it."""

    at: float = 99.0  # in percent

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slo is None or self.clock is None:
            missing = "slo" if self.slo is None else "clock"
            raise ValueError(f"{missing}: missing; capacity is the rate that keeps a level, in s")
        if not 0 < self.at <= 100:
            raise ValueError(f"at: got {self.at:g}; expected more than 0 and at most 100 percent")
        if self.arrivals == "backlog":
            raise ValueError("arrivals: got 'backlog'; expected trace or poisson:RATE")


def ceiling(config: CapacityConfig, instance: Instance) -> float:
    """Requests per second that no policy serves more of for long: n over the least busy time."""
    sizes = instance.prompt, instance.output, instance.memory
    return float(instance.n / busy_seconds_bound(*sizes, **config.rules))


def sustained_rate(
    lengths: Lengths, memory: int, clock: Clock | None = None, worker: Worker | None = None
) -> float:
    """Requests per second (per round without a clock) that `fcfs` sustains: a load of 1.

    Those that it completes in the middle of a long backlog of random requests.
    """
    drawn = workloads.make(
        jax.random.key(1), lengths=lengths, intervals=workloads.intervals.relative(0), n=3000,
        lanes=8, memory=memory,
    )  # fmt: skip
    result = simulate(drawn, policies.fcfs(), worker=worker, clock=clock)
    done = result.completion if clock is None else result.completion_seconds
    first, last = np.quantile(done, (0.2, 0.8), axis=-1)
    return float(np.mean(0.6 * drawn.n / (last - first)))


def capacity_work(config: CapacityConfig, loaded: Loaded) -> Work:
    """A point for each policy; the table has a row for every rate tried.

    Columns: policy, clock, n, memory, ceiling, rate, attainment in percent, the statistics of TTFT
    and end-to-end latency, and status.
    """
    rate = float(frames.offered_rate(loaded.instance))
    if not rate > 0:
        raise ValueError(f"{config.path}: all requests arrive at once; expected times that differ")
    points = []
    for text in config.policies:
        name = policies.policy(text).name
        table = functools.partial(_tried, config, loaded, text)
        points.append(Point(part_name(name), name, len(loaded.trace), table))
    return Work(config.text(), points)


def told(config: CapacityConfig, tried: pd.DataFrame) -> pd.DataFrame:
    """A row per policy: that of the largest rate that keeps the level, as all lower ones tried do.

    With `more`: whether every rate tried keeps it, so that the trace is too short to tell. A policy
    that keeps it at no rate has a rate of 0, and NaN.
    """
    rows = []
    for policy, own in tried.groupby("policy", sort=False):
        low, _ = rate_bracket(own["rate"], own["attainment"], config.at)
        best = own[own["rate"] == low].head(1)
        if best.empty:
            numbers = own.select_dtypes("number").columns.difference(["n", "memory", "ceiling"])
            best = own.head(1).assign(**dict.fromkeys(numbers, np.nan)).assign(rate=0.0)
        rows.append(best.assign(policy=policy, more=low >= own["rate"].max()))
    return pd.concat(rows, ignore_index=True)


def rate_bracket(rates: Any, attained: Any, at: float) -> tuple[float, float]:
    """The largest rate that keeps the level, as all lower ones do, and the next; 0 or inf if none.

    A rate whose attainment is not known (NaN) does not keep it.
    """
    order = np.argsort(rates)
    ascending = np.asarray(rates, float)[order]
    bad = ~(np.asarray(attained, float)[order] >= at)
    first = int(np.argmax(bad)) if bad.any() else len(bad)
    return (
        float(ascending[first - 1]) if first else 0.0,
        float(ascending[first]) if first < len(bad) else np.inf,
    )


def _tried(config: CapacityConfig, loaded: Loaded, text: str) -> pd.DataFrame:
    """All rates tried for a policy."""
    top, n = ceiling(config, loaded.instance), loaded.instance.n
    slowest = (n - 1) / LONGEST_SPAN
    first, faster, slower = (np.maximum(top * np.asarray(one), slowest) for one in FACTORS)
    tried = pd.DataFrame()

    def bracket(rates: np.ndarray) -> tuple[float, float]:
        """Tries these rates; the bracket of all that were tried."""
        nonlocal tried
        found = _at_rates(config, loaded.instance, text, rates).assign(ceiling=top)
        tried = pd.concat([tried, found]) if len(tried) else found
        return rate_bracket(tried["rate"], tried["attainment"], config.at)

    low, high = bracket(first)
    if low == 0 or high == np.inf:
        low, high = bracket(slower if low == 0 else faster)
    while low > 0 and high < np.inf and high > RATE_TOLERANCE * low:
        low, high = bracket(np.geomspace(low, high, LANES + 2)[1:-1])
    return tried.sort_values("rate", ignore_index=True)


def _at_rates(
    config: CapacityConfig, instance: Instance, text: str, rates: np.ndarray
) -> pd.DataFrame:
    """A row for each rate."""
    policy, rules = policies.policy(text), config.rules
    arrival = np.asarray(instance.arrival, np.float64)
    scale = float(frames.offered_rate(instance)) / rates
    lanes = jax.tree.map(lambda x: np.broadcast_to(x, (len(rates), *np.shape(x))), instance)
    batch = lanes.replace(arrival=(arrival - arrival.min()) * scale[:, None])
    result = simulate(batch, policy, **rules)
    found = metrics.serving(
        batch, result, rules["clock"], names=TOLD, **config.limits,
        counted=frames.after_warm_up(batch, config.warm_up or 0.0),
    )  # fmt: skip
    values = {name: np.where(valid, value, np.nan) for name, value, valid in metrics.figures(found)}
    about = {
        "policy": policy.name, "clock": config.clock, "n": instance.n,
        "memory": int(np.asarray(instance.memory)), "rate": rates,
    }  # fmt: skip
    values |= {"missed": frames.missed(batch, policy), "status": np.asarray(result.status)}
    return frames.lane_frame(values, **about)
