"""Runs what is missing of a sweep, chunk by chunk."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

import pandas as pd

from jaxsched import store
from jaxsched.config import to_toml
from jaxsched.sweep.budget import MOST_CHUNK
from jaxsched.sweep.config import DEFAULTS, inputs
from jaxsched.sweep.distributed import Processes
from jaxsched.sweep.estimate import Estimate, seconds_per_row
from jaxsched.sweep.plan import Call, Plan, Range
from jaxsched.sweep.rows import Simulator
from jaxsched.sweep.storage import Parts

CHUNK_SECONDS = 10.0
"""Time that a chunk should take, and so the work that an interruption costs."""

FIRST_SECONDS, FIRST_ROWS = 1.0, 2**14
"""Time and rows of the first simulations of a kind, whose cost is not known."""


def text_of(plan: Plan) -> str:
    """The configuration as it is kept with the results, with the digests of its files."""
    config = plan.config
    random = {table.axis for table in config.random}
    left_out = {
        name: values
        for name, values in DEFAULTS.items()
        if not getattr(config, name) and name not in random
    }
    return to_toml(dataclasses.replace(config, **left_out)) + inputs(plan.axes)


def open_parts(plan: Plan, folder: Path) -> Parts:
    """Opens the folder of a sweep; see `store.open_store` for what is refused."""
    return Parts(store.open_store(folder, text_of(plan)), plan)


def run(
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
        elif (budget := self._simulator.budget(call.policy)).pads:
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
        return call.policy, call.cap, call.clock, call.tile.n, call.tile.workload


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
