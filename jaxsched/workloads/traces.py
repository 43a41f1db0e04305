"""Traces of real requests, as arrays, lengths to draw from or one instance, and how to read them.

Files are CSV, JSON or Parquet, plain or compressed, told apart by content. A malformed row is
refused with file, line and column. Rows are kept in the order of arrival (a stable sort). An entry
of `FORMATS` is all that a new format takes.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from jaxsched.instance import Instance, check_instance
from jaxsched.toml import unknown
from jaxsched.workloads import columns as files
from jaxsched.workloads import draws, generate, intervals
from jaxsched.workloads.arrivals import to_rounds, trace_seconds
from jaxsched.workloads.checks import whole
from jaxsched.workloads.embedded import CLASS_EDGES
from jaxsched.workloads.files import Path
from jaxsched.workloads.lengths import DrawnLengths, Lengths, empirical
from jaxsched.workloads.marginals import Marginal

LENGTH_FIELDS = ("prompt", "output", "lower", "upper")

TIME_UNITS = {
    "arrival_seconds": "s",
    "arrival_milliseconds": "ms",
    "arrival_microseconds": "us",
    "arrival_nanoseconds": "ns",
    "arrival_timestamp": "date",
}
"""Columns of arrivals; a file has at most one."""

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9, "date": 10**9}
"""Steps of a second, by unit; dates are read as nanoseconds."""

FIELDS = (*LENGTH_FIELDS, "predicted", *TIME_UNITS)
"""What the columns of a file can be."""

EPOCH = 2**28
"""Seconds, 8.5 years: times that begin later are dates, and count from the first request."""

DATES = (10**9, 4 * 10**9)
"""Seconds since 1970 of the years 2001 to 2096: where dates begin tells their unit."""

MOST_TOKENS, MOST_REQUESTS = 20_000, 1000
"""What can arrive in a second where the unit of times is a guess."""

SESSIONS = ("session_id", "Session ID", "chat_id", "conversation_id", "parent_chat_id")
"""Names of columns that say which requests belong together, which is not looked at."""

SAMPLE = "sample"
"""The name of the trace that ships with the package, where no file has it."""

Naming = Callable[[str, str], str]
"""(option, value) -> how the caller's words for them are; for `limit`, "100" such as limit=100."""


def in_python(option: str, value: str) -> str:
    """How functions name an option."""
    if option == "columns":
        fields = (pair.replace("=", "='") + "'" for pair in value.split(","))
        return f"read_table(path, dict({', '.join(fields)}))"
    return f"{option}={value}"


