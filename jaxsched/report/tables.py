"""Tables: made once, then shown on a terminal, as Markdown, CSV or JSON, or within a page.

No number is ever cut: what is too wide for a terminal is turned round or split.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd
import rich.table
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.text import Text

TableCell = str | Text
"""A cell; a `Text` where it has a style, such as that of `alarm`."""

TableRows = Sequence[Sequence[TableCell]]
"""TableRows of cells; the first cell names the row."""


@dataclasses.dataclass(frozen=True)
class PrintedTable:
    """A table in titled sections."""

    headings: tuple[str, ...]  # of all columns but the first, which names the rows
    sections: tuple[tuple[str, TableRows], ...]  # title ("" for none) and rows


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a command prints of its results."""

    title: str
    tables: tuple[PrintedTable, ...]
    notes: tuple[str, ...]  # how to read the tables
    data: pd.DataFrame  # the numbers behind them, in full, under names for programs


def table(
    headings: Iterable[str], sections: Iterable[tuple[str, Iterable[Sequence[TableCell]]]]
) -> PrintedTable:
    """A table; sections without rows are left out."""
    listed = ((title, tuple(rows)) for title, rows in sections)
    return PrintedTable(tuple(headings), tuple((title, rows) for title, rows in listed if rows))


def alarm(text: str) -> Text:
    """The text in red."""
    return Text(text, style="red")


def text_of(cell: TableCell) -> str:
    """The text of a cell."""
    return cell.plain if isinstance(cell, Text) else cell


def print_answer(out: Console, answer: Answer) -> None:
    """Prints the answer for people: at the terminal's width, or in full where there is none."""
    out.print(Text(answer.title, style="bold"), soft_wrap=True)
    for each in answer.tables:
        for part in fitted(each, out.width) if out.is_terminal else [each]:
            made, width = grid(part), out.width
            out.width = max(width, natural(made))
            out.print(made)
            out.width = width
    for note in answer.notes:
        out.print(Text(note))


def as_csv(answer: Answer) -> str:
    """The numbers as CSV with a header; nothing where there is no number."""
    return answer.data.to_csv(index=False)


def as_json(answer: Answer, notes: Iterable[str] = ()) -> str:
    """One JSON object: `title`, `notes` and `rows` (objects); null where there is no number."""
    columns = {name: map(_value, answer.data[name].tolist()) for name in answer.data}
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    about = {"title": answer.title, "notes": [*answer.notes, *notes], "rows": rows}
    return json.dumps(about, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _value(value: Any) -> Any:
    if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


def markdown(frame: pd.DataFrame, digits: int = 3) -> str:
    """The data frame with its numbers rounded, in Markdown."""

    def text(value: object) -> str:
        return f"{value:,.{digits}f}" if isinstance(value, float) else str(value)

    rows = [list(frame.columns), ["---"] * frame.shape[1], *frame.itertuples(index=False)]
    return "\n".join("| " + " | ".join(map(text, row)) + " |" for row in rows)


def grid(one: PrintedTable) -> rich.table.Table:
    """The table as rich prints it; a heading breaks after its first colon."""
    made = rich.table.Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    made.add_column("", no_wrap=True)
    for heading in one.headings:
        made.add_column(Text(heading.replace(":", ":\n", 1)), justify="right", no_wrap=True)
    for title, rows in one.sections:
        if title:
            made.add_row(Text(title, style="bold"))
        for first, *cells in rows:
            # As texts: names with brackets are no markup.
            name = Text.assemble("  " if title else "", first)
            made.add_row(name, *(Text.assemble(cell) for cell in cells))
        made.add_section()
    return made


def natural(made: rich.table.Table) -> int:
    """The columns of the terminal that it needs to be shown whole."""
    endless = Console(width=10**6)
    return Measurement.get(endless, endless.options, made).maximum


def fitted(one: PrintedTable, width: int) -> Iterator[PrintedTable]:
    """The table in parts that are no wider, if that can be: whole, turned round, or split."""
    if natural(grid(one)) <= width:
        yield one
        return
    turned = [_turned(one.headings, title, rows) for title, rows in one.sections]
    if all(natural(grid(part)) <= width for part in turned):
        yield from turned
        return
    start = 0
    while start < len(one.headings):
        stop = start + 1
        while stop < len(one.headings) and natural(grid(_part(one, start, stop + 1))) <= width:
            stop += 1
        yield _part(one, start, stop)
        start = stop


def _turned(headings: tuple[str, ...], title: str, rows: TableRows) -> PrintedTable:
    """A section with a column for each of its rows."""
    full = [[*row, *[""] * (1 + len(headings) - len(row))] for row in rows]
    names, *columns = zip(*full, strict=True)
    turned = tuple((h, *cells) for h, cells in zip(headings, columns, strict=True))
    return PrintedTable(tuple(text_of(name).strip() for name in names), ((title, turned),))


def _part(one: PrintedTable, start: int, stop: int) -> PrintedTable:
    """The columns start … stop - 1, with the names of the rows."""
    cut = (
        (title, tuple((row[0], *row[1 + start : 1 + stop]) for row in rows))
        for title, rows in one.sections
    )
    return PrintedTable(one.headings[start:stop], tuple(cut))
