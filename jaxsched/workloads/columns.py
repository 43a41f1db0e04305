"""Reading columns of CSV, JSON and Parquet files in blocks, with errors that name line and column.

Only the columns asked for are read. A block of rows goes through pyarrow; one that pyarrow does not
read as plain numbers goes through a slower reader, cell by cell, which takes what is right in
another spelling ("12.0", a quoted line break) and names the place of what is wrong. Nothing here
knows what the columns mean; `traces` does.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import datetime
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
from numpy.typing import NDArray

from jaxsched.workloads import files
from jaxsched.workloads.files import MAX_LINE

MAX_INT = 2**31 - 1

LONGEST_TEXT = 60
"""Letters of a cell or of a list of names in messages, about."""

Parser = Callable[[Any], Any]
"""Turns a cell into a value, or raises ValueError saying what was expected."""


@dataclasses.dataclass(frozen=True)
class ColumnKind:
    """What a column holds."""

    parse: Parser
    types: tuple[pa.DataType, ...]  # what pyarrow may read it as, the exact one first
    # Whether numbers that pyarrow has read are right; else the parser says which is not.
    right: Callable[[NDArray[Any]], bool] = lambda values: True
    dtype: Any = np.int64  # of whole numbers


@dataclasses.dataclass(frozen=True)
class Block:
    """Some rows of a file."""

    columns: Mapping[str, NDArray[Any]]  # by name, of shape [K]
    lines: NDArray[np.int64]  # line of each row in the file (Parquet: its row), from 1


class Source:
    """A file, opened: the names of its columns, then its rows in blocks.

    Attributes:
      path: Its path.
      names: Names of its columns; a dot stands between those of nested ones.
      place: Text before a line's number in messages.
      lists: Columns of JSON that hold lists, and the first of them.
      unterminated: Whether it is CSV whose last line does not end in a newline; known at the end.
    """

    place = ":"

    def __init__(self, path: str, names: Sequence[str]) -> None:
        self.path, self.names = path, tuple(names)
        self.lists: dict[str, Any] = {}
        self.unterminated = False
        self._types: dict[str, pa.DataType] = {}

    def blocks(self, kinds: Mapping[str, ColumnKind]) -> Iterator[Block]:
        """The rows, with the columns asked for.

        ValueError for the first cell that is refused, with file, line and column.
        """
        raise NotImplementedError

    @property
    def ended(self) -> bool:
        """Whether there is nothing after the blocks that were read."""
        return False

    def refuse(self, line: int, name: str, what: str) -> None:
        """Raises ValueError for a cell."""
        raise ValueError(f"{self.path}{self.place}{line}: column {name!r}: {what}")

    def parsed(self, cells: Mapping[str, Sequence[Any]], lines: Any, kinds: Any) -> Block:
        """Parses cells one by one."""
        found: dict[str, NDArray[Any]] = {}
        for name, column in cells.items():
            values = []
            for line, cell in zip(lines, column, strict=True):
                try:
                    values.append(kinds[name].parse(cell))
                except ValueError as error:
                    runs = "; of several runs in one file, give the line of one"
                    more = runs if isinstance(cell, list) else ""
                    self.refuse(int(line), name, f"{short(repr(cell))} is not {error}{more}")
            whole = all(isinstance(value, int) for value in values)
            found[name] = np.asarray(values, kinds[name].dtype if whole else np.float64)
        return Block(found, np.asarray(lines, np.int64))


def open_source(path: files.Path) -> Source:
    """Opens a CSV, JSON or Parquet file, plain or compressed, told apart by its content.

    Raises:
      ValueError: If the file is empty, damaged or of another kind.
      OSError: If it cannot be read; the text is a sentence.
    """
    name = str(path)
    file = files.opened(path)
    start = file.ahead(MAX_LINE)
    if start[:4] == b"PAR1":
        return _Parquet(name, file)
    if start[:3] == b"\xef\xbb\xbf":
        start = start.removeprefix(file.read(3))
    text = start.lstrip()
    if not text:
        raise ValueError(f"{name}: the file is empty; expected a header and rows")
    if text[:1] == b"[":
        return _items(name, _document(name, file))
    if text[:1] == b"{":
        return _json_source(name, file, text)
    return _Csv(name, file, start.find(b"\n") + 1 or len(start))


def short(text: str, longest: int = LONGEST_TEXT) -> str:
    """The text, or its beginning if it is long."""
    return text if len(text) <= longest else f"{text[: longest - 20]}… ({len(text):,} characters)"


def shortened(names: Sequence[str], most: int = 12) -> str:
    """A list of names, or its beginning if there are many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(short(name) for name in names[:most]) + more