@dataclasses.dataclass(frozen=True)
class Taken:
    """Which requests of a file are taken.

    Attributes:
      zero_output: What to do with requests of 0 output tokens (failed ones, in BurstGPT): "error"
        refuses the file, "skip" leaves them out and counts them in `Trace.skipped`.
      zero_prompt: The same for prompts of 0 tokens, and `Trace.skipped_prompt`.
      most: Requests of more tokens, prompt and output together, are left out and counted in
        `Trace.too_large`; None for no limit.
      window: First and last second of arrivals, the last not included, as the file counts them
        (dates count from its first request); None for all.
      limit: The first so many requests of those; None for all.
      option: How errors name these options.

    Where rows are in order of arrival, reading stops after the block of rows that has the last one.
    """

    zero_output: str = "error"
    zero_prompt: str = "error"
    most: int | None = None
    window: tuple[float, float] | None = None
    limit: int | None = None
    option: Naming = in_python

    def __post_init__(self) -> None:
        for name in ("zero_output", "zero_prompt"):
            if getattr(self, name) not in ("error", "skip"):
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected 'error' or 'skip'")
        if self.limit is not None:
            whole("limit", self.limit)
        if self.window is not None and not 0 <= self.window[0] < self.window[1]:
            raise ValueError(f"window is {self.window}; expected START less than END, in seconds")


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
      skipped_prompt: Those whose prompt was 0, likewise.
      too_large: Those of more tokens than the caller asked for.
      format: Name of its format; "" if the caller named the columns.
      time: What arrivals were read from, such as "timestamp in ms"; "" if there are none.
      stopped: Line (row) after which reading stopped, as the rest comes later; 0 if all was read.
      sessions: A column that says which requests belong together, or "".
      between: What stands between file and line where a request's place is named.
      moved: Rows that arrived earlier than a row before them in the file, before sorting.
      unterminated: Whether it is CSV whose last line does not end in a newline, as if cut off.
      doubt: What else its columns could be, and what to do then; "" if nothing.
      number: Which request of a trace each one was before some were chosen, of shape [K], or None.
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
    skipped_prompt: int = 0
    too_large: int = 0
    format: str = ""
    time: str = ""
    stopped: int = 0
    sessions: str = ""
    between: str = ":"
    doubt: str = ""
    number: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.output)

    @property
    def rate(self) -> float:
        """Requests per second between the first arrival and the last; NaN if there are none."""
        span = self._span
        return (len(self) - 1) / span if span > 0 else math.nan

    @property
    def _span(self) -> float:
        times = self.arrival_seconds
        return 0.0 if times is None else float(np.max(times) - np.min(times))

    def place(self, request: int) -> str:
        """File and line (row) of a request, as errors name them."""
        if self.line is None:
            return self.source
        return f"{self.source}{self.between}{self.line[request]}"

    def taken(self, most: int | None, limit: int | None = None) -> Trace:
        """Without the requests of more tokens than `most`, and the first `limit` of those.

        Raises:
          ValueError: If none is left, or fewer than `limit`.
        """
        trace = self
        if most is not None:
            total = self.output.astype(np.int64) + (0 if self.prompt is None else self.prompt)
            large = int(np.sum(total > most))
            if large == len(self):
                text = f"all {large:,} requests have more than {most:,} tokens, prompt and output"
                raise ValueError(f"{self.source}: {text}")
            trace = self.select(total <= most) if large else self
            trace = dataclasses.replace(trace, too_large=self.too_large + large)
        if limit is not None and limit > len(trace):
            fit = " that fit" if most is not None else ""
            raise ValueError(
                f"limit: got {limit}; expected at most {len(trace)}, the requests of "
                f"{self.source}{fit}"
            )
        return trace if limit is None else trace.select(slice(limit))

    def notes(self) -> Iterator[str]:
        """What a reader of results should know about it, in lines; the first says what it is."""
        rate = "no arrival times"
        if self.time:
            rate = f"{self.time}: {self.rate:,.4g} requests/s over {self._span:,.6g} s"
        if self.time and not self._span:
            rate = f"{self.time}: all at once"
        known = self.format or "named columns"
        yield f"trace: {self.source}, {known}, {len(self):,} requests, {rate}"
        if self.doubt:
            yield self.doubt
        if self.stopped:
            yield f"read up to line {self.stopped:,}; rows are in order of arrival up to there"
        if self.sessions:
            yield f"{self.sessions!r} is not looked at: every turn arrives at its own time"
        if self.unterminated:
            yield f"the last line of {self.source} does not end in a newline; was it cut off?"
        if self.moved:
            yield f"{self.moved:,} rows were out of order, sorted by arrival"
        whys = ("can never fit", "no output", "no prompt")
        for count, why in zip(
            (self.too_large, self.skipped, self.skipped_prompt), whys, strict=True
        ):
            if count:
                yield f"left out: {count:,} requests of the trace ({why})"

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
    known_by: tuple[str, ...] = ()  # further columns that every such file has
    maybe: tuple[str, ...] = ()  # and that it may have

    def fits(self, names: Sequence[str]) -> bool:
        """Whether a file with columns of these names is of it."""
        needed = {column for field, column in self.columns.items() if field not in self.optional}
        return needed | set(self.known_by) <= set(names)

    def seen(self, names: Sequence[str]) -> frozenset[str]:
        """The columns of the file that it accounts for."""
        return frozenset((*self.columns.values(), *self.known_by, *self.maybe)) & set(names)

    def __call__(self, path: Path, *, edges: Sequence[int] | None = None, **choice: Any) -> Trace:
        """Reads a file; `edges` in place of the format's own, the rest as in `Taken`.

        Raises:
          ValueError: If a column is missing, or a row is malformed.
          OSError: If the file cannot be read.
        """
        given = self if edges is None else dataclasses.replace(self, edges=edges)
        chosen = Taken(**choice)
        return read_rows(path, given, chosen).taken(chosen.most, chosen.limit)


