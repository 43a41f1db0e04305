"""Tables, for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
from rich import box
from rich.table import Table

from jaxsched.report.formats import count

Rows = Iterable[Sequence[str]]
"""Rows of cells; the first cell names the row."""


def table(headings: Iterable[str], sections: Iterable[tuple[str, Rows]]) -> Table:
    """A table for the terminal, in titled sections ("" for no title); empty ones are left out.

    Args:
      headings: Of all columns but the first, which names the rows.
      sections: Pairs of title and rows.
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
