"""What each policy would have done with the requests of a trace."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from jaxsched import frames, policies, specs
from jaxsched.config import at_least, different_policies, one_of, prediction, several
from jaxsched.instance import Instance
from jaxsched.simulate import simulate
from jaxsched.workloads import intervals, traces
from jaxsched.workloads.traces import Trace

PERCENTILES = (50, 90, 99)
FORMATS = ("auto", *traces.FORMATS)


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """What to simulate; the fields are the options of `jaxsched simulate`.

    Attributes:
      trace: Path of the file.
      memory: KV cache in tokens.
      policies: Names that `jaxsched.policy` understands.
      interval: A prediction (see `jaxsched.specs`); None for the trace's own.
      format: One of `FORMATS`; "auto" goes by the file's header.
      columns: FIELD=COLUMN for a file of no known format (see `traces.read_table`).
      prompt: Prompt length of every request, for a trace without prompts.
      limit: Take this many requests; None for all.
      seed: Shuffle the requests before anything else; None to keep the trace's order.
      seconds_per_round: Makes arrival rounds of the trace's times; None for a backlog.
      skip_too_large: Leave out requests that need more than the memory.
      skip_zero_output: Leave out requests without output, such as failed ones.
      sha256: Of the trace's bytes, so that results say which trace they are of.
    """

    trace: str
    memory: int = at_least(2)
    policies: tuple[str, ...]
    interval: str | None = None
    format: str = "auto"
    columns: tuple[str, ...] = ()
    prompt: int | None = at_least(1, default=None)
    limit: int | None = at_least(1, default=None)
    seed: int | None = at_least(0, default=None)
    seconds_per_round: float | None = None
    skip_too_large: bool = False
    skip_zero_output: bool = False
    sha256: str = ""

    def __post_init__(self) -> None:
        different_policies(self.policies)
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
        if self.seconds_per_round is not None and not 0 < self.seconds_per_round < np.inf:
            raise ValueError(f"seconds_per_round is {self.seconds_per_round}; expected more than 0")


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A trace made ready.

    Attributes:
      instance: What to simulate, without a lane axis.
      trace: The same requests as they were read.
      rows: Which request of the trace each one is, counted from 0 in order of arrival.
      too_large: How many were left out because they can never fit.
    """

    instance: Instance
    trace: Trace
    rows: np.ndarray
    too_large: int


def load(config: ReplayConfig) -> Loaded:
    """Reads the trace and chooses its requests.

    Raises:
      ValueError: If the file is malformed, or a request can never fit; the text names it.
    """
    trace = _read(config)
    _refuse_missing(trace, config)
    rows = np.arange(len(trace))
    if config.seed is not None:
        rows = np.asarray(jax.random.permutation(jax.random.key(config.seed), len(trace)))
    fits = _fits(trace, config)
    too_large = int(np.sum(~fits)) if config.skip_too_large else 0
    rows = _first(rows[fits[rows]] if config.skip_too_large else rows, config)
    _refuse_too_large(trace, rows[~fits[rows]], config)
    if config.seconds_per_round is not None:
        rows = rows[np.argsort(trace.arrival_seconds[rows], kind="stable")]
    chosen = trace.select(rows)
    return Loaded(_instance(chosen, config), chosen, rows, too_large)