def _mooncake(unit: str, **known: tuple[str, ...]) -> Format:
    """Columns that several use, each with a unit of its own."""
    columns = {"prompt": "input_length", "output": "output_length", unit: "timestamp"}
    return Format(columns, **known)  # type: ignore[arg-type]


FORMATS: dict[str, Format] = {
    "vidur": Format(
        dict(prompt="num_prefill_tokens", output="num_decode_tokens", arrival_seconds="arrived_at"),
        optional=("arrival_seconds",),
    ),
    "azure": Format(
        dict(prompt="ContextTokens", output="GeneratedTokens", arrival_timestamp="TIMESTAMP")
    ),
    "mooncake": _mooncake("arrival_milliseconds", maybe=("hash_ids",)),
    "guidellm": _mooncake("arrival_seconds"),
    "bailian": _mooncake(
        "arrival_seconds", known_by=("chat_id", "turn", "type"), maybe=("hash_ids",)
    ),
    "burstgpt": Format(
        dict(prompt="Request tokens", output="Response tokens", arrival_seconds="Timestamp")
    ),
    "servegen": Format(
        dict(prompt="input_tokens", output="output_tokens", arrival_seconds="timestamp"),
        optional=("arrival_seconds",),
    ),
    # TraceV2 of the BLIS simulator, inference-sim.
    "blis": Format(
        dict(prompt="input_tokens", output="output_tokens", arrival_microseconds="arrival_time_us")
    ),
    # Mooncake's columns under other names, as NVIDIA Dynamo reads them.
    "dynamo": Format(
        dict(prompt="input_tokens", output="output_tokens", arrival_milliseconds="created_time")
    ),
    "baseten": Format(
        dict(
            prompt="input_tokens",
            output="output_tokens",
            arrival_milliseconds="timestamp_start_unix_ms",
        )
    ),
    "llmservingsim": Format(
        dict(prompt="input_toks", output="output_toks", arrival_nanoseconds="arrival_time_ns")
    ),
    # Request traces of SplitwiseSim.
    "splitwise": Format(
        dict(prompt="prompt_size", output="token_size", arrival_seconds="arrival_timestamp")
    ),
    # Records of AIPerf's profile export.
    "aiperf": Format(
        dict(
            prompt="metrics.input_sequence_length.value",
            output="metrics.output_sequence_length.value",
            arrival_nanoseconds="metadata.request_start_ns",
        )
    ),
    # Results of vLLM's and SGLang's serving benchmarks with details.
    "vllm": Format(
        dict(prompt="input_lens", output="output_lens", arrival_seconds="start_times"),
        optional=("arrival_seconds",),
    ),
    # Of arXiv 2404.08509 (James-QiuHaoran/LLM-serving-with-proxy-models), without prompts: give
    # them to `Trace.lengths` or `Trace.instance`.
    "lmsys_proxy": Format(
        dict(output="output_token_length", predicted="predicted_length"), edges=CLASS_EDGES
    ),
}
"""Known formats; each is also a function `read_NAME`. Of those with the same columns the first is
taken, unless that is not plausible."""


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
        by = [f"and `{column}`" for column in known.known_by]
        yield f"`read_{name}`", ", ".join((*texts, *by))


