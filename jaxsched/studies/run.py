"""Runs what is missing of a study: point by point, or chunk by chunk of rows."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

import pandas as pd

from jaxsched.studies import store
from jaxsched.studies.budget import MOST_CHUNK
from jaxsched.studies.estimate import Estimate, seconds_per_row
from jaxsched.studies.parts import Parts
from jaxsched.studies.plan import Call, Range
from jaxsched.studies.processes import Processes
from jaxsched.studies.rows import Simulator

CHUNK_SECONDS = 10.0
"""Time that a chunk should take, and so the work that an interruption costs."""

FIRST_SECONDS, FIRST_ROWS = 1.0, 2**14
"""Time and rows of the first simulations of a kind, whose cost is not known."""


@dataclasses.dataclass(frozen=True)
class Point:
    """What is simulated, and kept, in one go.

    Attributes:
      name: Its name in the store.
      label: What it is called while it runs.
      requests: How many are simulated.
      table: Simulates it; returns its part of the table.
    """

    name: str
    label: str
    requests: int
    table: Callable[[], pd.DataFrame]


OnPoint = Callable[[Point, bool], Any]
"""Called as (point, finished) before a point is simulated and after it is there."""


@dataclasses.dataclass(frozen=True)
class Work:
    """A study in points.

    Attributes:
      text: Its configuration, as it is kept with the results.
      points: In the order in which they run.
      simulators: Whose instances are drawn, and refused, before there is a folder.
      whole: The tables of all points, one below the other -> the table of results.
    """

    text: str
    points: Sequence[Point]
    simulators: Sequence[Simulator]
    whole: Callable[[pd.DataFrame], pd.DataFrame]

    def run(self, folder: Path, on_point: OnPoint = lambda *_: None) -> pd.DataFrame:
        """Runs what is left of it, and returns its table, which is in `folder`/results.parquet too.

        Args:
          folder: Where results go and earlier ones are found.
          on_point: Called before and after each point.

        Raises:
          ValueError: If the folder holds results of another configuration, or the instances are
            refused.
        """
        for simulator in self.simulators:
            simulator.check()
        kept = store.open_store(folder, self.text)
        tables = []
        for point in self.points:
            if not kept.has(point.name):
                on_point(point, False)
                kept.write(point.name, point.table())
            tables.append(kept.read(point.name))
            on_point(point, True)
        table = self.whole(pd.concat(tables, ignore_index=True))
        kept.finish(table)
        return table


def run_rows(
    simulator: Simulator,
    parts: Parts,
    ranges: list[Range],
    guess: Estimate,
    *,
    chunk: int | None = None,
    on_rows: Callable[[int], Any] = lambda rows: None,
) -> None:
    """Simulates ascending ranges of rows and writes them in parts.

    Args:
      simulator: What simulates them.
      parts: Where they go.
      ranges: The rows.
      guess: How long simulations are expected to take, for the size of the first chunk.
      chunk: Rows in a part; None for what takes about `CHUNK_SECONDS`.
      on_rows: Called with the number of rows that have just been simulated.

    Raises:
      OSError: If a part cannot be written; what was written before stays.
    """
    parts.sweep_up(ranges)
    pieces = _Pieces(simulator, guess)
    for start, stop in ranges:
        while start < stop:
            end, frames, began = start, [], time.perf_counter()
            most = min(stop, start + (chunk or MOST_CHUNK))
            while end < most:
                left = CHUNK_SECONDS - (time.perf_counter() - began)
                if not chunk and frames and left <= 0:
                    break
                at, end = end, most if chunk else pieces.end(end, most, left)
                frames.append(pieces.run(at, end, on_rows))
            parts.write(start, end, pd.concat(frames, ignore_index=True))
            start = end


class _Pieces:
    """Rows of one kind, few enough for the time that is left, as measured on that kind before."""

    def __init__(self, simulator: Simulator, guess: Estimate) -> None:
        self._simulator, self._guess = simulator, guess
        self._pace: dict[tuple[int, ...], float] = {}

    def end(self, row: int, most: int, left: float) -> int:
        """The row after those that take about `left` seconds, of the first of a kind a second."""
        call = next(self._simulator.plan.calls(row, most))
        if (pace := self._pace.get(self._kind(call))) is not None:
            rows = int(max(left, FIRST_SECONDS) / pace)
        elif (budget := self._simulator.budget(call.at["policies"])).pads:
            rows = budget.rows(call.tile.n)  # a batch, which cannot be had for less
        else:
            each = seconds_per_row(self._simulator.plan, self._guess.per_request, row)
            rows = min(FIRST_ROWS, int(FIRST_SECONDS / each)) if each else FIRST_ROWS
        return row + min(max(1, rows), call.stop - call.start)

    def run(self, start: int, end: int, on_rows: Callable[[int], Any]) -> pd.DataFrame:
        """The table of these rows; remembers how long a row took."""
        call, began = next(self._simulator.plan.calls(start, end)), time.perf_counter()
        frame = self._simulator.table(start, end, on_rows)
        self._pace[self._kind(call)] = (time.perf_counter() - began) / (end - start)
        return frame

    @staticmethod
    def _kind(call: Call) -> tuple[int, ...]:
        return *call.at.values(), call.tile.n, call.tile.workload


@contextmanager
def alone(folder: Path, processes: Processes) -> Iterator[None]:
    """Keeps a second run of the same sweep out of the folder while this one is at work.

    Raises:
      ValueError: If another one is.
    """
    if not processes.first or fcntl is None:
        yield
        return
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: another run of this sweep is at work there") from None
        except OSError:
            pass  # A file system without locks: then nobody is kept out.
        yield


def finish(parts: Parts, processes: Processes) -> list[Range]:
    """Waits for all processes; the first then makes the table if no row is missing.

    Returns:
      The rows that are missing in this folder, which is for the first process to say.
    """
    processes.finish()
    if not processes.first:
        return []
    missing = parts.missing()
    if not missing:
        parts.finish()
    return missing
