"""Traces of real requests: Vidur, Azure, Mooncake, BurstGPT, ServeGen, and any named columns.

All readers take CSV, JSON lines or Parquet, plain or gzipped, told apart by content. A malformed
row is refused with file, line and column. Rows are kept in the order of arrival (a stable sort).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from jaxsched.workloads import intervals, tables
from jaxsched.workloads.embedded import CLASS_EDGES
from jaxsched.workloads.trace import Trace

FIELDS = (
    "prompt", "output", "lower", "upper", "predicted",
    "arrival_seconds", "arrival_milliseconds", "arrival_timestamp",
)  # fmt: skip
"""What the columns of a file can be; at most one of the arrivals."""

FORMATS: dict[str, dict[str, str]] = {
    "vidur": {
        "prompt": "num_prefill_tokens",
        "output": "num_decode_tokens",
        "arrival_seconds": "arrived_at",
    },
    "azure": {
        "prompt": "ContextTokens",
        "output": "GeneratedTokens",
        "arrival_timestamp": "TIMESTAMP",
    },
    "mooncake": {
        "prompt": "input_length",
        "output": "output_length",
        "arrival_milliseconds": "timestamp",
    },
    "burstgpt": {
        "prompt": "Request tokens",
        "output": "Response tokens",
        "arrival_seconds": "Timestamp",
    },
    "servegen": {
        "prompt": "input_tokens",
        "output": "output_tokens",
        "arrival_seconds": "timestamp",
    },
    "lmsys_proxy": {"output": "output_token_length", "predicted": "predicted_length"},
}
"""Columns of the known formats."""

OPTIONAL = {"vidur": ("arrival_seconds",), "servegen": ("arrival_seconds",)}
"""Fields that files of a format may lack: published lengths often come without arrivals."""


def read_trace(path: str | os.PathLike[str], *, zero_output: str = "error") -> Trace:
    """Reads a trace of any known format, recognized by the names of its columns.

    Args:
      path: The file.
      zero_output: What to do with requests of 0 output tokens (failed ones, in BurstGPT): "error"
        refuses the file, "skip" leaves them out and counts them in `Trace.skipped`.

    Raises:
      ValueError: If no format, or more than one, fits the columns, or the file is malformed.
    """
    table = tables.read(path)
    fits = [name for name in FORMATS if not _missing(table, name)]
    if len(fits) != 1:
        known = "; ".join(f"{name}: {', '.join(c.values())}" for name, c in FORMATS.items())
        raise ValueError(
            f"{path}: the columns {', '.join(table.names)} fit {len(fits)} formats "
            f"({', '.join(fits) or 'none'}); expected one of {known}; or use read_table"
        )
    return _read_format(table, fits[0], zero_output)


def read_vidur(path: str | os.PathLike[str], *, zero_output: str = "error") -> Trace:
    """Reads Vidur's columns [arrived_at,] num_prefill_tokens, num_decode_tokens."""
    return _read_format(tables.read(path), "vidur", zero_output)


def read_azure(path: str | os.PathLike[str], *, zero_output: str = "error") -> Trace:
    """Reads the Azure columns TIMESTAMP, ContextTokens, GeneratedTokens."""
    return _read_format(tables.read(path), "azure", zero_output)


def read_mooncake(path: str | os.PathLike[str], *, zero_output: str = "error") -> Trace:
    """Reads Mooncake's fields timestamp (ms), input_length, output_length; hash_ids are unused."""
    return _read_format(tables.read(path), "mooncake", zero_output)


def read_burstgpt(path: str | os.PathLike[str], *, zero_output: str = "error") -> Trace:
    """Reads BurstGPT's columns Timestamp (s), Request tokens, Response tokens."""
    return _read_format(tables.read(path), "burstgpt", zero_output)


def read_servegen(path: str | os.PathLike[str], *, zero_output: str = "error") -> Trace:
    """Reads ServeGen's columns [timestamp (s),] input_tokens, output_tokens."""
    return _read_format(tables.read(path), "servegen", zero_output)


def read_lmsys_proxy(
    path: str | os.PathLike[str],
    *,
    edges: Sequence[int] = CLASS_EDGES,
    zero_output: str = "error",
) -> Trace:
    """Reads real predictions: columns output_token_length, predicted_length (a class).

    The files of arXiv 2404.08509 (James-QiuHaoran/LLM-serving-with-proxy-models). They have no
    prompts: give them to `Trace.lengths` or `Trace.instance`.

    Args:
      path: The file.
      edges: Class j is the lengths edges[j] … edges[j + 1] - 1.
      zero_output: As in `read_trace`.
    """
    return _read_format(tables.read(path), "lmsys_proxy", zero_output, edges)


