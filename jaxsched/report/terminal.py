"""The terminal: where tables go, lines as they are, and progress with the time that is left."""

from __future__ import annotations

from rich import progress
from rich.console import Console

WIDTH = 100
"""Columns where the output is no terminal, such as a log file."""


def console() -> Console:
    """Where tables and progress go: standard output, at full width even if it is a file."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=WIDTH)


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