def read_trace(path: Path, *, format: str = "auto", **choice: Any) -> Trace:  # noqa: A002
    """Reads a trace of a known format, recognized by the names of all its columns.

    Args:
      path: The file; "sample" is one that ships with the package.
      format: Name of the format, one of `FORMATS`; "auto" goes by the columns.
      **choice: As in `Taken`.

    Raises:
      ValueError: If no format, or more than one, fits the columns, or the file is malformed.
      OSError: If the file cannot be read.
    """
    chosen = Taken(**choice)
    return read_rows(path, format, chosen).taken(chosen.most, chosen.limit)


def read_rows(path: Path, known: str | Format, choice: Taken) -> Trace:
    """The requests of a file in order of arrival, up to where reading stopped.

    What `choice` says of too large ones and of a limit is for `Trace.taken`. The rest is as in
    `read_trace`.
    """
    if isinstance(known, Format):
        name = next((name for name, one in FORMATS.items() if one == known), "")
        return _build(_open(path), known, choice, name)
    if known != "auto":
        if known not in FORMATS:
            raise ValueError(unknown(repr(known), known, ("auto", *FORMATS), "format"))
        return _build(_open(path), FORMATS[known], choice, known)
    source = _open(path)
    fits = _fitting(source.names)
    if len({FORMATS[name].seen(source.names) for name in fits}) != 1:
        raise _no_format(source, fits, choice.option)
    name = fits[0]
    trace = _build(source, FORMATS[name], choice, name)
    own = FORMATS[name].columns.values()
    alike = (x for x, one in FORMATS.items() if {*own} == {*one.columns.values()})
    same = [x for x in alike if FORMATS[x].fits(source.names)]
    if len(same) > 1 and not FORMATS[name].known_by:
        _check_plausible(trace, name, same, len(fits) > 1, choice.option)
    others = [f"{x} in {_unit(FORMATS[x])}: {choice.option('format', x)}" for x in fits[1:]]
    if trace.time and others:
        doubt = f"files of other formats have the same columns, of {' and '.join(others)}"
        return dataclasses.replace(trace, doubt=doubt)
    return trace


def read_table(
    path: Path,
    columns: Mapping[str, str],
    *,
    edges: Sequence[int] | None = None,
    **choice: Any,
) -> Trace:
    """Reads any file of requests, CSV, JSON or Parquet, whose columns the caller names.

    Args:
      path: The file.
      columns: The file's column for each field it has, `a.b` for one in another: output; optionally
        prompt, lower and upper, or predicted (a class, with `edges`); and one of `TIME_UNITS`.
      edges: Class edges for predicted: class j is the lengths edges[j] … edges[j + 1] - 1.
      **choice: As in `Taken`.

    Raises:
      ValueError: If a field is unknown, a column is missing, or a row is malformed.
      OSError: If the file cannot be read.
    """
    return Format(dict(columns), edges=edges)(path, **choice)


def located(path: Path) -> Path:
    """The file that a path stands for: itself, or for "sample" the one in the package."""
    if str(path) == SAMPLE and not os.path.exists(path):
        return pathlib.Path(__file__).parent / "sample.csv"
    return path


def _open(path: Path) -> files.Source:
    source = files.open_source(located(path))
    if str(path) == SAMPLE:
        source.path = SAMPLE
    return source


def _fitting(names: Sequence[str]) -> list[str]:
    """The formats that fit, without those that account for less of the file than another."""
    seen = {name: known.seen(names) for name, known in FORMATS.items() if known.fits(names)}
    return [name for name, own in seen.items() if not any(own < other for other in seen.values())]


