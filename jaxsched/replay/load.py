"""Reads the requests that `jaxsched simulate` is to run."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from jaxsched import policies, specs
from jaxsched.instance import Instance, check_instance
from jaxsched.replay.config import ReplayConfig
from jaxsched.workloads import arrivals, draws, generate, intervals, traces
from jaxsched.workloads.traces import Trace


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
    if specs.arrivals(config.arrivals).kind in ("rounds", "trace"):
        rows = rows[np.argsort(trace.arrival_seconds[rows], kind="stable")]
    chosen = trace.select(rows)
    return Loaded(_instance(chosen, config), chosen, rows, too_large)


def _refuse_missing(trace: Trace, config: ReplayConfig) -> None:
    """Refuses a trace that lacks what the options ask for, or has what they give."""
    if trace.prompt is None and config.prompt is None:
        raise ValueError(f"{trace.source}: has no prompt lengths; give one for all with --prompt")
    if trace.prompt is not None and config.prompt is not None:
        raise ValueError(f"{trace.source}: has prompt lengths of its own; expected no --prompt")
    needs_times = specs.arrivals(config.arrivals).kind in ("rounds", "trace")
    if trace.arrival_seconds is None and needs_times:
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
    reads = any(policies.policy(name).reads_predictions for name in config.policies)
    if config.interval is None and trace.lower is None and not reads:
        config, own = dataclasses.replace(config, interval="exact"), False
    if own and trace.lower is None:
        raise ValueError(
            f"{trace.source}: has no predictions of the output lengths; give some with --interval"
        )
    source = None if own else specs.interval(config.interval).source(config.memory)
    kind, number = dataclasses.astuple(specs.arrivals(config.arrivals))
    unit = {"rounds": {"rounds_per_second": 1 / (number or 1)}, "trace": {"speed": number}}
    key = jax.random.key(config.seed or 0)
    try:
        instance = trace.instance(
            config.memory, intervals=source, key=key, prompt=config.prompt, **unit.get(kind, {})
        )
    except ValueError as error:
        text = str(error).replace(intervals.OPEN_ENDED, "edges:… takes them into its last class")
        raise ValueError(f"{trace.source}: {text}") from None
    if kind == "poisson":
        times = arrivals.poisson_seconds(number)
        key = draws.purpose(key, generate.ARRIVALS)
        instance = instance.replace(arrival=times(key, (len(trace),)))
        check_instance(instance)
    return instance
