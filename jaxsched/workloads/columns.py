"""Reading columns of CSV, JSON-lines and Parquet files, with errors that name line and column.

Nothing here knows what the columns mean; `traces` does.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import datetime
import gzip
import io
import itertools
import json
import math
import os
import pathlib
import re
import zlib
from collections.abc import Callable
from typing import Any

MAX_INT = 2**31 - 1

Path = str | os.PathLike[str]

Parser = Callable[[Any], Any]
"""Turns a cell into a value, or raises ValueError saying what was expected."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of a file, before they are parsed."""

    path: str
    names: tuple[str, ...]  # of the columns
    rows: list[Any]  # a sequence of cells, text or typed values, for each row
    lines: list[int]  # line of each row in the file (Parquet: its row), from 1
    place: str = ":"  # text before the line's number in messages
    unterminated: bool = False  # whether it is CSV whose last line does not end in a newline

    def column(self, name: str, parse: Parser) -> list[Any]:
        """Parses a column; the first cell that fails is refused with file, line and column."""
        values, index = [], self.names.index(name)
        for row, cells in enumerate(self.rows):
            try:
                values.append(parse(cells[index]))
            except ValueError as error:
                self.refuse(row, name, f"{cells[index]!r} is not {error}")
        return values

    def refuse(self, row: int, name: str, what: str) -> None:
        """Raises ValueError for a cell."""
        raise ValueError(f"{self.path}{self.place}{self.lines[row]}: column {name!r}: {what}")

    def kept(self, mask: list[bool]) -> Table:
        """The rows where `mask` holds."""
        rows, lines = (list(itertools.compress(of, mask)) for of in (self.rows, self.lines))
        return dataclasses.replace(self, rows=rows, lines=lines)


def read(path: Path) -> Table:
    """Reads a CSV, JSON-lines or Parquet file, plain or gzipped, told apart by its content.

    Raises:
      ValueError: If the file is empty, has no rows, ends early or is malformed.
    """
    name, data = str(path), pathlib.Path(path).read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{name}: the gzip file is damaged or ends early ({error})") from None
    if data[:4] == b"PAR1":
        table = _read_parquet(name, data)
    else:
        text = _decoded(name, data)
        if text.lstrip()[0] == "[":
            raise ValueError(f"{name}: a JSON array; expected JSON lines, one object per line")
        table = (_read_json if text.lstrip()[0] == "{" else _read_csv)(name, text)
    names = table.names
    twice = [column for i, column in enumerate(names) if column and column in names[:i]]
    if twice:
        raise ValueError(f"{name}:1: column {twice[0]!r} appears twice; expected different names")
    if not table.rows:
        raise ValueError(f"{name}: has a header but no rows; expected at least one request")
    return table


def integer(least: int, most: int = MAX_INT, shown: int | None = None) -> Parser:
    """A parser of whole numbers in least … most; 12, "12" and "12.0" are all 12.

    `shown` is the least value according to messages, where the caller refuses more than this does.
    """
    expected = f"an integer of at least {least if shown is None else shown}"
    if most != MAX_INT:
        expected = f"an integer from {least} to {most}"

    def parse(cell: Any) -> int:
        try:
            if isinstance(cell, str) and cell.isascii() and cell.isdigit():
                value = int(cell)
            elif (value := int(number := _number(cell))) != number:
                raise ValueError
        except (ValueError, OverflowError):
            raise ValueError(expected) from None
        if value > MAX_INT:
            raise ValueError(f"a number below 2^31 ({expected})")
        if not least <= value <= most:
            raise ValueError(expected)
        return value

    return parse


def finite_seconds(cell: Any) -> float:
    """A parser of times in seconds, finite and at least 0."""
    with contextlib.suppress(ValueError):
        if 0 <= (value := _number(cell)) < math.inf:
            return value
    raise ValueError("a finite number of at least 0")


def _number(cell: Any) -> float:
    """A cell as a float; Python would also read "1_0", other scripts' digits and booleans."""
    text = isinstance(cell, str)
    if isinstance(cell, bool) or cell is None or (text and ("_" in cell or not cell.isascii())):
        raise ValueError
    try:
        return float(cell)
    except TypeError:
        raise ValueError from None


def timestamp(cell: Any) -> tuple[int, int]:
    """A parser of dates such as 2023-11-16 18:17:03.9799600 into whole seconds and nanoseconds."""
    pattern = r"(.{10}[ T].{8})(?:\.(\d{1,9}))?(Z|[+-]\d\d:?\d\d)?"
    if match := re.fullmatch(pattern, str(cell).strip()):
        with contextlib.suppress(ValueError):
            moment = datetime.datetime.fromisoformat(match[1] + (match[3] or "+00:00"))
            return int(moment.timestamp()), int((match[2] or "").ljust(9, "0"))
    raise ValueError("a time such as 2023-11-16 18:17:03.9799600")


def _decoded(path: str, data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: not UTF-8 text ({error.reason})") from None
    if not text.strip():
        raise ValueError(f"{path}: the file is empty; expected a header and rows")
    return text


def _read_csv(path: str, text: str) -> Table:
    # Line ends at the end of the file are no rows; empty lines elsewhere are refused below.
    reader = csv.reader(io.StringIO(text.rstrip("\r\n"), newline=""), strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        names = tuple(cell.strip() for cell in next(reader))
        for delimiter in ";\t|":
            if len(names) == 1 and delimiter in names[0]:
                found = f"{path}:1: the header is separated by {delimiter!r}"
                raise ValueError(f"{found}; expected columns separated by ','")
        for row in reader:
            if len(row) != len(names):
                few = len(row) < len(names)
                first = repr(names[len(row)]) if few else f"number {len(names) + 1}"
                raise ValueError(
                    f"{path}:{reader.line_num}: column {first}: the line has "
                    f"{len(row)} fields; expected {len(names)}, as the header has"
                )
            rows.append(row)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num}: malformed CSV ({error})") from None
    return Table(path, names, rows, lines, unterminated=not text.endswith(("\n", "\r")))


def _read_json(path: str, text: str) -> Table:
    rows: list[list[Any]] = []
    names: tuple[str, ...] = ()
    for line, content in enumerate(text.rstrip("\r\n").split("\n"), start=1):
        try:
            record = json.loads(content)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}:{line}: column {error.colno}: malformed JSON ({error.msg}); "
                "expected one whole object per line"
            ) from None
        if not isinstance(record, dict):
            raise ValueError(f"{path}:{line}: {content[:40]!r} is not a JSON object")
        names = names or tuple(record)
        for name in names:
            if name not in record:
                raise ValueError(f"{path}:{line}: column {name!r}: missing, but line 1 has it")
        rows.append([record[name] for name in names])
    return Table(path, names, rows, list(range(1, len(rows) + 1)))


def _read_parquet(path: str, data: bytes) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        content = pyarrow.parquet.read_table(pyarrow.BufferReader(data))
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: malformed Parquet ({error})") from None
    names = tuple(content.column_names)
    rows = list(zip(*(column.to_pylist() for column in content.columns), strict=True))
    return Table(path, names, rows, list(range(1, len(rows) + 1)), place=": row ")