def _no_format(source: files.Source, fits: Sequence[str], option: Naming) -> ValueError:
    """Says what the file is, as far as that can be seen."""
    waits = next((name for name in files.DELAYS if name in source.names), None)
    named = f"name the columns with {option('columns', 'output=NAME,prompt=NAME')}"
    if waits is not None and not fits:
        return ValueError(f"{source.path}: {files.no_sessions(waits)}; for lengths alone {named}")
    for name, value in source.lists.items():
        if not fits and any(isinstance(item, dict) for item in value):
            return ValueError(f"{source.path}: {files.no_sub_requests(name, value)}")
    found = f"{source.path}: the columns {files.shortened(source.names)}"
    if fits:
        which = " or ".join(option("format", name) for name in fits)
        return ValueError(f"{found} fit {len(fits)} formats; say which it is: {which}")
    lists = [name for name, value in source.lists.items() if name != "hash_ids"]
    if lists:
        found += f" ({lists[0]!r} holds a list, as of sub-requests, which are not supported)"
    near = ", ".join(f"{name} (without {lacks})" for name, lacks in _nearest(source.names))
    near = f"; nearest: {near}" if near else ""
    example = option("columns", "output=NAME,prompt=NAME,arrival_seconds=NAME")
    return ValueError(
        f"{found} fit no known format{near}; name them with {example}; docs/workloads.md has all "
        "formats and fields"
    )


def _nearest(names: Sequence[str], most: int = 2) -> Iterator[tuple[str, str]]:
    """The formats that lack least, and no more than they find; and what they lack."""
    lacking = {
        name: [x for f, x in known.columns.items() if f not in known.optional and x not in names]
        for name, known in FORMATS.items()
    }
    order = sorted(lacking, key=lambda name: len(lacking[name]))
    near = [x for x in order if 2 * len(lacking[x]) <= len(FORMATS[x].columns)]
    for name in near[:most]:
        yield name, " and ".join(map(repr, lacking[name]))


def _check_plausible(
    trace: Trace, name: str, same: Sequence[str], guessed: bool, option: Naming
) -> None:
    """Refuses a unit that others with the same columns do not have, if it cannot be right.

    Args:
      trace: What was read, with the unit of the format `name`.
      name: The format.
      same: All formats with these columns.
      guessed: Whether nothing else says which it is; then too much must not arrive in a second.
      option: How the error names options.
    """
    span, times = trace._span, trace.arrival_seconds
    if times is None:
        return
    unit = _unit(FORMATS[name])
    tokens = np.sum(trace.output, dtype=np.int64) + np.sum(trace.prompt, dtype=np.int64)
    steps = times * PER_SECOND[unit]
    if not np.allclose(steps, np.rint(steps), rtol=0, atol=1e-6):
        why = "times lie between its steps"
    elif DATES[0] <= steps[0] < DATES[1]:
        why = f"they begin {times[0] / 86400:,.0f} days late, and as s they are dates"
    elif guessed and span and (tokens > MOST_TOKENS * span or len(times) > MOST_REQUESTS * span):
        load = f"{trace.rate:,.4g} requests and {tokens / span:,.4g} tokens"
        why = f"{load} arrive in a second"
    else:
        return
    which = " and ".join(f"{x} ({_unit(FORMATS[x])})" for x in same)
    formats = " or ".join(option("format", x) for x in same)
    raise ValueError(
        f"{trace.source}: {which} have the same columns; as {name} {why}, which is not plausible; "
        f"say which it is: {formats}"
    )


def _unit(known: Format) -> str:
    return next((TIME_UNITS[field] for field in known.columns if field in TIME_UNITS), "")