# Kinds of columns.


def integer(least: int, most: int = MAX_INT, shown: int | None = None) -> ColumnKind:
    """Whole numbers in least … most; 12, "12" and "12.0" are all 12.

    `shown` is the least value according to messages, where the caller refuses more than this does.
    """
    expected = f"an integer of at least {least if shown is None else shown}"
    if most != MAX_INT:
        expected = f"an integer from {least} to {most}"

    def parse(cell: Any) -> int:
        try:
            if isinstance(cell, str) and len(cell) < 20 and cell.isascii() and cell.isdigit():
                value = int(cell)
            elif (value := int(number := _number(cell))) != number:
                raise ValueError
        except (ValueError, OverflowError):
            raise ValueError(expected) from None
        if value >= 2**31 and most == MAX_INT:
            raise ValueError(f"a number below 2^31 ({expected})")
        if not least <= value <= most:
            raise ValueError(expected)
        return value

    def right(values: NDArray[Any]) -> bool:
        inside = bool(np.all((values >= least) & (values <= most)))
        whole = values.dtype.kind == "i" or bool(np.all(values == np.floor(values)))
        return inside and whole

    return ColumnKind(parse, (pa.int64(), pa.float64()), right, np.int32)


def times() -> ColumnKind:
    """Times in any unit, finite and at least 0; whole ones stay whole, as nanoseconds need."""

    def parse(cell: Any) -> int | float:
        with contextlib.suppress(ValueError):
            text = cell.strip() if isinstance(cell, str) else ""
            if text.isascii() and text.isdigit() and len(text) < 20 and int(text) < 2**63:
                return int(text)
            whole = isinstance(cell, int) and not isinstance(cell, bool) and 0 <= cell < 2**63
            value = cell if whole else _number(cell)
            if 0 <= value < math.inf:
                return value
        raise ValueError("a finite number of at least 0")

    def right(values: NDArray[Any]) -> bool:
        return bool(np.all((values >= 0) & (values < np.inf)))

    return ColumnKind(parse, (pa.int64(), pa.float64()), right)


def dates() -> ColumnKind:
    """Dates such as 2023-11-16 18:17:03.9799600, in nanoseconds since 1970."""
    return ColumnKind(timestamp, (pa.timestamp("ns"), pa.timestamp("ns", "UTC")))


def timestamp(cell: Any) -> int:
    """A parser of dates such as 2023-11-16 18:17:03.9799600 into nanoseconds since 1970."""
    pattern = r"(.{10}[ T].{8})(?:\.(\d{1,9}))?(Z|[+-]\d\d:?\d\d)?"
    if match := re.fullmatch(pattern, str(cell)[:64].strip()):
        with contextlib.suppress(ValueError):
            moment = datetime.datetime.fromisoformat(match[1] + (match[3] or "+00:00"))
            return int(moment.timestamp()) * 10**9 + int((match[2] or "").ljust(9, "0"))
    raise ValueError("a time such as 2023-11-16 18:17:03.9799600")


def _number(cell: Any) -> float:
    """A cell as a float; Python would also read "1_0", other scripts' digits and booleans."""
    text = isinstance(cell, str)
    if isinstance(cell, bool) or cell is None or (text and ("_" in cell or not cell.isascii())):
        raise ValueError
    try:
        return float(cell)
    except (TypeError, OverflowError):
        raise ValueError from None


# pyarrow's readers.

ReadTypes = Callable[[Mapping[str, pa.DataType]], pa.Table]
"""Types of some columns -> these columns; ArrowInvalid if they are not of these types."""


def _fast(
    read: ReadTypes, kinds: Mapping[str, ColumnKind], rows: int, types: dict[str, pa.DataType]
) -> dict[str, NDArray[Any]] | None:
    """The columns as numbers, or None if the slower reader has to look at them.

    `types` are those of the block before, and become those of this one.
    """
    if types.keys() == kinds.keys():
        with contextlib.suppress(pa.ArrowException, OSError):
            return _numbers(read(types), kinds, rows)
    found: dict[str, NDArray[Any]] = {}
    for name, kind in kinds.items():
        for one in kind.types:
            with contextlib.suppress(pa.ArrowException, OSError):
                if got := _numbers(read({name: one}), {name: kind}, rows):
                    found |= got
                    types[name] = one
                    break
        if name not in found:
            return None
    return found


