"""Runs what is missing of a sweep, chunk by chunk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from jaxsched import store
from jaxsched.config import to_toml
from jaxsched.sweep.budget import MOST_CHUNK
from jaxsched.sweep.config import inputs
from jaxsched.sweep.distributed import Processes
from jaxsched.sweep.estimate import Estimate, seconds_per_row
from jaxsched.sweep.plan import Plan, Range
from jaxsched.sweep.rows import Simulator
from jaxsched.sweep.storage import Parts

CHUNK_SECONDS = 10.0
"""Time that a chunk should take, and so the work that an interruption costs."""


def text_of(plan: Plan) -> str:
    """The configuration as it is kept with the results, with the digests of its files."""
    return to_toml(plan.config) + inputs(plan.axes)


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
    pace = 1.0
    for start, stop in ranges:
        while start < stop:
            each = seconds_per_row(simulator.plan, guess.per_request, start)
            size = chunk or min(MOST_CHUNK, max(1, int(CHUNK_SECONDS / (pace * each))))
            end, began = min(stop, start + size), time.perf_counter()
            frame = simulator.table(start, end, on_rows)
            parts.write(start, end, frame)
            # How much slower than expected; rows further on may be of another kind.
            pace = max(0.1, (time.perf_counter() - began) / (each * (end - start)))
            start = end


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