def _build(source: files.Source, known: Format, choice: Taken, name: str) -> Trace:
    """All rows that are asked for, in order of arrival."""
    edges, columns = known.edges, dict(known.columns)
    for field in known.optional:
        if columns[field] not in source.names:
            del columns[field]
    _check_columns(source, columns, edges, choice.option)
    when = next((field for field in columns if field in TIME_UNITS), "")
    unit = TIME_UNITS.get(when, "")
    if choice.window is not None and not unit:
        raise ValueError(f"{source.path}: has no arrival times; expected no window")
    found, stopped = _rows(source, columns, edges, choice)
    kept, seconds = np.ones(len(found["line"]), bool), None
    if unit:
        times = found.pop(when)
        _check_date(source, columns, when, np.min(times), choice.option)
        seconds = _seconds(times, unit, _base(times, unit))
    if choice.window is not None:
        kept &= _inside(seconds, choice.window)
        if not np.any(kept):
            raise ValueError(
                f"{source.path}: no request arrives in the window; arrivals are from "
                f"{np.min(seconds):,.6g} to {np.max(seconds):,.6g} s"
            )
    skipped = [_zeros(source, field, columns, found, kept, choice) for field in _ZERO]
    if edges is not None:
        classes = found.pop("predicted")
        found["lower"], found["upper"] = intervals.from_classes(edges, classes)(None, classes)
    if not np.all(kept):
        found = {field: values[kept] for field, values in found.items()}
        seconds = None if seconds is None else seconds[kept]
    _check_intervals(source, found, columns)
    moved = 0 if seconds is None else int(np.sum(seconds < np.maximum.accumulate(seconds)))
    trace = Trace(
        **found, arrival_seconds=seconds, source=source.path, skipped=skipped[0],
        skipped_prompt=skipped[1], moved=moved, unterminated=source.unterminated, format=name,
        time=f"{columns[when]} in {unit}" if unit else "", stopped=stopped,
        sessions=next((column for column in SESSIONS if column in source.names), ""),
        between=source.place,
    )  # fmt: skip
    return trace.select(np.argsort(seconds, kind="stable")) if moved else trace


_ZERO = ("output", "prompt")


def _kind(field: str, edges: Sequence[int] | None, choice: Taken) -> files.ColumnKind:
    if field in TIME_UNITS:
        return files.dates() if TIME_UNITS[field] == "date" else files.times()
    if field == "predicted":
        assert edges is not None
        return files.integer(0, len(edges) - 2)
    if field not in _ZERO:
        return files.integer(1)
    # Zeros pass here, and are then refused with the number of them.
    return files.integer(0, shown=int(getattr(choice, f"zero_{field}") == "error"))


def _rows(
    source: files.Source, columns: Mapping[str, str], edges: Sequence[int] | None, choice: Taken
) -> tuple[dict[str, Any], int]:
    """The columns by field, with `line`, and the line after which reading stopped (0: at the end).

    That is after the block with the last row that is asked for, if rows are in order up to there.
    """
    kinds = {column: _kind(field, edges, choice) for field, column in columns.items()}
    when = next((field for field in columns if field in TIME_UNITS), "")
    parts: list[dict[str, Any]] = []
    usable, stopped, base, last = 0, 0, 0, None
    ordered = choice.limit is not None or choice.window is not None
    for block in source.blocks(kinds):
        part = {field: block.columns[column] for field, column in columns.items()}
        parts.append({**part, "line": block.lines})
        if not ordered or not len(block.lines):
            continue
        good, late = (part["output"] > 0) & (part.get("prompt", 1) > 0), False
        if when:
            times = part[when]
            base = base if last is not None else _base(times, TIME_UNITS[when])
            ordered = bool((last is None or times[0] >= last) and np.all(times[1:] >= times[:-1]))
            last = times[-1]
        if not ordered:
            continue
        if choice.window is not None:
            seconds = _seconds(times, TIME_UNITS[when], base)
            good &= _inside(seconds, choice.window)
            late = bool(seconds[-1] >= choice.window[1])
        if choice.most is not None:
            good &= part["output"].astype(np.int64) + part.get("prompt", 1) <= choice.most
        usable += int(np.sum(good))
        if late or (choice.limit is not None and usable >= choice.limit):
            stopped = 0 if source.ended else int(block.lines[-1])
            break
    if not parts:
        raise ValueError(f"{source.path}: has a header but no rows; expected at least one request")
    found = {field: np.concatenate([part.pop(field) for part in parts]) for field in [*parts[0]]}
    return found, stopped


