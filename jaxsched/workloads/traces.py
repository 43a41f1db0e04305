"""Traces of real requests, as arrays, lengths to draw from or one instance, and how to read them.

Files are CSV, JSON lines or Parquet, plain or gzipped, told apart by content. A malformed row is
refused with file, line and column. Rows are kept in the order of arrival (a stable sort). An entry
of `FORMATS` is all that a new format takes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxsched.instance import Instance, check_instance
from jaxsched.workloads import columns as files
from jaxsched.workloads import draws, generate, intervals
from jaxsched.workloads.arrivals import to_rounds, trace_seconds
from jaxsched.workloads.checks import whole
from jaxsched.workloads.embedded import CLASS_EDGES
from jaxsched.workloads.lengths import DrawnLengths, Lengths, empirical
from jaxsched.workloads.marginals import Marginal

LENGTH_FIELDS = ("prompt", "output", "lower", "upper")

TIME_UNITS = {"arrival_seconds": "s", "arrival_milliseconds": "ms", "arrival_timestamp": "date"}
"""Columns of arrivals; a file has at most one."""

FIELDS = (*LENGTH_FIELDS, "predicted", *TIME_UNITS)
"""What the columns of a file can be."""


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """Requests of a trace in the order of arrival.

    Attributes:
      output: Output lengths in tokens, int32 of shape [K].
      prompt: Prompt lengths in tokens, int32 of shape [K]; None if the file has none.
      arrival_seconds: Arrival times in seconds, non-decreasing, float64 of shape [K]; None if the
        file has none. Dates count from the first request.
      lower: Lower bounds of the predicted output lengths, int32 of shape [K], or None.
      upper: Upper bounds, likewise.
      line: Line of the file that each request ends in (of a Parquet file its row), from 1, of shape
        [K], or None.
      source: Path of the file.
      skipped: Rows left out because their output was 0 and the caller asked for that.
      moved: Rows that arrived earlier than a row before them in the file, before sorting.
      unterminated: Whether it is CSV whose last line does not end in a newline, as if cut off.
    """

    output: np.ndarray
    prompt: np.ndarray | None = None
    arrival_seconds: np.ndarray | None = None
    lower: np.ndarray | None = None
    upper: np.ndarray | None = None
    line: np.ndarray | None = None
    source: str = ""
    skipped: int = 0
    moved: int = 0
    unterminated: bool = False

    def __len__(self) -> int:
        return len(self.output)

    def select(self, rows: slice | np.ndarray) -> Trace:
        """The trace of some rows: a slice, a mask of shape [K] or increasing row numbers.

        Raises:
          ValueError: If no row is left.
        """
        columns = vars(self).items()
        picked: dict[str, Any] = {k: c[rows] for k, c in columns if isinstance(c, np.ndarray)}
        if not len(picked["output"]):
            raise ValueError(f"{self.source}: none of the {len(self)} requests is left")
        return dataclasses.replace(self, **picked)

    def lengths(self, prompt: int | Marginal | None = None) -> Lengths:
        """Lengths drawn from the trace's rows, each with its own interval if the trace has them.

        Args:
          prompt: Prompt length, or law of it, for a trace that has no prompts.
        """
        return empirical(self._prompts(prompt), self.output, lower=self.lower, upper=self.upper)

    def instance(
        self,
        memory: int,
        *,
        intervals: intervals.IntervalSource | None = None,
        key: jax.Array | None = None,
        prompt: int | None = None,
        limit: int | None = None,
        rounds_per_second: float | None = None,
        speed: float | None = None,
        point: generate.PointSource | None = None,
    ) -> Instance:
        """The trace itself as one instance, request i being row i.

        Args:
          memory: KV cache in tokens.
          intervals: Where predictions come from; `None` for the trace's own.
          key: Key for random intervals or points; those that are not random need none.
          prompt: Prompt length for a trace that has no prompts.
          limit: Use the first `limit` requests only.
          rounds_per_second: Turns arrival times into rounds, ceil((t_i - t_0) · rounds_per_second);
            `None` for a backlog.
          speed: Keeps arrival times in seconds, (t_i - t_0) / speed, for simulations under a clock;
            1.0 for the trace's own rate of arrivals.
          point: Where point predictions come from; `None` for the interval's midpoint.

        Raises:
          TypeError: If memory, prompt or limit are no integers.
          ValueError: If a request needs more than the memory, predictions, prompts or arrivals are
            asked for but missing, or arrivals are asked for in both units.
        """
        if limit is not None and whole("limit", limit) > len(self):
            raise ValueError(f"limit is {limit}; expected 1 to the trace's {len(self)} requests")
        rows = self.select(slice(limit))
        ways = (generate.INTERVALS, generate.POINT)
        keys = [None if key is None else draws.purpose(key, way) for way in ways]
        own = DrawnLengths(rows.output, rows.output, rows.lower, rows.upper)
        lower, upper = generate.predict(keys[0], intervals, own)
        instance = Instance(
            prompt=np.broadcast_to(np.asarray(rows._prompts(prompt), np.int32), rows.output.shape),
            output=rows.output,
            lower=lower,
            upper=upper,
            memory=np.asarray(memory),
            arrival=rows._arrival(rounds_per_second, speed),
            point=generate.points(keys[1], point, rows.output, lower, upper),
        )
        check_instance(instance)
        return instance

    def _prompts(self, given: int | Marginal | None) -> np.ndarray | int | Marginal:
        if self.prompt is None and given is None:
            raise ValueError(f"{self.source}: has no prompts; expected prompt=")
        if given is None:
            return self.prompt
        if self.prompt is not None:
            raise ValueError(f"{self.source}: has prompts; expected no prompt=")
        return given if isinstance(given, Marginal) else whole("prompt", given)

    def _arrival(self, rounds_per_second: float | None, speed: float | None) -> np.ndarray | None:
        """Rounds or seconds from the first request on, or None for a backlog."""
        times = self.arrival_seconds
        if rounds_per_second is None and speed is None:
            return None
        if rounds_per_second is not None and speed is not None:
            raise ValueError("speed: expected no rounds_per_second= with it")
        if times is None:
            asked = "rounds_per_second" if speed is None else "speed"
            raise ValueError(f"{self.source}: has no arrivals; expected no {asked}=")
        if speed is None:
            return to_rounds(times - times[0], rounds_per_second)
        # Nothing is random in it, so any key will do.
        return trace_seconds(times, speed)(jax.random.key(0), times.shape)


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of files, known by the names of its columns; calling it reads a file."""

    columns: dict[str, str]  # of the file, for each of the `FIELDS`; an arrival's says its unit
    optional: tuple[str, ...] = ()  # lengths are often published without arrivals
    edges: Sequence[int] | None = None  # of the predicted classes, if it has such

    def fits(self, names: Sequence[str]) -> bool:
        """Whether a file with columns of these names is of it."""
        needed = {column for field, column in self.columns.items() if field not in self.optional}
        return needed <= set(names)

    def __call__(
        self, path: files.Path, *, edges: Sequence[int] | None = None, zero_output: str = "error"
    ) -> Trace:
        """Reads a file, as `read_table`; `edges` in place of the format's own."""
        given = self if edges is None else dataclasses.replace(self, edges=edges)
        return _build(files.read(path), given, zero_output)


