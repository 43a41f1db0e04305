"""What the commands print besides tables: lines, and progress with the time that is left."""

from __future__ import annotations

from rich import progress
from rich.console import Console


def say(console: Console, text: str) -> None:
    """Prints a line as it is: paths are not wrapped to the terminal's width."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def progress_bar(console: Console, *more: progress.ProgressColumn) -> progress.Progress:
    """A bar with description, share done, time and time left; `more` columns after the share."""
    return progress.Progress(
        progress.TextColumn("{task.description:<28}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        *more,
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        console=console,
    )


def duration(seconds: float) -> str:
    """A time as people say it: 0.4 s, 12 s, 3 min, 5.2 h, 3.1 days."""
    for limit, unit, name in ((60, 1, "s"), (3600, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            value = seconds / unit
            return f"{value:.1f} {name}" if value < 10 else f"{value:.0f} {name}"
    return f"{seconds / 86400:.1f} days"


def size(count: float) -> str:
    """Bytes as people say them: 640 MB, 1.3 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