def _base(times: NDArray[Any], unit: str) -> Any:
    """What times count from: 0, of dates the first."""
    first = np.min(times)
    return first if unit == "date" or first / PER_SECOND[unit] > EPOCH else 0


def _seconds(times: NDArray[Any], unit: str, base: Any) -> NDArray[np.float64]:
    # Subtracted before they become floats, which would lose the last digits of a date.
    return (times - base) / float(PER_SECOND[unit])


def _inside(seconds: Any, window: tuple[float, float]) -> NDArray[np.bool_]:
    return (seconds >= window[0]) & (seconds < window[1])


def _check_date(
    source: files.Source, columns: Mapping[str, str], when: str, first: Any, option: Naming
) -> None:
    """Refuses times that would be dates of a later century."""
    unit = TIME_UNITS[when]
    if unit == "date" or first < DATES[1] * PER_SECOND[unit]:
        return
    advice = ""
    for field, other in TIME_UNITS.items():
        if other != "date" and DATES[0] <= first / PER_SECOND[other] < DATES[1]:
            named = {**columns, field: columns[when]}
            del named[when]
            pairs = ",".join(f"{field}={name}" for field, name in named.items())
            advice = f"; as {other} they are: {option('columns', pairs)}"
            break
    raise ValueError(
        f"{source.path}: column {columns[when]!r} begins at {first}, in {unit} no date of this "
        f"century{advice}"
    )


def _zeros(
    source: files.Source,
    field: str,
    columns: Mapping[str, str],
    found: Mapping[str, NDArray[Any]],
    kept: NDArray[np.bool_],
    choice: Taken,
) -> int:
    """Leaves rows of 0 tokens out of `kept`, or refuses them; returns how many there are."""
    if field not in columns:
        return 0
    zero = kept & (found[field] == 0)
    count, column = int(np.sum(zero)), columns[field]
    if count and getattr(choice, f"zero_{field}") == "error":
        such = f"{count:,} such row{'s' * (count > 1)}"
        advice = choice.option(f"zero_{field}", "'skip'")
        text = f"'0' is not an integer of at least 1 ({such}; {advice} leaves them out)"
        source.refuse(int(found["line"][np.argmax(zero)]), column, text)
    kept &= ~zero
    if not np.any(kept):
        raise ValueError(f"{source.path}: column {column!r}: all rows are 0; expected a request")
    return count


def _check_intervals(
    source: files.Source, values: Mapping[str, Any], columns: Mapping[str, str]
) -> None:
    if "lower" in columns and np.any(crossed := values["lower"] > values["upper"]):
        row, beside = int(np.argmax(crossed)), columns["lower"]
        text = f"{values['upper'][row]} is less than {values['lower'][row]} in {beside!r}"
        source.refuse(int(values["line"][row]), columns["upper"], text)


def _check_columns(
    source: files.Source, columns: dict[str, str], edges: Sequence[int] | None, option: Naming
) -> None:
    unknown_fields = [field for field in columns if field not in FIELDS]
    if unknown_fields:
        raise ValueError(
            f"columns: {unknown(repr(unknown_fields[0]), unknown_fields[0], FIELDS, 'field')}"
        )
    missing = [column for column in columns.values() if column not in source.names]
    if missing:
        raise ValueError(
            f"{source.path}:1: column {missing[0]!r} is missing; expected the columns "
            f"{', '.join(columns.values())}, found {files.shortened(source.names)}"
        )
    if "output" not in columns or ("lower" in columns) != ("upper" in columns):
        raise ValueError(f"columns: got {list(columns)}; expected output, and lower with upper")
    if len(set(TIME_UNITS) & set(columns)) > 1:
        raise ValueError(f"columns: got {list(columns)}; expected at most one arrival")
    if ("predicted" in columns) != (edges is not None) or {"predicted", "lower"} <= set(columns):
        raise ValueError("columns: expected edges with predicted, and no lower and upper then")
