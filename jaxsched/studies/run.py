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
    fcntl = None

import jax
import pandas as pd

from jaxsched.studies import store
from jaxsched.studies.budget import MOST_CHUNK
from jaxsched.studies.parts import Parts
from jaxsched.studies.plan import Call, Range
from jaxsched.studies.rows import Simulator

CHUNK_SECONDS = 10.0
"""Time that a chunk should take, and so the work that an interruption costs."""

FIRST_REQUESTS = 2**17
"""Requests in the first simulations of a kind, whose cost is not known."""


@dataclasses.dataclass(frozen=True)
class Point:
    """What is simulated, and kept, in one go."""

    name: str  # its name in the store
    label: str  # what it is called while it runs
    requests: int  # how many are simulated
    table: Callable[[], pd.DataFrame]  # simulates it; returns its part of the table


OnPoint = Callable[[Point, bool], Any]
"""Called as (point, finished) before a point is simulated and after it is there."""


@dataclasses.dataclass(frozen=True)
class Work:
    """A study in points."""

    text: str  # its configuration, as it is kept with the results
    points: Sequence[Point]  # in the order in which they run
    # Whose instances are drawn, and refused, before there is a folder
    simulators: Sequence[Simulator]
    # The tables of all points, one below the other -> the table of results
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
    *,
    chunk: int | None = None,
    on_rows: Callable[[int], Any] = lambda rows: None,
) -> None:
    """Simulates ascending ranges of rows and writes them in parts.

    Args:
      simulator: What simulates them.
      parts: Where they go.
      ranges: The rows.
      chunk: Rows in a part; None for what takes about `CHUNK_SECONDS`.
      on_rows: Called with the number of rows that have just been simulated.

    Raises:
      OSError: If a part cannot be written; what was written before stays.
    """
    parts.sweep_up(ranges)
    pieces = _Pieces(simulator)
    for start, stop in ranges:
        while start < stop:
            frames: list[pd.DataFrame] = []
            end, began = start, time.perf_counter()
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

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._pace: dict[tuple[int, ...], float] = {}

    def end(self, row: int, most: int, left: float) -> int:
        """The row after those that take about `left` seconds, if their kind is known."""
        call = next(self._simulator.plan.calls(row, most))
        if (pace := self._pace.get(self._kind(call))) is not None:
            rows = int(max(left, 1.0) / pace)
        elif (budget := self._simulator.budget(call.at["policies"])).pads:
            rows = budget.rows(call.tile.n)  # a batch, which cannot be had for less
        else:
            rows = FIRST_REQUESTS // call.tile.n
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


# Several processes, on one machine or many, need no more of each other than their number: the rows
# of each follow from the plan. JAX's coordination service tells them apart and lets the first wait
# for the others at the end.

WEEKS = 4 * 7 * 24 * 3600
"""Seconds for which a process that has finished waits for the others."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """Which of several processes this one is."""

    index: int = 0  # 0 for the first
    count: int = 1  # how many there are

    @property
    def first(self) -> bool:
        """Whether this is the one that prints and that puts the results together."""
        return self.index == 0

    def finish(self) -> None:
        """Waits until all processes have called it."""
        if self.count > 1:
            jax.distributed.shutdown()


def join_processes(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> Processes:
    """Joins the processes of a job; to be called before JAX is used.

    Args:
      coordinator: Address and port of the first process. What is None is found out by JAX where it
        knows how, such as under SLURM and on a TPU pod slice.
      processes: Number of processes.
      process: Which one this is, from 0.

    Raises:
      ValueError: If JAX cannot find out what is missing, or the processes do not meet.
    """
    # Nothing is computed across processes; else CPUs would be connected for it, and say so.
    jax.config.update("jax_cpu_collectives_implementation", None)
    try:
        jax.distributed.initialize(coordinator, processes, process, shutdown_timeout_seconds=WEEKS)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"the processes could not be joined: {error}; outside of SLURM, Open MPI and TPU pods "
            "give --coordinator HOST:PORT --num-processes N --process-id I to each"
        ) from None
    return Processes(jax.process_index(), jax.process_count())


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
