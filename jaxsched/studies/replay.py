"""Replay: what each policy would have done with the requests of a trace, `jaxsched simulate`."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any

import jax
import numpy as np
import pandas as pd

from jaxsched import clocks, policies
from jaxsched.instance import MAX_MEMORY, MAX_ROUND, MAX_SECONDS, Instance, check_instance
from jaxsched.policies import Policy
from jaxsched.simulate import simulate
from jaxsched.studies import curves, frames
from jaxsched.studies.config import (
    LARGEST_SEED,
    different_policies,
    own_digests,
    prediction,
    service_level,
)
from jaxsched.studies.curves import CURVES
from jaxsched.studies.run import RESULTS, Point, Work, part_name
from jaxsched.studies.trace import TraceConfig, check_fit, read_section
from jaxsched.toml import at_least, to_toml, with_key, written
from jaxsched.workers import worker_named
from jaxsched.workloads import Trace, draws, generate, intervals
from jaxsched.workloads.texts import Arrivals, read_arrivals, read_prediction

WRITTEN_NEXT = (
    "memory", "policies", "interval", "format", "columns", "prompt", "limit", "seed", "arrivals",
    "clock", "max_batch", "worker", "ttft_limit", "tpot_limit", "slo",
)  # fmt: skip
"""The order of keys in stored configurations after the trace, which later versions have to keep."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayConfig(TraceConfig):
    """What to simulate of a trace; the fields are the options of `jaxsched simulate`."""

    memory: int = at_least(2, MAX_MEMORY)  # KV cache in tokens
    policies: tuple[str, ...]  # names that `jaxsched.policy` understands
    # A prediction (see `jaxsched.workloads.texts`); None for the trace's own
    interval: str | None = None
    # Shuffle the requests before anything else; None to keep the trace's order
    seed: int | None = at_least(0, LARGEST_SEED, default=None)
    arrivals: str = "backlog"  # when requests arrive (see `jaxsched.workloads.texts`)
    # A text as of `jaxsched.clocks.clock`, for results in seconds; None to count rounds
    clock: str | None = None
    # Most requests that run together; None for no cap
    max_batch: int | None = at_least(1, default=None)
    worker: str | None = None  # Whose rules hold (see `jaxsched.workers`); None for the papers'
    # Largest time to first token of a request that counts as good, in seconds
    ttft_limit: float | None = None
    tpot_limit: float | None = None  # largest time per output token likewise
    slo: str | None = None  # the same and more as a text (see `jaxsched.metrics.read_slo`)

    def __post_init__(self) -> None:
        different_policies(self.policies, arrivals=self.arrivals != "backlog")
        if self.interval is not None:
            prediction("interval", self.interval, self.memory)
        super().__post_init__()
        self._check_time()

    def _check_time(self) -> None:
        """Arrivals and limits in seconds go with a clock, rounds without."""
        arrivals = with_key("arrivals", read_arrivals, self.arrivals)
        if self.clock is not None:
            with_key("clock", clocks.clock, self.clock)
            if arrivals.kind == "rounds":
                raise ValueError(
                    f"arrivals: got {self.arrivals!r}; expected trace, poisson:RATE or backlog "
                    "under a clock"
                )
        elif arrivals.kind in ("trace", "poisson"):
            raise ValueError(f"arrivals: {self.arrivals!r} is in seconds; expected a --clock")
        if self.worker is not None:
            with_key("worker", worker_named, self.worker)
        for name, limit in self.limits.items():
            if self.clock is None:
                raise ValueError(f"{name}: {limit} is in seconds; expected a --clock")
        if self.warm_up and (self.clock is None or arrivals.backlog):
            raise ValueError(f"warm_up: {self.warm_up} counts arrivals in seconds; expected a "
                             "--clock and --arrivals")  # fmt: skip

    def text(self) -> str:
        """The configuration as it is kept with results."""
        pairs = written(self)
        first = {"trace": pairs.pop("path")} | {
            name: pairs.pop(name, None) for name in WRITTEN_NEXT
        }
        return to_toml(first | pairs) + own_digests(self.policies, self.clock)

    @property
    def rules(self) -> dict[str, Any]:
        """Clock, worker and cap, as arguments of `simulate`."""
        clock = None if self.clock is None else clocks.clock(self.clock)
        worker = None if self.worker is None else worker_named(self.worker)
        return {"clock": clock, "worker": worker, "max_batch": self.max_batch}

    @property
    def limits(self) -> dict[str, Any]:
        """Limits of a request that counts as good, by name."""
        return service_level(self.slo, ttft_limit=self.ttft_limit, tpot_limit=self.tpot_limit)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A trace made ready."""

    instance: Instance  # what to simulate, without a lane axis
    trace: Trace  # the same requests as they were read; `number` counts from 0 as they arrive


def load_requests(config: ReplayConfig) -> Loaded:
    """Reads the trace and chooses its requests.

    ValueError if the file is malformed, or a request can never fit; the text names it.
    """
    arrivals, shuffled = read_arrivals(config.arrivals), config.seed is not None
    trace = read_section(
        config, config.memory, configured=False, interval=config.interval, limited=not shuffled
    )
    if trace.arrival_seconds is None and arrivals.in_trace:
        raise ValueError(
            f"{trace.source}: has no arrival times; expected --arrivals backlog, or poisson:RATE "
            "under a clock, or their column in --columns"
        )
    rows = np.arange(len(trace))
    if shuffled:
        rows = np.asarray(jax.random.permutation(jax.random.key(config.seed), len(trace)))
    trace = dataclasses.replace(trace.select(rows), number=rows)
    chosen = trace.taken(config.memory if config.skip_too_large else None, config.limit)
    check_fit(chosen, config.memory)
    if arrivals.in_trace:
        chosen = chosen.select(np.argsort(chosen.arrival_seconds, kind="stable"))
    _check_span(chosen, arrivals)
    return Loaded(_instance(chosen, config), chosen)


def _check_span(trace: Trace, arrivals: Arrivals) -> None:
    """Refuses arrivals of the trace that are later than a clock or the rounds reach."""
    if not arrivals.in_trace:
        return
    since = trace.arrival_seconds - trace.arrival_seconds[0]
    rounds = arrivals.kind == "rounds"
    limit = MAX_ROUND * arrivals.number if rounds else MAX_SECONDS * arrivals.number
    if since[-1] > limit:
        row = int(np.argmax(since > limit))
        reached = f"{MAX_ROUND:,} rounds (2^30)" if rounds else f"{MAX_SECONDS:,} s (2^62 ps)"
        other = "rounds:SECONDS with longer ones" if rounds else "trace:SPEED for a faster one"
        raise ValueError(
            f"{trace.place(row)}: arrives {since[row]:,.0f} s after the first request; a "
            f"simulation reaches {reached}; take a part with --window START:END, or "
            f"--arrivals {other}"
        )


def _instance(trace: Trace, config: ReplayConfig) -> Instance:
    predicted = any(pair.startswith("predicted=") for pair in config.columns)
    own = config.interval in (None, "columns") or predicted
    reads = any(policies.policy(name).reads_predictions for name in config.policies)
    if config.interval is None and trace.lower is None and not reads:
        config, own = dataclasses.replace(config, interval="exact"), False
    if own and trace.lower is None:
        raise ValueError(
            f"{trace.source}: has no predictions of the output lengths; give some with --interval"
        )
    source = None if own else read_prediction(config.interval).source(config.memory)
    arrivals = read_arrivals(config.arrivals)
    number = arrivals.number
    unit: dict[str, dict[str, Any]] = {
        "rounds": {"rounds_per_second": 1 / number},
        "trace": {"speed": number},
    }
    key = jax.random.key(config.seed or 0)
    try:
        times = unit.get(arrivals.kind, {})
        instance = trace.instance(config.memory, intervals=source, key=key, **times)
    except ValueError as error:
        text = str(error).replace(intervals.OPEN_ENDED, "edges:… takes them into its last class")
        which = re.match(r"request (\d+): ", text)
        place = trace.place(int(which[1])) if which else trace.source
        raise ValueError(f"{place}: {text}") from None
    if arrivals.kind == "poisson":
        drawn = arrivals.source(in_seconds=True)
        key = draws.purpose(key, generate.ARRIVALS)
        instance = instance.replace(arrival=drawn(key, (len(trace),)))
        check_instance(instance)
    return instance


LATENCY_PERCENTILES = (50, 90, 99)
"""Of the latency in rounds; under a clock they are those of `jaxsched.metrics`."""

REQUESTS = "requests"
"""The table with a row per request."""


def replay_work(
    config: ReplayConfig, loaded: Loaded, *, watched: bool, per_request: bool, notes: str
) -> Work:
    """A point for each policy; `notes`, a text, are kept with the tables.

    The results (see `jaxsched.studies.frames`) have a row for each policy: without a clock with
    `frames.latency_figures`, under one with the metrics of serving. If `watched` there are those of
    `CURVES` too. And with `per_request` one with a row per request, which has the options --seed
    and --memory as columns, the request's number in order of arrival as `request` and its line in
    the file (of Parquet its row) as `line`.
    """
    tables = (RESULTS, *(CURVES if watched else ()), *((REQUESTS,) if per_request else ()))
    points = []
    for text in config.policies:
        policy = policies.policy(text)
        table = functools.partial(_tables, config, loaded, policy, watched, per_request)
        points.append(Point(part_name(policy.name), policy.name, len(loaded.trace), table))

    def whole(table: pd.DataFrame) -> pd.DataFrame:
        return frames.with_ratios(table, ["lane"]) if config.clock is None else table

    return Work(config.text(), points, whole=whole, tables=tables, notes={"notes": notes})


def _tables(
    config: ReplayConfig, loaded: Loaded, policy: Policy, watched: bool, per_request: bool
) -> tuple[pd.DataFrame, ...]:
    """Simulates a policy."""
    batch = jax.tree.map(lambda leaf: np.asarray(leaf)[None], loaded.instance)
    worker, history = config.rules["worker"], config.clock is not None or watched
    result = simulate(batch, policy, history=history, **config.rules)
    if config.clock is None:
        bound = frames.strong_bound_of(batch, worker)
        found = frames.result_columns(batch, result, bound)
        found |= frames.latency_figures(batch, result, LATENCY_PERCENTILES)
        found["unfinished"] = result.num_requests - np.sum(result.completion >= 0, axis=-1)
        row = frames.lane_frame(found, policy=policy.name, lane=0)
    else:
        found = frames.serving_columns(
            batch, result, config.clock, **config.limits, warm_up=config.warm_up or 0.0,
            worker=worker,
        )  # fmt: skip
        row = frames.lane_frame(found, policy=policy.name, lane=0, clock=config.clock)
    tables = [row.assign(missed=frames.missed(batch, policy))]
    if watched:
        tables.append(curves.distributions(batch, result, policy=policy.name))
        # Elsewhere the history does not say what a round held.
        papers = worker is None
        held = curves.held_over_time(batch, result, policy=policy.name) if papers else None
        tables.append(pd.DataFrame() if held is None else held)
    if per_request:
        about = {
            "policy": policy.name,
            "seed": pd.array([config.seed] * len(loaded.trace), "Int64"),
            "memory": config.memory,
            "request": loaded.trace.number,
            "line": loaded.trace.line,
        }
        tables.append(frames.request_frame(batch, result, **about))
    return tuple(tables)
