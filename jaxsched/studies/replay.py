"""Replay: what each policy would have done with the requests of a trace, `jaxsched simulate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pandas as pd

from jaxsched import clocks, policies
from jaxsched.instance import Instance, check_instance
from jaxsched.simulate import simulate
from jaxsched.studies import frames
from jaxsched.studies.config import different_policies, own_digests, positive_seconds, prediction
from jaxsched.toml import at_least, one_of, several, to_toml, with_key
from jaxsched.workloads import Trace, draws, generate, intervals, traces
from jaxsched.workloads.texts import class_edges, read_arrivals, read_prediction

FORMATS = ("auto", *traces.FORMATS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """What to simulate; the fields are the options of `jaxsched simulate`."""

    trace: str  # path of the file
    memory: int = at_least(2)  # KV cache in tokens
    policies: tuple[str, ...]  # names that `jaxsched.policy` understands
    # A prediction (see `jaxsched.workloads.texts`); None for the trace's own
    interval: str | None = None
    format: str = "auto"  # one of `FORMATS`; "auto" goes by the file's header
    # FIELD=COLUMN for a file of no known format (see `traces.read_table`)
    columns: tuple[str, ...] = ()
    # Prompt length of every request, for a trace without prompts
    prompt: int | None = at_least(1, default=None)
    limit: int | None = at_least(1, default=None)  # take this many requests; None for all
    # Shuffle the requests before anything else; None to keep the trace's order
    seed: int | None = at_least(0, default=None)
    arrivals: str = "backlog"  # when requests arrive (see `jaxsched.workloads.texts`)
    # A preset of `jaxsched.clocks`, for results in seconds; None to count rounds
    clock: str | None = None
    # Most requests that run together; None for no cap
    max_batch: int | None = at_least(1, default=None)
    # Largest time to first token of a request that counts as good, in seconds
    ttft_limit: float | None = None
    tpot_limit: float | None = None  # largest time per output token likewise
    skip_too_large: bool = False  # leave out requests that need more than the memory
    skip_zero_output: bool = False  # leave out requests without output, such as failed ones
    sha256: str = ""  # of the trace's bytes, so that results say which trace they are of

    def __post_init__(self) -> None:
        different_policies(self.policies, arrivals=self.arrivals != "backlog")
        if self.interval is not None:
            prediction("interval", self.interval, self.memory)
        one_of("format", self.format, FORMATS)
        if self.columns and self.format != "auto":
            raise ValueError(f"format is {self.format!r}; expected no format with named columns")
        for pair in self.columns:
            if not all(pair.partition("=")):
                raise ValueError(f"columns: got {pair!r}; expected FIELD=COLUMN")
        if self.columns:
            several("columns", tuple(pair.partition("=")[0] for pair in self.columns))
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
        for name, limit in self.limits.items():
            if limit is not None and self.clock is None:
                raise ValueError(f"{name}: {limit} is in seconds; expected a --clock")
        positive_seconds(**self.limits)

    def text(self) -> str:
        """The configuration as it is kept with results."""
        return to_toml(self) + own_digests(self.policies)

    @property
    def limits(self) -> dict[str, Any]:
        """Limits of a request that counts as good, by name."""
        return {"ttft_limit": self.ttft_limit, "tpot_limit": self.tpot_limit}


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A trace made ready."""

    instance: Instance  # what to simulate, without a lane axis
    trace: Trace  # the same requests as they were read
    rows: np.ndarray  # which request of the trace each one is, counted from 0 in order of arrival
    too_large: int  # how many were left out because they can never fit


def load(config: ReplayConfig) -> Loaded:
    """Reads the trace and chooses its requests.

    ValueError if the file is malformed, or a request can never fit; the text names it.
    """
    trace = _read(config)
    _refuse_missing(trace, config)
    prompt = np.broadcast_to(config.prompt if trace.prompt is None else trace.prompt, len(trace))
    fits = prompt + trace.output.astype(np.int64) <= config.memory
    rows = np.arange(len(trace))
    if config.seed is not None:
        rows = np.asarray(jax.random.permutation(jax.random.key(config.seed), len(trace)))
    too_large = int(np.sum(~fits)) if config.skip_too_large else 0
    rows = _first(rows[fits[rows]] if config.skip_too_large else rows, config)
    if len(never := rows[~fits[rows]]):
        row = never.min()
        raise ValueError(
            f"{trace.source}: request {row} (counted from 0 in order of arrival): prompt + output "
            f"is {prompt[row]} + {trace.output[row]}; expected at most memory = {config.memory}; "
            f"{len(never):,} of the requests can never fit, --skip-too-large leaves them out"
        )
    if read_arrivals(config.arrivals).in_trace:
        rows = rows[np.argsort(trace.arrival_seconds[rows], kind="stable")]
    chosen = trace.select(rows)
    return Loaded(_instance(chosen, config), chosen, rows, too_large)