FORMATS: dict[str, Format] = {
    "vidur": Format(
        dict(prompt="num_prefill_tokens", output="num_decode_tokens", arrival_seconds="arrived_at"),
        optional=("arrival_seconds",),
    ),
    "azure": Format(
        dict(prompt="ContextTokens", output="GeneratedTokens", arrival_timestamp="TIMESTAMP")
    ),
    "mooncake": Format(
        dict(prompt="input_length", output="output_length", arrival_milliseconds="timestamp")
    ),
    "burstgpt": Format(
        dict(prompt="Request tokens", output="Response tokens", arrival_seconds="Timestamp")
    ),
    "servegen": Format(
        dict(prompt="input_tokens", output="output_tokens", arrival_seconds="timestamp"),
        optional=("arrival_seconds",),
    ),
    # Of arXiv 2404.08509 (James-QiuHaoran/LLM-serving-with-proxy-models), without prompts: give
    # them to `Trace.lengths` or `Trace.instance`.
    "lmsys_proxy": Format(
        dict(output="output_token_length", predicted="predicted_length"), edges=CLASS_EDGES
    ),
}
"""Known formats; each is also a function `read_NAME`."""


def __getattr__(name: str) -> Format:
    if name.startswith("read_") and name[5:] in FORMATS:
        return FORMATS[name[5:]]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def format_rows() -> Iterator[tuple[str, str]]:
    """Rows of the documentation's table: reader, columns."""
    notes = {field: f" ({unit})" for field, unit in TIME_UNITS.items()} | {
        "predicted": " (a class)"
    }
    for name, known in FORMATS.items():
        texts = (
            f"{'optionally ' * (field in known.optional)}`{column}`{notes.get(field, '')}"
            for field, column in known.columns.items()
        )
        yield f"`read_{name}`", ", ".join(texts)


def read_trace(path: files.Path, *, zero_output: str = "error") -> Trace:
    """Reads a trace of any known format, recognized by the names of its columns.

    Args:
      path: The file.
      zero_output: What to do with requests of 0 output tokens (failed ones, in BurstGPT): "error"
        refuses the file, "skip" leaves them out and counts them in `Trace.skipped`.

    Raises:
      ValueError: If no format, or more than one, fits the columns, or the file is malformed.
    """
    table = files.read(path)
    fits = [name for name, known in FORMATS.items() if known.fits(table.names)]
    if len(fits) != 1:
        known = "; ".join(f"{name}: {', '.join(f.columns.values())}" for name, f in FORMATS.items())
        raise ValueError(
            f"{path}: the columns {', '.join(table.names)} fit {len(fits)} formats "
            f"({', '.join(fits) or 'none'}); expected one of {known}; or use read_table"
        )
    return _build(table, FORMATS[fits[0]], zero_output)