def _numbers(
    table: pa.Table, kinds: Mapping[str, ColumnKind], rows: int
) -> dict[str, NDArray[Any]] | None:
    if table.num_rows != rows:
        return None
    found = {}
    for name, kind in kinds.items():
        column = table.column(name)
        if column.null_count:
            return None
        if pa.types.is_timestamp(column.type):
            column = pc.cast(column, pa.int64())
        values = column.to_numpy()
        if not kind.right(values):
            return None
        found[name] = values.astype(kind.dtype) if kind.dtype is np.int32 else values
    return found


# CSV and JSON lines: blocks of whole lines.


class _Lines(Source):
    """A file of lines, read in blocks that end where a row does."""

    def __init__(self, path: str, names: Sequence[str], file: files.Bytes, line: int) -> None:
        super().__init__(path, names)
        self._file, self._line, self._held = file, line, b""

    @property
    def ended(self) -> bool:
        return not self._held.strip() and not self._file.ahead(1)

    def blocks(self, kinds: Mapping[str, ColumnKind]) -> Iterator[Block]:
        line = self._line
        while True:
            data = self._file.read(files.BLOCK_BYTES)
            whole = self._held + data
            if not data:
                self._end(whole)
                if rest := whole.rstrip(b"\r\n"):
                    yield self._block(rest + b"\n", line, kinds)
                return
            end = self._cut(whole)
            if not end and len(whole) > MAX_LINE:
                size = f"longer than {MAX_LINE >> 20} MB"
                raise ValueError(f"{self.path}:{line}: the line is {size}; expected one request")
            self._held = whole[end:]
            if end:
                block = whole[:end]
                yield self._block(block, line, kinds)
                line += block.count(b"\n")

    def _cut(self, data: bytes) -> int:
        """Where the last whole row ends that is not followed by empty lines."""
        kept = len(data.rstrip(b"\r\n"))
        if kept == 0:
            return 0
        end = data.rfind(b"\n", 0, kept) + 1
        return min(data.find(b"\n", kept) + 1 or end, len(data))

    def _end(self, data: bytes) -> None:
        """Looks at the end of the file."""

    def _block(self, data: bytes, line: int, kinds: Mapping[str, ColumnKind]) -> Block:
        raise NotImplementedError


class _Csv(_Lines):
    def __init__(self, path: str, file: files.Bytes, header: int) -> None:
        if header > MAX_LINE:
            size = f"longer than {MAX_LINE >> 20} MB"
            raise ValueError(f"{path}:1: the line is {size}; expected a header and rows")
        head = file.read(header)
        super().__init__(path, (), file, 2)
        try:
            cells = next(csv.reader([_decoded(path, head, 1)], strict=True))
        except csv.Error as error:
            raise ValueError(f"{path}:1: malformed CSV ({error})") from None
        self.names = tuple(cell.strip() for cell in cells)
        if not self.names:
            raise ValueError(f"{path}:1: an empty line; expected a header, the columns' names")
        for delimiter in ";\t|":
            if len(self.names) == 1 and delimiter in self.names[0]:
                found = f"{path}:1: the header is separated by {delimiter!r}"
                raise ValueError(f"{found}; expected columns separated by ','")
        twice = [name for i, name in enumerate(self.names) if name and name in self.names[:i]]
        if twice:
            found = f"column {twice[0]!r} appears twice"
            raise ValueError(f"{path}:1: {found}; expected different names")

    def _cut(self, data: bytes) -> int:
        end = super()._cut(data)
        # A row does not end within quotes; there, so far, their number is odd.
        while end and data.count(b'"', 0, end) % 2:
            end = data.rfind(b"\n", 0, data.rfind(b'"', 0, end)) + 1
        return end

    def _end(self, data: bytes) -> None:
        self.unterminated = not data.endswith((b"\n", b"\r")) and bool(data)

    def _block(self, data: bytes, line: int, kinds: Mapping[str, ColumnKind]) -> Block:
        rows = data.count(b"\n")
        odd = b"0x" in data or b"0X" in data  # which pyarrow reads as hexadecimal
        found = None if odd else _fast(self._reader(data), kinds, rows, self._types)
        if found is not None:
            return Block(found, np.arange(line, line + rows))
        return self._slow(_decoded(self.path, data, line), line, kinds)

    def _reader(self, data: bytes) -> ReadTypes:
        """Columns go by number, as names may be empty."""
        places = {name: str(i) for i, name in enumerate(self.names)}
        names = list(places.values()) if len(places) == len(self.names) else None
        names = names or [str(i) for i in range(len(self.names))]

        def read(types: Mapping[str, pa.DataType]) -> pa.Table:
            wanted = {places[name]: one for name, one in types.items()}
            table = pyarrow.csv.read_csv(
                pa.BufferReader(data),
                pyarrow.csv.ReadOptions(column_names=names, block_size=1 << 22),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=wanted, include_columns=list(wanted), null_values=[]
                ),
            )
            return table.rename_columns(list(types))

        return read

    def _slow(self, text: str, line: int, kinds: Mapping[str, ColumnKind]) -> Block:
        places = {name: self.names.index(name) for name in kinds}
        cells: dict[str, list[str]] = {name: [] for name in kinds}
        lines: list[int] = []
        before = csv.field_size_limit(MAX_LINE)
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        try:
            for row in reader:
                at = line + reader.line_num - 1
                if len(row) != len(self.names):
                    few = len(row) < len(self.names)
                    first = repr(self.names[len(row)]) if few else f"number {len(self.names) + 1}"
                    raise ValueError(
                        f"{self.path}:{at}: column {first}: the line has {len(row)} fields; "
                        f"expected {len(self.names)}, as the header has"
                    )
                for name, place in places.items():
                    cells[name].append(row[place])
                lines.append(at)
        except csv.Error as error:
            at = line + reader.line_num - 1
            raise ValueError(f"{self.path}:{at}: malformed CSV ({error})") from None
        finally:
            csv.field_size_limit(before)
        return self.parsed(cells, lines, kinds)