def _refuse_missing(trace: Trace, config: ReplayConfig) -> None:
    """Refuses a trace that lacks what the options ask for, or has what they give."""
    if trace.prompt is None and config.prompt is None:
        raise ValueError(f"{trace.source}: has no prompt lengths; give one for all with --prompt")
    if trace.prompt is not None and config.prompt is not None:
        raise ValueError(f"{trace.source}: has prompt lengths of its own; expected no --prompt")
    if trace.arrival_seconds is None and read_arrivals(config.arrivals).in_trace:
        raise ValueError(
            f"{trace.source}: has no arrival times; expected --arrivals backlog, or poisson:RATE "
            "under a clock, or their column in --columns"
        )


def _first(rows: np.ndarray, config: ReplayConfig) -> np.ndarray:
    """As many as --limit asks for."""
    if config.limit is not None and config.limit > len(rows):
        fit = " that fit" if config.skip_too_large else ""
        raise ValueError(
            f"limit: got {config.limit}; expected at most {len(rows)}, the requests of "
            f"{config.trace}{fit}"
        )
    return rows[: config.limit]


def _read(config: ReplayConfig) -> Trace:
    """The trace as the options say; advice of the readers is put into the words of the command."""
    zeros = "skip" if config.skip_zero_output else "error"
    try:
        if config.columns:
            columns = {field: name for field, _, name in (x.partition("=") for x in config.columns)}
            edges = _edges(config) if "predicted" in columns else None
            return traces.read_table(config.trace, columns, edges=edges, zero_output=zeros)
        read = traces.read_trace if config.format == "auto" else traces.FORMATS[config.format]
        return read(config.trace, zero_output=zeros)
    except ValueError as error:
        text = str(error).replace("use read_table", "name the columns with --columns")
        raise ValueError(text.replace("zero_output='skip'", "--skip-zero-output")) from None


def _edges(config: ReplayConfig) -> tuple[int, ...]:
    """Class edges for a column of predicted classes, from the interval "edges:…"."""
    kind, _, rest = (config.interval or "").partition(":")
    if kind != "edges":
        raise ValueError("columns: predicted needs --interval edges:… to say what the classes are")
    return class_edges([int(edge) for edge in rest.split(",")], config.memory)


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
        instance = trace.instance(
            config.memory, intervals=source, key=key, prompt=config.prompt, **times
        )
    except ValueError as error:
        text = str(error).replace(intervals.OPEN_ENDED, "edges:… takes them into its last class")
        raise ValueError(f"{trace.source}: {text}") from None
    if arrivals.kind == "poisson":
        drawn = arrivals.source(in_seconds=True)
        key = draws.purpose(key, generate.ARRIVALS)
        instance = instance.replace(arrival=drawn(key, (len(trace),)))
        check_instance(instance)
    return instance


PERCENTILES = (50, 90, 99)
"""Of the latency in rounds; under a clock they are those of `jaxsched.metrics`."""


def run(
    config: ReplayConfig, loaded: Loaded, on_policy: Callable[[str], Any] = lambda _: None
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Simulates one policy after another; `on_policy` is called with the name of each before it.

    It yields a table of one row (see `jaxsched.studies.frames`): without a clock with
    `latency_figures`, under one with the metrics of serving. And one with a row per request, which
    has the options --seed and --memory as columns, the request's number in order of arrival as
    `request` and its line in the file (of Parquet its row) as `line`.
    """
    batch = jax.tree.map(lambda leaf: np.asarray(leaf)[None], loaded.instance)
    clock = None if config.clock is None else clocks.clock(config.clock)
    for name in config.policies:
        policy = policies.policy(name)
        on_policy(policy.name)
        result = simulate(
            batch, policy, clock=clock, max_batch=config.max_batch, history=clock is not None
        )
        about = {
            "policy": policy.name,
            "seed": pd.array([config.seed] * len(loaded.rows), "Int64"),
            "memory": config.memory,
            "request": loaded.rows,
            "line": loaded.trace.line,
        }
        requests = frames.request_frame(batch, result, **about)
        if config.clock is None:
            found = frames.result_columns(batch, result, frames.strong_bound_of(batch))
            row = frames.lane_frame(found, policy=policy.name, lane=0)
            yield row.assign(**latency_figures(requests["latency"])), requests
        else:
            found = frames.serving_columns(batch, result, config.clock, **config.limits)
            row = frames.lane_frame(found, policy=policy.name, lane=0, clock=config.clock)
            yield row, requests


def latency_figures(latency: pd.Series) -> dict[str, float]:
    """`unfinished` requests, and P50, P90 and P99 of the others as `latency_p50` and so on.

    By linear interpolation; NaN where no request finished.
    """
    known = latency.dropna().to_numpy(np.int64)
    quantiles = np.percentile(known, PERCENTILES) if len(known) else [np.nan] * len(PERCENTILES)
    named = {f"latency_p{q}": float(x) for q, x in zip(PERCENTILES, quantiles, strict=True)}
    return {"unfinished": len(latency) - len(known), **named}
