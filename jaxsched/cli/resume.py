"""What commands that can be interrupted and go on later have in common."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from jaxsched.machine.faults import GO_ON, READ_ONLY, in_one_line, interrupted
from jaxsched.report import plots
from jaxsched.report.plots import Drawing
from jaxsched.report.terminal import progress_bar, say
from jaxsched.studies.run import Point, Work
from jaxsched.studies.trace import TRACE_OPTIONS
from jaxsched.workloads import Trace


def folder_of(args: argparse.Namespace) -> Path:
    """Where the results of a configuration file go."""
    return args.out or Path("out") / args.config.stem


def replaced(args: argparse.Namespace, **keys: str) -> dict[str, Any]:
    """Configuration key -> value, of the options (option=key) that are given.

    Those of the trace section are there without being named.
    """
    keys |= {name: f"trace.{name}" for name in TRACE_OPTIONS} | {"trace": "trace.path"}
    given = {key: getattr(args, option, None) for option, key in keys.items()}
    return {key: value for key, value in given.items() if value is not None}


def say_notes(console: Console, trace: Trace) -> None:
    """Says which trace was read, and how."""
    for note in trace.notes():
        say(console, note)


def finished(
    work: Work, folder: Path | None, console: Console, config: Path | None = None
) -> list[pd.DataFrame]:
    """Runs what is left of a study under a bar of its requests; returns its tables."""
    kept = nullcontext() if folder is None else kept_in(folder, config)
    with kept, progress_bar(console, transient=config is None) as bar:
        task = bar.add_task("", total=sum(point.requests for point in work.points))

        def on_point(point: Point, there: bool) -> None:
            bar.update(task, description=point.label)
            bar.advance(task, point.requests if there else 0)

        return work.run(folder, on_point)


def say_figures(console: Console, drawings: Iterable[Drawing], folder: Path) -> None:
    """Draws the figures of a folder of results, which need not be renewed where that cannot be."""
    drawings = tuple(drawings)
    try:
        paths = plots.save_all(drawings, folder / "figures")
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        say(console, f"figures: not renewed ({in_one_line(error)})")
        return
    for path in paths:
        say(console, f"figure:  {path} (and .pdf)")
    for one in drawings:
        if one.figure is None:
            say(console, f"figure:  no {one.name}, since {one.caption}")


@contextmanager
def kept_in(
    folder: Path, config: Path | None = None, what: str = "what is finished is"
) -> Iterator[None]:
    """Says how to go on after an interruption, and of errors in which folder or file they are."""
    kept = f"kept in {folder}; {GO_ON}"
    try:
        yield
    except OSError as error:
        text = in_one_line(error)
        where = "" if str(folder) in text else f"{folder}: "
        raise OSError(f"{where}{text}; {what.rpartition(', ')[2]} {kept}") from None
    except (KeyboardInterrupt, RuntimeError, ValueError) as error:
        if interrupted(error):
            raise KeyboardInterrupt(f"{what} {kept}") from None
        # What is wrong in the folder is not wrong in the configuration.
        own = config is not None and str(folder) not in str(error)
        if isinstance(error, ValueError) and own:
            raise ValueError(f"{config}: {error}") from None
        raise
