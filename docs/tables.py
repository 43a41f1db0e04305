"""Brings the tables of the pages that are made from registries up to date.

    python docs/tables.py          (`./scripts/check --fix` does it as well)

A row is known by its first cell in backticks, the entry's name: what stands there is replaced, and
a new entry comes after the one before it in the registry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from jaxsched.clocks import presets
from jaxsched.metrics import registry
from jaxsched.workloads import traces

Rows = Iterable[tuple[str, ...]]


def tables() -> Iterator[tuple[str, Rows]]:
    """Page and rows of every table."""
    yield "serving.md", presets.clock_rows()
    yield "serving.md", presets.energy_rows()
    yield "metrics.md", registry.rows()
    yield "workloads.md", traces.format_rows()


def updated(page: str, rows: Rows) -> str:
    """The page with these rows in it."""
    lines, before = page.splitlines(), None
    for row in rows:
        line, key = f"| {' | '.join(row)} |", next(cell for cell in row if cell.startswith("`"))
        cells = ([c.strip() for c in text.split(" | ")] for text in lines)
        found = [
            i
            for i, cell in enumerate(cells)
            if len(cell) == len(row) and key in (cell[0].lstrip("| "), *cell[1:])
        ]
        if found:
            before = found[0]
            lines[before] = line
        elif before is not None:
            before += 1
            lines.insert(before, line)
        else:
            raise ValueError(f"no row of the page stands before {key}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes the pages that have changed."""
    for name, rows in tables():
        page = Path(__file__).parent / name
        text = page.read_text()
        new = updated(text, rows)
        if new != text:
            page.write_text(new)
            print(f"{page}: brought up to date")


if __name__ == "__main__":
    main()