def _refuse_missing(trace: Trace, config: ReplayConfig) -> None:
    """Refuses a trace that lacks what the options ask for, or has what they give."""
    if trace.prompt is None and config.prompt is None:
        raise ValueError(f"{trace.source}: has no prompt lengths; give one for all with --prompt")
    if trace.prompt is not None and config.prompt is not None:
        raise ValueError(f"{trace.source}: has prompt lengths of its own; expected no --prompt")
    if trace.arrival_seconds is None and config.seconds_per_round is not None:
        raise ValueError(
            f"{trace.source}: has no arrival times; expected --arrivals backlog, or their column "
            "in --columns"
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
    try:
        return _read_as(config)
    except ValueError as error:
        # The readers know nothing of this command, so their advice is put into its words.
        text = str(error).replace("use read_table", "name the columns with --columns")
        raise ValueError(text.replace("zero_output='skip'", "--skip-zero-output")) from None


def _read_as(config: ReplayConfig) -> Trace:
    zeros = "skip" if config.skip_zero_output else "error"
    if config.columns:
        pairs = (pair.partition("=") for pair in config.columns)
        columns = {field: column for field, _, column in pairs}
        edges = _edges(config) if "predicted" in columns else None
        return traces.read_table(config.trace, columns, edges=edges, zero_output=zeros)
    if config.format == "auto":
        return traces.read_trace(config.trace, zero_output=zeros)
    return getattr(traces, f"read_{config.format}")(config.trace, zero_output=zeros)


def _edges(config: ReplayConfig) -> tuple[int, ...]:
    """Class edges for a column of predicted classes, from the interval "edges:…"."""
    kind, _, rest = (config.interval or "").partition(":")
    if kind != "edges":
        raise ValueError("columns: predicted needs --interval edges:… to say what the classes are")
    return specs.class_edges([int(edge) for edge in rest.split(",")], config.memory)


def _fits(trace: Trace, config: ReplayConfig) -> np.ndarray:
    prompt = config.prompt if trace.prompt is None else trace.prompt
    return prompt + trace.output.astype(np.int64) <= config.memory


def _refuse_too_large(trace: Trace, rows: np.ndarray, config: ReplayConfig) -> None:
    if len(rows):
        row = rows.min()
        prompt = config.prompt if trace.prompt is None else trace.prompt[row]
        raise ValueError(
            f"{trace.source}: request {row} (counted from 0 in order of arrival): prompt + output "
            f"is {prompt} + {trace.output[row]}; expected at most memory = {config.memory}; "
            f"{len(rows):,} of the requests can never fit, --skip-too-large leaves them out"
        )


def _instance(trace: Trace, config: ReplayConfig) -> Instance:
    predicted = any(pair.startswith("predicted=") for pair in config.columns)
    own = config.interval in (None, "columns") or predicted
    if own and trace.lower is None:
        raise ValueError(
            f"{trace.source}: has no predictions of the output lengths; give some with --interval"
        )
    source = None if own else specs.interval(config.interval).source(config.memory)
    rate = None if config.seconds_per_round is None else 1 / config.seconds_per_round
    try:
        return trace.instance(
            config.memory, intervals=source, prompt=config.prompt, rounds_per_second=rate
        )
    except ValueError as error:
        text = str(error).replace(intervals.OPEN_ENDED, "edges:… takes them into its last class")
        raise ValueError(f"{trace.source}: {text}") from None


def run(
    config: ReplayConfig, loaded: Loaded, on_policy: Callable[[str], Any] = lambda _: None
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Simulates one policy after another; `on_policy` is called with the name of each before it.

    Yields:
      A table of one row (see `jaxsched.frames`, with `latency_figures`), and one with a row per
      request (see `frames.request_frame`), which has the options --seed and --memory as `seed` and
      `memory`, the request's number in order of arrival as `request` and its line in the file (of
      Parquet its row) as `line`.
    """
    batch = jax.tree.map(lambda leaf: np.asarray(leaf)[None], loaded.instance)
    bound = frames.bound_of(batch)
    seed = pd.array([config.seed] * len(loaded.rows), "Int64")
    for name in config.policies:
        policy = policies.policy(name)
        on_policy(policy.name)
        result = simulate(batch, policy)
        about = {"policy": policy.name, "seed": seed, "memory": config.memory}
        requests = frames.request_frame(
            batch, result, **about, request=loaded.rows, line=loaded.trace.line
        )
        row = frames.result_frame(batch, result, bound, policy=policy.name, lane=0)
        yield row.assign(**latency_figures(requests["latency"])), requests


def latency_figures(latency: pd.Series) -> dict[str, float]:
    """`unfinished` requests, and P50, P90 and P99 of the others as `latency_p50` and so on.

    By linear interpolation; NaN where no request finished.
    """
    known = latency.dropna().to_numpy(np.int64)
    quantiles = np.percentile(known, PERCENTILES) if len(known) else [np.nan] * len(PERCENTILES)
    named = {f"latency_p{q}": float(x) for q, x in zip(PERCENTILES, quantiles, strict=True)}
    return {"unfinished": len(latency) - len(known), **named}
