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
from jaxsched.config import at_least, one_of, several, with_key
from jaxsched.instance import Instance
from jaxsched.result import Result
from jaxsched.simulate import simulate
from jaxsched.workloads import traces
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
        several("policies", self.policies)
        for name in self.policies:
            with_key("policies", policies.policy, name)
        if self.interval is not None:
            with_key("interval", specs.interval, self.interval)
        one_of("format", self.format, FORMATS)
        if self.columns and self.format != "auto":
            raise ValueError(f"format is {self.format!r}; expected no format with named columns")
        for pair in self.columns:
            if not all(pair.partition("=")):
                raise ValueError(f"columns: got {pair!r}; expected FIELD=COLUMN")
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
      rows: Which request of the trace each one is, counted from 0 in order of arrival.
      too_large: How many were left out because they can never fit.
      without_output: How many were left out because they have no output.
    """

    instance: Instance
    rows: np.ndarray
    too_large: int
    without_output: int


def load(config: ReplayConfig) -> Loaded:
    """Reads the trace and chooses its requests.

    Raises:
      ValueError: If the file is malformed, or a request can never fit; the text names it.
    """
    trace = _read(config)
    rows = np.arange(len(trace))
    if config.seed is not None:
        rows = np.asarray(jax.random.permutation(jax.random.key(config.seed), len(trace)))
    fits = _fits(trace, config)
    too_large = int(np.sum(~fits)) if config.skip_too_large else 0
    rows = (rows[fits[rows]] if config.skip_too_large else rows)[: config.limit]
    _refuse_too_large(trace, rows[~fits[rows]], config)
    if config.seconds_per_round is not None and trace.arrival_seconds is not None:
        rows = rows[np.argsort(trace.arrival_seconds[rows], kind="stable")]
    return Loaded(_instance(trace.select(rows), config), rows, too_large, trace.skipped)


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
    if prompt is None:
        raise ValueError(f"{trace.source}: has no prompt lengths; give one for all with --prompt")
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
    return trace.instance(
        config.memory, intervals=source, prompt=config.prompt, rounds_per_second=rate
    )


def run(
    config: ReplayConfig, loaded: Loaded, on_policy: Callable[[str], Any] = lambda _: None
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Simulates one policy after another; `on_policy` is called with the name of each before it.

    Yields:
      A table of one row (see `jaxsched.frames`, with percentiles of the latency in rounds), and
      one with a row per request.
    """
    batch = jax.tree.map(lambda leaf: np.asarray(leaf)[None], loaded.instance)
    bound = frames.bound_of(batch)
    for name in config.policies:
        policy = policies.policy(name)
        on_policy(policy.name)
        result = simulate(batch, policy)
        requests = request_frame(batch, result, policy.name, loaded.rows)
        row = frames.result_frame(batch, result, bound, policy=policy.name, lane=0)
        yield row.assign(**percentiles(requests["latency"])), requests


def percentiles(latency: pd.Series) -> dict[str, float]:
    """P50, P90 and P99 by linear interpolation, as columns `latency_p50` and so on."""
    return {f"latency_p{q}": float(np.percentile(latency, q)) for q in PERCENTILES}


def request_frame(batch: Instance, result: Result, policy: str, rows: np.ndarray) -> pd.DataFrame:
    """One row per request of a batch of one lane, in the order simulated; times in rounds."""
    fields = ("prompt", "output", "lower", "upper", "point")
    columns = {field: np.asarray(getattr(batch, field))[0] for field in fields}
    arrival = 0 if batch.arrival is None else np.asarray(batch.arrival)[0]
    completion = np.asarray(result.completion)[0]
    outcome = {
        "arrival": arrival,
        "completion": completion,
        "latency": completion - arrival,
        "evictions": np.asarray(result.preemptions)[0],
    }
    return pd.DataFrame({"policy": policy, "request": rows, **columns, **outcome})
