"""Serving: latency against the rate of arrivals, for every policy and prediction."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from jaxsched import clocks
from jaxsched.bounds import busy_seconds_bound
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
    service_level,
)
from jaxsched.studies.plan import Plan, Study
from jaxsched.studies.rows import Simulator
from jaxsched.studies.run import Point, Work, part_name
from jaxsched.studies.trace import TraceConfig, check_fit, read_requests
from jaxsched.toml import at_least, one_of, several, to_toml, with_key
from jaxsched.workers import worker_named
from jaxsched.workloads import Trace

JOB = "serving"

ANY = "any"
"""The prediction of rows of policies that read none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServingConfig:
    """Every policy under every prediction, for several rates of arrivals."""

    job: str  # "serving"
    # Random streams for each rate; the same requests and (stretched) arrivals for every rate,
    # policy and prediction, so that comparisons are paired
    lanes: int = at_least(2)
    num_requests: int = at_least(2)  # requests of a stream
    memory: int = at_least(2)  # KV cache of the worker, M, in tokens
    clock: str  # A text as of `jaxsched.clocks.clock`
    rates: tuple[float, ...]  # requests per second that arrive
    policies: tuple[str, ...]  # names that `jaxsched.policy` understands
    predictions: tuple[str, ...]  # texts such as "real" (see `jaxsched.workloads.texts`)
    # Most requests that run together; None for no cap
    max_batch: int | None = at_least(1, default=None)
    worker: str | None = None  # Whose rules hold (see `jaxsched.workers`); None for the papers'
    # Largest time to first token of a request that counts as good, in seconds
    ttft_limit: float | None = None
    tpot_limit: float | None = None  # largest time per output token likewise
    slo: str | None = None  # the same and more as a text (see `jaxsched.metrics.read_slo`)
    # A trace with arrival times, a path or a table: each stream is so many of its requests in a
    # row from a random one on, their times scaled to the rate. None: Poisson arrivals of requests
    # with `lengths`.
    trace: TraceConfig | None = None
    # Where prompt and output lengths come from without a trace
    lengths: LengthsConfig = LengthsConfig("lmsys_tokens")
    seed: int = at_least(0, LARGEST_SEED, default=0)  # of everything random

    MOVED: ClassVar[dict[str, str]] = {"skip_too_large": "trace", "sha256": "trace"}

    def __post_init__(self) -> None:
        one_of("job", self.job, (JOB,))
        with_key("clock", clocks.clock, self.clock)
        if self.worker is not None:
            with_key("worker", worker_named, self.worker)
        several("rates", self.rates)
        self.limits  # noqa: B018 - refuses wrong ones
        for rate in self.rates:
            if not 0 < rate < float("inf"):
                raise ValueError(f"rates: got {rate}; expected more than 0 requests per second")
        different_policies(self.policies, arrivals=True)
        if self.trace is not None and not self.trace.path:
            raise ValueError("trace.path: missing; expected the file of requests (--trace FILE)")
        all_predictions(self.predictions, self.memory, trace=self.trace is not None)

    @property
    def limits(self) -> dict[str, Any]:
        """Limits of a request that counts as good, by name."""
        return service_level(self.slo, ttft_limit=self.ttft_limit, tpot_limit=self.tpot_limit)

    def text(self) -> str:
        """The configuration as it is kept with results.

        Where the trace section says no more than once it could, it is written as it was then.
        """
        section = self.trace or TraceConfig()
        if section.changed() - {"path", "skip_too_large", "sha256"}:
            return to_toml(self)
        own = {"trace": section.path or None, **{key: getattr(section, key) for key in self.MOVED}}
        pairs: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            pairs |= own if field.name == "trace" else {field.name: value}
        return to_toml(pairs)

    def requests(self) -> Trace | None:
        """The trace's requests that are taken; None without a trace.

        ValueError if they lack what is needed, or one can never fit.
        """
        if self.trace is None:
            return None
        trace = read_requests(self.trace, self.memory, interval=self.predictions[0])
        source, times = trace.source, trace.arrival_seconds
        if times is None:
            raise ValueError(f"{source}: has no arrival times; expected a trace that has them")
        check_fit(trace, self.memory)
        if len(trace) < self.num_requests:
            raise ValueError(
                f"num_requests is {self.num_requests}; expected at most {len(trace)}, the requests "
                f"of {source} that fit"
            )
        if not times[-1] > times[0]:
            raise ValueError(f"{source}: all requests arrive at once; expected times that differ")
        return trace

    def study(self, prediction: str, trace: Trace | None) -> Study:
        """What it asks for under one of its predictions, on requests of the trace if it has one."""
        values = Values.of(
            num_requests=(self.num_requests,),
            memory=(self.memory,),
            policies=self.policies,
            predictions=(prediction,),
            workloads=(self.lengths.text,),
            arrivals=tuple(f"poisson:{rate!r}" for rate in self.rates),
            clocks=(self.clock,),
            max_batch=(self.max_batch or 0,),
            workers=() if self.worker is None else (self.worker,),
            seeds=(self.seed,),
        )
        measure = functools.partial(_measure, self)
        return Study(values, self.lanes, measure, trace, key_of_n=False, whole=True)

    def work(self) -> Work:
        """A point for each policy and prediction; one that reads no predictions has one point."""
        config, trace = self, self.requests()
        if self.trace is not None:  # whose digest says what results are of
            config = dataclasses.replace(self, trace=self.trace.with_digest())
        studies = {text: config.study(text, trace) for text in self.predictions}
        simulators = {text: Simulator(Plan(study)) for text, study in studies.items()}
        first = simulators[self.predictions[0]]
        points = [
            _point(config, simulator, policy, i, text)
            for i, policy in enumerate(first.plan.values.read["policies"])
            for text, simulator in (
                simulators.items() if policy.reads_predictions else [(ANY, first)]
            )
        ]
        text = config.text() + own_digests(self.policies, self.clock)
        return Work(text, points, list(simulators.values()))


def _point(
    config: ServingConfig, simulator: Simulator, policy: Policy, which: int, prediction: str
) -> Point:
    """A policy under a prediction at all rates."""
    start, stop = simulator.plan.rows_of(which)

    def table() -> pd.DataFrame:
        rows = simulator.rows(start, stop)
        return frames.lane_frame(
            rows.measured,
            seed=config.seed,
            lane=rows.at["lane"],
            clock=config.clock,
            rate=np.asarray(config.rates, np.float64)[rows.at["arrivals"]],
            policy=policy.name,
            prediction=prediction,
        )

    requests = config.num_requests * (stop - start)
    name = part_name(policy.name, prediction)
    return Point(name, f"{policy.name}, {prediction}", requests, table)


def _measure(
    config: ServingConfig, instance: Instance, result: Result, bound: Any, cell: Cell
) -> dict[str, Any]:
    """All metrics, the proved bound on the rate, and the time to drain."""
    clock = clocks.clock(config.clock)
    busy = busy_seconds_bound(
        instance.prompt, instance.output, instance.memory, clock,
        max_batch=config.max_batch, worker=cell["workers"],
    )  # fmt: skip
    warm_up = 0.0 if config.trace is None else config.trace.warm_up or 0.0
    return {
        "rate_bound": config.num_requests / busy,
        # What the longest output takes alone on a worker whose cache is full
        "drain": instance.output.max(axis=-1) * clock.seconds(0, 1, instance.memory),
        **frames.serving_columns(
            instance, result, config.clock, **config.limits, warm_up=warm_up, worker=cell["workers"]
        ),
        "memory": np.asarray(instance.memory, np.int64),
    }
