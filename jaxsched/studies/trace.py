"""The trace section: which file of requests, how it is read, and which of them are taken.

One dataclass for all commands: its fields are the keys of the table [trace] of configurations and,
with hyphens, options of the commands. `trace = "FILE"` is short for a table with that path.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
from typing import Self

import numpy as np

from jaxsched.policies.files import digest
from jaxsched.toml import at_least, later, one_of, several
from jaxsched.workloads import Trace, traces
from jaxsched.workloads.texts import class_edges

FORMAT_NAMES = ("auto", *traces.FORMATS)


@dataclasses.dataclass(frozen=True)
class TraceConfig:
    """The table [trace]; `TRACE_OPTIONS` are the same as options of commands."""

    path: str = ""  # of the file
    format: str = "auto"  # one of `FORMAT_NAMES`; "auto" goes by the file's columns
    columns: tuple[str, ...] = ()  # FIELD=COLUMN for a file of no known format
    # Prompt length of every request, for a trace without prompts
    prompt: int | None = at_least(1, default=None)
    skip_too_large: bool = False  # leave out requests that need more than the memory
    skip_zero_output: bool = False  # leave out requests without output, such as failed ones
    # Of the file's bytes, so that results say which trace they are of; commands fill it in
    sha256: str = ""
    skip_zero_prompt: bool = later(default=False)  # leave out requests without prompt
    limit: int | None = later(1, default=None)  # take so many requests; None for all
    # START:END, seconds of the file's times (dates count from the first request)
    window: str | None = later(default=None)
    # Seconds of arrivals that are simulated and do not count in metrics
    warm_up: float | None = later(0, default=None)

    def __post_init__(self) -> None:
        one_of("format", self.format, FORMAT_NAMES)
        if self.columns and self.format != "auto":
            raise ValueError(f"format is {self.format!r}; expected no format with named columns")
        for pair in self.columns:
            if not all(pair.partition("=")):
                raise ValueError(f"columns: got {pair!r}; expected FIELD=COLUMN")
        if self.columns:
            several("columns", tuple(pair.partition("=")[0] for pair in self.columns))
        self.seconds  # noqa: B018 (it refuses what is no window)

    @property
    def named(self) -> dict[str, str]:
        """Field -> column, of those that are named."""
        return {field: name for field, _, name in (x.partition("=") for x in self.columns)}

    @property
    def seconds(self) -> tuple[float, float] | None:
        """The window, from the first second to the one that is not in it any more."""
        if self.window is None:
            return None
        start, colon, end = self.window.partition(":")
        try:
            first, last = float(start or 0), float(end or math.inf)
        except ValueError:
            first, last = math.nan, math.nan
        if not colon or not 0 <= first < last:
            text = "expected START:END in seconds, such as 3600:7200"
            raise ValueError(f"window: got {self.window!r}; {text}")
        return first, last

    def with_digest(self) -> Self:
        """The same with the digest of the file.

        ValueError if it has another one; OSError if the file cannot be read.
        """
        found = digest(traces.located(self.path))
        if self.sha256 not in ("", found):
            text = f"got {self.sha256!r}; expected {found!r}, that of {self.path}"
            raise ValueError(f"trace.sha256: {text}")
        return dataclasses.replace(self, sha256=found)

    def changed(self) -> set[str]:
        """The fields that do not have their default."""
        fields = dataclasses.fields(self)
        return {field.name for field in fields if getattr(self, field.name) != field.default}


TRACE_OPTIONS: dict[str, tuple[str | None, str]] = {
    "format": ("NAME", "format of the trace, see below; default: by its columns"),
    "columns": ("FIELD=NAME,…", "columns of the trace, see below; a.b for nested ones"),
    "prompt": ("S", "prompt length, for a trace that has none"),
    "limit": ("N", "take N requests, the first"),
    "window": ("START:END", "take those that arrive in these seconds of the trace"),
    "warm_up": ("S", "leave requests of the first S seconds out of the metrics: of simulate, "
                "capacity and serving studies"),
    "skip_too_large": (None, "leave out requests that can never fit into M, instead of refusing "
                       "the trace"),
    "skip_zero_output": (None, "leave out requests without output, such as failed ones"),
    "skip_zero_prompt": (None, "leave out requests without prompt"),
}  # fmt: skip
"""Fields of `TraceConfig` that are options of commands: what stands for the value, and the help."""

FLAGS = {"zero_output": "skip_zero_output", "zero_prompt": "skip_zero_prompt"}
"""Options of readers, and the fields that set them."""


def option_of(name: str) -> str:
    """How a command calls a field."""
    return f"--{name.replace('_', '-')}"


def in_command(option: str, value: str) -> str:
    """How commands name an option of a reader."""
    return option_of(FLAGS[option]) if option in FLAGS else f"{option_of(option)} {value}"


def in_configuration(option: str, value: str) -> str:
    """How commands with a configuration name an option of a reader."""
    key = f"{FLAGS[option]} = true" if option in FLAGS else f'{option} = "{value}"'
    if option == "columns":
        key = f"columns = [{', '.join(map(json.dumps, value.split(',')))}]"
    return f"{in_command(option, value)} ({key} in [trace])"


def read_requests(
    config: TraceConfig, memory: int, *, configured: bool = True, interval: str | None = None
) -> Trace:
    """The requests that are taken, for a worker of this memory.

    `configured` says whether errors name keys of the table as well; `interval` what predicted
    classes are, as in `read_section`.

    Raises:
      ValueError: If the file is malformed, or lacks what is asked for.
      OSError: If it cannot be read.
    """
    trace = read_section(config, memory, configured=configured, interval=interval)
    most = memory - (config.prompt or 0) if config.skip_too_large else None
    return trace.taken(most, config.limit)


def read_section(
    config: TraceConfig,
    memory: int,
    *,
    configured: bool = True,
    interval: str | None = None,
    limited: bool = True,
) -> Trace:
    """The same before too large requests are left out and a limit is kept.

    Args:
      config: The section.
      memory: KV cache in tokens.
      configured: As in `read_requests`.
      interval: The prediction "edges:…", for a column of predicted classes.
      limited: Whether reading may stop after the first `limit` requests.
    """
    path = traces.located(config.path)
    what = "a first prediction" if configured else "--interval"
    edges = _edges(interval, memory, what) if "predicted" in config.named else None
    most = memory - (config.prompt or 0) if config.skip_too_large else None
    choice = traces.Taken(
        zero_output="skip" if config.skip_zero_output else "error",
        zero_prompt="skip" if config.skip_zero_prompt else "error",
        most=most,
        window=config.seconds,
        limit=config.limit if limited else None,
        option=in_configuration if configured else in_command,
    )
    try:
        status = os.stat(path)
        version = (status.st_mtime_ns, status.st_size)
    except OSError:
        version = (0, 0)  # which reading says better
    trace = _read(config.path, version, config.format, config.columns, edges, choice)
    if trace.prompt is None and config.prompt is not None:
        given = np.full(len(trace), config.prompt, np.int32)
        return dataclasses.replace(trace, prompt=given)
    if trace.prompt is None:
        option = in_configuration if configured else in_command
        raise ValueError(
            f"{trace.source}: has no prompt lengths; give one for all with {option('prompt', 'S')}"
        )
    if config.prompt is not None:
        raise ValueError(f"{trace.source}: has prompt lengths of its own; expected no --prompt")
    return trace


@functools.lru_cache(maxsize=4)
def _read(
    path: str,
    version: tuple[int, int],
    known: str,
    columns: tuple[str, ...],
    edges: tuple[int, ...] | None,
    choice: traces.Taken,
) -> Trace:
    """Kept, as several parts of a command ask for the same; `version` tells changed files apart."""
    if columns:
        named = TraceConfig(columns=columns).named
        return traces.read_rows(path, traces.Format(named, edges=edges), choice)
    return traces.read_rows(path, known, choice)


def _edges(interval: str | None, memory: int, what: str) -> tuple[int, ...]:
    """Class edges for a column of predicted classes, from the interval "edges:…"."""
    kind, _, rest = (interval or "").partition(":")
    if kind != "edges":
        raise ValueError(f"columns: predicted needs {what} edges:… to say what the classes are")
    return class_edges([int(edge) for edge in rest.split(",")], memory)


def check_fit(trace: Trace, memory: int) -> Trace:
    """The trace, whose requests all fit into the memory.

    ValueError if one does not; the text names its place in the file, and its number if it has one.
    """
    total = trace.prompt + trace.output.astype(np.int64)
    if np.any(never := total > memory):
        row = int(np.argmax(never))
        which, key = "", " (skip_too_large = true in [trace])"
        if trace.number is not None:  # chosen by options of a command
            which, key = f" request {trace.number[row]} (counted from 0 in order of arrival):", ""
        raise ValueError(
            f"{trace.place(row)}:{which} prompt + output is {trace.prompt[row]} + "
            f"{trace.output[row]}; expected at most memory = {memory}; {int(np.sum(never)):,} of "
            f"the requests can never fit, --skip-too-large{key} leaves them out"
        )
    return trace