def read_table(
    path: files.Path,
    columns: Mapping[str, str],
    *,
    edges: Sequence[int] | None = None,
    zero_output: str = "error",
) -> Trace:
    """Reads any file of requests, CSV, JSON lines or Parquet, whose columns the caller names.

    Args:
      path: The file.
      columns: The file's column for each field it has: output; optionally prompt, lower and
        upper, or predicted (a class, with `edges`); and one of arrival_seconds,
        arrival_milliseconds, arrival_timestamp.
      edges: Class edges for predicted: class j is the lengths edges[j] … edges[j + 1] - 1.
      zero_output: As in `read_trace`.

    Raises:
      ValueError: If a field is unknown, a column is missing, or a row is malformed.
    """
    return Format(dict(columns), edges=edges)(path, zero_output=zero_output)


def _build(table: files.Table, known: Format, zero_output: str) -> Trace:
    edges, columns = known.edges, dict(known.columns)
    for field in known.optional:
        if columns[field] not in table.names:
            del columns[field]
    _check_columns(table, columns, zero_output, edges)
    kept = _without_zeros(table, columns["output"], zero_output)
    values = {
        field: np.asarray(kept.column(column, files.integer(1)), np.int32)
        for field, column in columns.items()
        if field in LENGTH_FIELDS
    }
    if "lower" in values and np.any(crossed := values["lower"] > values["upper"]):
        row, beside = int(np.argmax(crossed)), columns["lower"]
        text = f"{values['upper'][row]} is less than {values['lower'][row]} in {beside!r}"
        kept.refuse(row, columns["upper"], text)
    if edges is not None:
        predicted = np.asarray(kept.column(columns["predicted"], files.integer(0, len(edges) - 2)))
        values["lower"], values["upper"] = intervals.from_classes(edges, predicted)(None, predicted)
    times = _times(kept, columns)
    moved = 0 if times is None else int(np.sum(times < np.maximum.accumulate(times)))
    trace = Trace(
        **values,
        arrival_seconds=times,
        line=np.asarray(kept.lines, np.int64),
        source=table.path,
        skipped=len(table.rows) - len(kept.rows),
        moved=moved,
        unterminated=table.unterminated,
    )
    return trace.select(np.argsort(times, kind="stable")) if moved else trace


def _check_columns(
    table: files.Table, columns: dict[str, str], zero_output: str, edges: Sequence[int] | None
) -> None:
    unknown = [field for field in columns if field not in FIELDS]
    if unknown:
        raise ValueError(f"columns: {unknown[0]!r} is no field; expected some of {list(FIELDS)}")
    missing = [column for column in columns.values() if column not in table.names]
    if missing:
        raise ValueError(
            f"{table.path}:1: column {missing[0]!r} is missing; expected the columns "
            f"{', '.join(columns.values())}, found {', '.join(table.names)}"
        )
    if "output" not in columns or ("lower" in columns) != ("upper" in columns):
        raise ValueError(f"columns: got {list(columns)}; expected output, and lower with upper")
    if len(set(TIME_UNITS) & set(columns)) > 1:
        raise ValueError(f"columns: got {list(columns)}; expected at most one arrival")
    if ("predicted" in columns) != (edges is not None) or {"predicted", "lower"} <= set(columns):
        raise ValueError("columns: expected edges with predicted, and no lower and upper then")
    if zero_output not in ("error", "skip"):
        raise ValueError(f"zero_output is {zero_output!r}; expected 'error' or 'skip'")


def _without_zeros(table: files.Table, column: str, zero_output: str) -> files.Table:
    # Zeros pass here, and are then refused with the number of them.
    outputs = table.column(column, files.integer(0, shown=int(zero_output == "error")))
    if 0 not in outputs:
        return table
    if zero_output == "error":
        row, such = outputs.index(0), f"{outputs.count(0)} such rows"
        text = f"{table.rows[row][table.names.index(column)]!r} is not an integer of at least 1"
        table.refuse(row, column, f"{text} ({such}; zero_output='skip' leaves them out)")
    kept = table.kept([output > 0 for output in outputs])
    if not kept.rows:
        raise ValueError(f"{table.path}: column {column!r}: all rows are 0; expected a request")
    return kept


def _times(table: files.Table, columns: dict[str, str]) -> np.ndarray | None:
    for field, per_second in (("arrival_seconds", 1.0), ("arrival_milliseconds", 1000.0)):
        if field in columns:
            return np.asarray(table.column(columns[field], files.finite_seconds)) / per_second
    if "arrival_timestamp" not in columns:
        return None
    # Whole seconds first: seconds since 1970 in float64 would lose the seventh digit.
    stamps = table.column(columns["arrival_timestamp"], files.timestamp)
    seconds, nanoseconds = (np.asarray(stamps, np.int64) - min(stamps)).T
    return seconds + nanoseconds / 1e9
