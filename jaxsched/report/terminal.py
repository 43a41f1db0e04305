"""What goes to the terminal: a command's answer, lines as they are, and progress."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rich import progress
from rich.console import Console

from jaxsched.report import tables
from jaxsched.report.tables import Answer

LOG_WIDTH = 100
"""Columns of progress bars where the output is no terminal, such as a log file."""


def console(form: str = "text") -> Console:
    """Where lines and progress go: standard output, or standard error if that is for a program.

    The form is "text" for people, "csv" or "json" for programs.
    """
    plain = Console(stderr=form != "text")
    return plain if plain.is_terminal else Console(stderr=form != "text", width=LOG_WIDTH)


def say(console: Console, text: str) -> None:
    """Prints a line as it is: paths are not wrapped to the terminal's width."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def show(console: Console, answer: Answer, form: str = "text", notes: Iterable[str] = ()) -> None:
    """Prints a command's answer and what else its reader should know, in the form asked for."""
    notes = list(notes)
    if form == "csv":
        sys.stdout.write(tables.as_csv(answer))
    elif form == "json":
        sys.stdout.write(tables.as_json(answer, notes))
    else:
        tables.print_answer(console, answer)
    for note in notes:
        say(console, note)


def progress_bar(console: Console, *more: str, transient: bool = False) -> progress.Progress:
    """A bar with description, share done, time and time left; `more` fields after the share.

    A `transient` one is gone at the end, and not there where the output is no terminal.
    """
    return progress.Progress(
        progress.TextColumn("{task.description:<28}", markup=False),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        *(progress.TextColumn(f"{{task.fields[{name}]}}") for name in more),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        console=console,
        transient=transient,
        disable=transient and not console.is_terminal,
    )