def _decoded(path: str, data: bytes, line: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise ValueError(f"{path}:{line}: not UTF-8 text ({error.reason})") from None


class _JsonLines(_Lines):
    def __init__(self, path: str, file: files.Bytes, first: Sequence[dict[str, Any]]) -> None:
        self._seen = _first_seen(first)
        super().__init__(path, list(self._seen), file, 1)
        self.lists = _lists(first)

    def _block(self, data: bytes, line: int, kinds: Mapping[str, ColumnKind]) -> Block:
        rows = data.count(b"\n")

        def read(types: Mapping[str, pa.DataType]) -> pa.Table:
            return pyarrow.json.read_json(
                pa.BufferReader(data),
                pyarrow.json.ReadOptions(block_size=len(data) + 1),
                pyarrow.json.ParseOptions(
                    explicit_schema=pa.schema(list(types.items())),
                    unexpected_field_behavior="ignore",
                ),
            )

        nested = any("." in name for name in kinds) or any(
            kind.types[0].id == pa.timestamp("ns").id for kind in kinds.values()
        )
        found = None if nested else _fast(read, kinds, rows, self._types)
        if found is not None:
            return Block(found, np.arange(line, line + rows))
        return self._slow(_decoded(self.path, data, line), line, kinds)

    def _slow(self, text: str, line: int, kinds: Mapping[str, ColumnKind]) -> Block:
        cells: dict[str, list[Any]] = {name: [] for name in kinds}
        lines = text.removesuffix("\n").split("\n")
        for at, content in enumerate(lines, start=line):
            record = _record(self.path, at, content)
            for name, column in cells.items():
                there = f"line {self._seen[name]}"
                column.append(_cell(f"{self.path}:{at}", record, name, there, kinds[name]))
        return self.parsed(cells, range(line, line + len(lines)), kinds)


FIRST_OBJECTS = 20
"""Objects of JSON whose names are looked at: the first one may be of a request that failed."""


def _first_seen(records: Sequence[dict[str, Any]]) -> dict[str, int]:
    """The names in the first objects, and the number of the first object that has each."""
    seen: dict[str, int] = {}
    for i, record in enumerate(records[:FIRST_OBJECTS], start=1):
        for name in _paths(record):
            seen.setdefault(name, i)
    return seen


def _lists(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What holds a list in the first of some objects."""
    return {name: value for name, value in records[0].items() if isinstance(value, list)}


def _record(path: str, line: int, content: str) -> dict[str, Any]:
    """The object in a line."""
    record = _loaded(f"{path}:{line}", content, "expected one whole object per line")
    if not isinstance(record, dict):
        raise ValueError(f"{path}:{line}: {short(content)!r} is not a JSON object")
    return record


def _loaded(where: str, text: str, expected: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}"
        raise ValueError(f"{where}: {place}: malformed JSON ({error.msg}); {expected}") from None
    except RecursionError:
        raise ValueError(f"{where}: malformed JSON (nested too deep); {expected}") from None
    except ValueError:  # of whole numbers that Python refuses to read
        raise ValueError(f"{where}: malformed JSON (a number of too many digits)") from None


DELAYS = ("delay", "delay_ms", "pre_gap", "gap", "think_time", "wait_time", "tool_wait")
"""Names of what a request of a session waits after the one before it."""


def _cell(where: str, record: Mapping[str, Any], name: str, there: str, kind: ColumnKind) -> Any:
    """The value at a path such as "a.b"; 0 tokens of a request that failed."""
    value: Any = record
    for part in [name] if name in record else name.split("."):
        value = value.get(part, _MISSING) if isinstance(value, Mapping) else _MISSING
    if value is _MISSING or value is None:
        if waits := next((delay for delay in DELAYS if delay in record), None):
            raise ValueError(f"{where}: {no_sessions(waits)} in {name!r}")
        for part, inner in record.items():
            if isinstance(inner, list) and inner and isinstance(inner[0], dict):
                raise ValueError(f"{where}: {no_sub_requests(part, inner)}")
        if kind.dtype is np.int32 and record.get("error"):
            return 0
        if value is _MISSING:
            raise ValueError(f"{where}: column {name!r}: missing, but {there} has it")
    return value


_MISSING = object()


def no_sub_requests(name: str, inner: Sequence[Any]) -> str:
    """Says why a column of objects cannot be a request's."""
    return (
        f"sub-requests are not supported: {name!r} holds {len(inner):,} objects; expected one "
        "object per request, with its time and numbers of tokens"
    )


def no_sessions(waits: str) -> str:
    """Says why a column such as `delay` cannot be an arrival."""
    return (
        f"sessions are not supported: {waits!r} counts from the end of the request before it, "
        "which depends on the scheduler; expected every request's own time"
    )


def _paths(record: Mapping[str, Any], before: str = "", depth: int = 4) -> list[str]:
    """The names of an object's values, with those of objects in it."""
    names = []
    for name, value in record.items():
        names.append(before + name)
        if isinstance(value, Mapping) and depth:
            names += _paths(value, f"{before}{name}.", depth - 1)
    return names


# JSON documents.


def _document(path: str, file: files.Bytes) -> Any:
    data = file.read(files.MAX_DOCUMENT + 1)
    if len(data) > files.MAX_DOCUMENT:
        size = f"{files.MAX_DOCUMENT >> 20} MB"
        raise ValueError(
            f"{path}: JSON of more than {size} in one piece; expected JSON lines, one object per "
            "line, as jq -c '.[]' FILE writes"
        )
    return _loaded(path, _decoded(path, data, 1), "expected one whole object per line")


class _Cells(Source):
    """Rows that are there already; a function has the cells of a column, by name and kind."""

    def __init__(
        self,
        path: str,
        names: Sequence[str],
        cells: Callable[[str, ColumnKind], Any],
        rows: int,
        lists: dict[str, Any] | None = None,
    ):
        super().__init__(path, names)
        self._cells, self._rows, self.lists = cells, rows, lists or {}

    place = ": item "

    def blocks(self, kinds: Mapping[str, ColumnKind]) -> Iterator[Block]:
        cells = {name: self._cells(name, kind) for name, kind in kinds.items()}
        yield self.parsed(cells, range(1, self._rows + 1), kinds)


def _items(path: str, items: list[Any]) -> Source:
    """An array of objects."""
    for i, item in enumerate(items, start=1):
        if not isinstance(item, dict):
            raise ValueError(f"{path}: item {i}: {short(repr(item))} is not a JSON object")
    if not items:
        raise ValueError(f"{path}: an empty JSON array; expected at least one request")

    seen = _first_seen(items)

    def cells(name: str, kind: ColumnKind) -> list[Any]:
        there = f"item {seen[name]}"
        return [
            _cell(f"{path}: item {i}", item, name, there, kind)
            for i, item in enumerate(items, start=1)
        ]

    return _Cells(path, list(seen), cells, len(items), _lists(items))


def _next_records(path: str, text: bytes) -> Iterator[dict[str, Any]]:
    """The objects in the lines after the first, up to one that is no object or is not all there."""
    with contextlib.suppress(ValueError):  # which is said where it is read
        for line in text.split(b"\n")[: FIRST_OBJECTS - 1]:
            yield _record(path, 0, _decoded(path, line, 0))


def _json_source(path: str, file: files.Bytes, text: bytes) -> Source:
    """JSON lines, or one object: of arrays, its columns."""
    end = text.find(b"\n")
    if end < 0 and len(text) > MAX_LINE:
        return _object(path, file, _document(path, file), False)
    first_line = text if end < 0 else text[:end]
    more = end >= 0 and text[end:].strip()
    failed: ValueError | None = None
    try:
        record = _record(path, 1, _decoded(path, first_line, 1))
    except ValueError as error:
        failed = error
    if failed is None and more:
        return _JsonLines(path, file, [record, *_next_records(path, text[end + 1 : 1 << 20])])
    if failed is not None:
        if not more or b"{" in text[end:].split(b"\n", 2)[1][:1]:
            raise failed
        try:
            record = _document(path, file)
        except ValueError:
            raise failed from None
    return _object(path, file, record, failed is None)


def _object(path: str, file: files.Bytes, record: dict[str, Any], line: bool) -> Source:
    """One object: columns as arrays, or a single request in a line of its own."""
    arrays = {name: value for name, value in record.items() if isinstance(value, list)}
    numbers = [name for name, value in arrays.items() if value and _numeric(value)]
    size = max((len(arrays[name]) for name in numbers), default=0)
    columns = [name for name in numbers if len(arrays[name]) == size]
    if len(columns) >= 2 and len([n for n in columns if n != "hash_ids"]) >= 2:
        return _Cells(path, columns, lambda name, kind: arrays[name], size)
    if line:
        return _JsonLines(path, file, [record])
    objects = [name for name, value in arrays.items() if value and isinstance(value[0], dict)]
    if objects:
        raise ValueError(
            f"{path}: one JSON object, whose {objects[0]!r} holds objects; expected one object per "
            f"line, as jq -c '.{objects[0]}[]' FILE writes"
        )
    raise ValueError(f"{path}: one JSON object; expected one whole object per line, or arrays")


def _numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(x, int | float) and not isinstance(x, bool) for x in values)


# Parquet.


class _Parquet(Source):
    place = ": row "

    def __init__(self, path: str, file: files.Bytes) -> None:
        try:
            self._file = pyarrow.parquet.ParquetFile(file.whole())
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path}: malformed Parquet ({short(str(error), 200)})") from None
        names: list[str] = []
        for field in self._file.schema_arrow:
            names += _fields(field)
        super().__init__(path, names)

    def blocks(self, kinds: Mapping[str, ColumnKind]) -> Iterator[Block]:
        row = 1
        try:
            for batch in self._file.iter_batches(columns=list(kinds), batch_size=1 << 19):
                table = _flat(pa.Table.from_batches([batch]), list(kinds))
                found = self._typed(table, kinds)
                lines = np.arange(row, row + table.num_rows)
                if found is None:
                    cells = {name: table.column(name).to_pylist() for name in kinds}
                    yield self.parsed(cells, lines, kinds)
                else:
                    yield Block(found, lines)
                row += table.num_rows
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self.path}: malformed Parquet ({short(str(error), 200)})") from None

    def _typed(
        self, table: pa.Table, kinds: Mapping[str, ColumnKind]
    ) -> dict[str, NDArray[Any]] | None:
        def read(types: Mapping[str, pa.DataType]) -> pa.Table:
            columns = {}
            for name, one in types.items():
                column = table.column(name)
                number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
                date = pa.types.is_timestamp(column.type)
                if not (date if pa.types.is_timestamp(one) else number):
                    raise pa.ArrowInvalid("typed otherwise")
                columns[name] = column.cast(one)
            return pa.table(columns)

        return _fast(read, kinds, table.num_rows, self._types)


def _fields(field: pa.Field, before: str = "") -> list[str]:
    """The name of a field, with those of fields in it."""
    names = [before + field.name]
    if pa.types.is_struct(field.type):
        for inner in field.type:
            names += _fields(inner, f"{before}{field.name}.")
    return names


def _flat(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """The columns of these names, which may lie in structs."""
    columns = {}
    for name in names:
        if name in table.column_names:
            columns[name] = table.column(name)
        else:
            columns[name] = pc.struct_field(table.column(name.split(".")[0]), name.split(".")[1:])
    return pa.table(columns)