def read_table(
    path: str | os.PathLike[str],
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
    return _build(tables.read(path), dict(columns), zero_output, edges)


def _missing(table: tables.Table, name: str) -> list[str]:
    optional = OPTIONAL.get(name, ())
    needed = [column for field, column in FORMATS[name].items() if field not in optional]
    return [column for column in needed if column not in table.names]


def _read_format(
    table: tables.Table, name: str, zero_output: str, edges: Sequence[int] | None = None
) -> Trace:
    columns, optional = FORMATS[name], OPTIONAL.get(name, ())
    present = {f: c for f, c in columns.items() if c in table.names or f not in optional}
    if edges is None and "predicted" in columns:
        edges = CLASS_EDGES
    return _build(table, present, zero_output, edges)


def _build(
    table: tables.Table, columns: dict[str, str], zero_output: str, edges: Sequence[int] | None
) -> Trace:
    _check_columns(table, columns, zero_output, edges)
    kept = _without_zeros(table, columns["output"], zero_output)
    values = {
        field: np.asarray(kept.column(column, tables.integer(1)), np.int32)
        for field, column in columns.items()
        if field in ("prompt", "output", "lower", "upper")
    }
    if "lower" in values:
        _check_bounds(kept, columns, values["lower"], values["upper"])
    if "predicted" in columns:
        values["lower"], values["upper"] = _from_classes(kept, columns["predicted"], edges)
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
    table: tables.Table, columns: dict[str, str], zero_output: str, edges: Sequence[int] | None
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
    if sum(field.startswith("arrival") for field in columns) > 1:
        raise ValueError(f"columns: got {list(columns)}; expected at most one arrival")
    if ("predicted" in columns) != (edges is not None) or {"predicted", "lower"} <= set(columns):
        raise ValueError("columns: expected edges with predicted, and no lower and upper then")
    if zero_output not in ("error", "skip"):
        raise ValueError(f"zero_output is {zero_output!r}; expected 'error' or 'skip'")


def _without_zeros(table: tables.Table, column: str, zero_output: str) -> tables.Table:
    # Zeros pass here, and are then refused with the number of them.
    outputs = table.column(column, tables.integer(0, shown=int(zero_output == "error")))
    if 0 not in outputs:
        return table
    if zero_output == "error":
        row = outputs.index(0)
        table.refuse(
            row, column, f"{table.rows[row][table.names.index(column)]!r} is not an integer of "
            f"at least 1 ({outputs.count(0)} such rows; zero_output='skip' leaves them out)"
        )  # fmt: skip
    kept = table.kept([output > 0 for output in outputs])
    if not kept.rows:
        raise ValueError(f"{table.path}: column {column!r}: all rows are 0; expected a request")
    return kept


def _check_bounds(
    table: tables.Table, columns: dict[str, str], lower: np.ndarray, upper: np.ndarray
) -> None:
    if np.any(lower > upper):
        row = int(np.argmax(lower > upper))
        table.refuse(
            row, columns["upper"], f"{upper[row]} is less than {lower[row]} in {columns['lower']!r}"
        )


def _from_classes(
    table: tables.Table, column: str, edges: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    predicted = np.asarray(table.column(column, tables.integer(0, len(edges) - 2)))
    return intervals.from_classes(edges, predicted)(None, predicted)


def _times(table: tables.Table, columns: dict[str, str]) -> np.ndarray | None:
    if "arrival_seconds" in columns:
        return np.asarray(table.column(columns["arrival_seconds"], tables.seconds), np.float64)
    if "arrival_milliseconds" in columns:
        return np.asarray(table.column(columns["arrival_milliseconds"], tables.seconds)) / 1000.0
    if "arrival_timestamp" in columns:
        # Whole seconds first: seconds since 1970 in float64 would lose the seventh digit.
        stamps = np.asarray(table.column(columns["arrival_timestamp"], tables.timestamp), np.int64)
        first = stamps[np.lexsort((stamps[:, 1], stamps[:, 0]))[0]]
        return (stamps[:, 0] - first[0]) + (stamps[:, 1] - first[1]) / 1e9
    return None
