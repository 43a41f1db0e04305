"""What goes to the terminal: tables (also as Markdown), lines as they are, and progress."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
from rich import box, progress
from rich.console import Console
from rich.table import Table

from jaxsched.report.formats import count

LOG_WIDTH = 100
"""Columns where the output is no terminal, such as a log file."""

TableRows = Iterable[Sequence[str]]
"""Rows of cells; the first cell names the row."""


def console() -> Console:
    """Where tables and progress go: standard output, at full width even if it is a file."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=LOG_WIDTH)


def say(console: Console, text: str) -> None:
    """Prints a line as it is: paths are not wrapped to the terminal's width."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def progress_bar(console: Console, *more: str) -> progress.Progress:
    """A bar with description, share done, time and time left; `more` fields after the share."""
    return progress.Progress(
        progress.TextColumn("{task.description:<28}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        *(progress.TextColumn(f"{{task.fields[{name}]}}") for name in more),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        console=console,
    )


def table(headings: Iterable[str], sections: Iterable[tuple[str, TableRows]]) -> Table:
    """A table for the terminal, in titled sections ("" for no title); empty ones are left out.

    The headings are those of all columns but the first, which names the rows.
    """
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    made.add_column("", no_wrap=True)
    for heading in headings:
        made.add_column(heading, justify="right", no_wrap=True)
    for title, rows in sections:
        rows = list(rows)
        if title and rows:
            made.add_row(bold(title))
        for first, *cells in rows:
            made.add_row(f"  {first}" if title else first, *cells)
        made.add_section()
    return made


def bold(text: str) -> str:
    """The text in bold, on a terminal."""
    return f"[bold]{text}[/bold]"


def alarm(text: str) -> str:
    """The text in red, on a terminal."""
    return f"[red]{text}[/red]"


def name_of(row: pd.Series) -> str:
    """The policy of a row of means, and how many of its simulations did not finish."""
    left = row["unfinished"]
    return row["policy"] + (f" {alarm(f'({count(left)} unfinished)')}" if left else "")


def markdown(frame: pd.DataFrame, digits: int = 3) -> str:
    """The table with its numbers rounded, in Markdown."""

    def text(value: object) -> str:
        return f"{value:,.{digits}f}" if isinstance(value, float) else str(value)

    rows = [list(frame.columns), ["---"] * frame.shape[1], *frame.itertuples(index=False)]
    return "\n".join("| " + " | ".join(map(text, row)) + " |" for row in rows)
