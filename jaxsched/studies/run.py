"""Runs what is missing of a study, and keeps it: point by point, or chunk by chunk of rows.

Chunks are parts of any size, which become one table in the end:

    FOLDER/parts/FIRST-END.parquet        the rows FIRST … END - 1; each appears whole or not at all
    FOLDER/results.parquet                all rows in order, when all are there; the parts then go

Parts say by their names what they hold, so that chunks can have any size at any time, and parts
that several machines wrote can be put into one folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from jaxsched.machine import faults
from jaxsched.studies import store
from jaxsched.studies.axes import YARDSTICK
from jaxsched.studies.plan import Plan, RowRange, Tile, without
from jaxsched.studies.rows import MOST_CHUNK, Simulator
from jaxsched.studies.store import Store

CHUNK_SECONDS = 10.0
"""Time that a chunk should take, and so the work that an interruption costs."""

FIRST_REQUESTS = 2**17
"""Requests in the first simulations of a kind, whose cost is not known."""


RESULTS = "results"
"""The table that every study has."""


@dataclasses.dataclass(frozen=True)
class Point:
    """What is simulated, and kept, in one go."""

    name: str  # its name in the store
    label: str  # what it is called while it runs
    requests: int  # how many are simulated
    # Simulates it; returns its part of the table, or of each of `Work.tables`
    table: Callable[[], pd.DataFrame | tuple[pd.DataFrame, ...]]


OnPoint = Callable[[Point, bool], Any]
"""Called as (point, finished) before a point is simulated and after it is there."""


def part_name(*texts: str) -> str:
    """What a point about these texts is called in the store."""
    return "-".join(texts).translate(str.maketrans(":,/", "---"))


@dataclasses.dataclass(frozen=True)
class Work:
    """A study in points."""

    text: str  # its configuration, as it is kept with the results
    points: Sequence[Point]  # in the order in which they run
    # Whose instances are drawn, and refused, before there is a folder
    simulators: Sequence[Simulator] = ()
    # The tables of all points, one below the other -> the table of results
    whole: Callable[[pd.DataFrame], pd.DataFrame] = lambda table: table
    tables: Sequence[str] = (RESULTS,)  # the tables that points have parts of, results first
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)  # kept with the results

    def run(self, folder: Path | None, on_point: OnPoint = lambda *_: None) -> list[pd.DataFrame]:
        """Runs what is left of it, and returns its tables, kept in `folder` if that is given.

        ValueError if the folder holds results of another configuration, or the instances are
        refused.
        """
        for simulator in self.simulators:
            simulator.check()
        kept = None if folder is None else store.open_store(folder, self.text)
        with contextlib.nullcontext() if folder is None else store.alone(folder):
            parts = []
            for point in self.points:
                parts.append(self._parts(point, kept, on_point))
                on_point(point, True)
            results, *more = (pd.concat(x, ignore_index=True) for x in zip(*parts, strict=True))
            tables = [self.whole(results), *more]
            for name, table in zip(self.tables if kept else (), tables, strict=False):
                kept.finish(table, name, **self.notes)
        return tables

    def _parts(self, point: Point, kept: Store | None, on_point: OnPoint) -> Sequence[pd.DataFrame]:
        """A point's part of each table: those that are kept, if all of them are."""
        names = [point.name, *(f"{point.name}.{table}" for table in self.tables[1:])]
        if kept is None or not all(map(kept.has, names)):
            on_point(point, False)
            made = point.table()
            made = made if isinstance(made, tuple) else (made,)
            if kept is None:
                return made
            for name, part in zip(names, made, strict=True):
                kept.write(name, part)
        return [kept.read(name) for name in names]


PART = re.compile(r"(\d+)-(\d+)\.parquet")

GROUP = 2**17
"""Rows in a group of results.parquet."""

PART_AGAIN = "delete it, and the same command simulates it again; nothing else is lost"
ALL_AGAIN = "delete it, and the same command makes the whole table again"


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of a study, and the table they become."""

    store: Store  # the opened folder
    plan: Plan  # the study's

    @property
    def results(self) -> Path:
        """The finished table, there or not."""
        return self.store.folder / "results.parquet"

    @property
    def _folder(self) -> Path:
        return self.store.folder / "parts"

    def name(self, start: int, stop: int) -> str:
        """What the part of the rows start … stop - 1 is called."""
        return f"{start:012d}-{stop:012d}"

    def done(self) -> list[RowRange]:
        """The ranges of rows that are there, ascending.

        ValueError if a part is damaged or belongs to another study; the text names it.
        """
        if self.results.exists():
            self._check(self.results, 0, self.plan.total, ALL_AGAIN)
            return [(0, self.plan.total)]
        found = []
        for path in sorted(self._folder.glob("*.parquet")):
            if match := PART.fullmatch(path.name):
                found.append((int(match[1]), int(match[2])))
                self._check(path, *found[-1], PART_AGAIN)
        return found

    def missing(self, ranges: Sequence[RowRange] | None = None) -> list[RowRange]:
        """What is not there yet, of all rows or of the given ascending ranges."""
        return without([(0, self.plan.total)] if ranges is None else ranges, self.done())

    def write(self, start: int, stop: int, frame: pd.DataFrame) -> None:
        """Adds a part, whole or not at all."""
        self.store.write(self.name(start, stop), frame)

    def sweep_up(self, ranges: Sequence[RowRange]) -> None:
        """Removes what killed processes left half written of these ranges."""
        for path in self._folder.glob(".*.parquet"):
            match = PART.fullmatch(path.name.split(".", 2)[-1])
            if match and not without([(int(match[1]), int(match[2]))], ranges):
                path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Puts all parts into one table, in order, and removes them.

        ValueError if a part is damaged; nothing is removed then.
        """
        if not self.results.exists():
            store.write_atomically(self.results, self._write_all)
        with contextlib.suppress(OSError):  # they do no harm
            shutil.rmtree(self._folder)

    def tables(self) -> Iterator[pd.DataFrame]:
        """The tables of the parts in order, with ratios; no row twice."""
        return with_ratio(self.plan, self._in_order())

    def _in_order(self) -> Iterator[tuple[int, pd.DataFrame]]:
        """The tables and their first rows; what a part of an earlier version lacks is NaN."""
        end, done = 0, self.done()
        schemas = [pq.read_schema(self.store.part(self.name(*rows))).names for rows in done]
        columns: list[str] = max(schemas, key=len, default=[])
        for start, stop in done:
            if stop > end:
                frame = self.store.read(self.name(start, stop), PART_AGAIN)
                frame = frame.reindex(columns=columns).iloc[max(0, end - start) :]
                yield max(start, end), frame
                end = stop

    def _write_all(self, path: Path) -> None:
        waiting: list[pa.Table] = []
        with contextlib.ExitStack() as stack:
            writer = None
            for frame in self.tables():
                waiting.append(store.to_arrow(frame, self.store.metadata))
                if writer is None:
                    schema = waiting[0].schema
                    writer = stack.enter_context(pq.ParquetWriter(path, schema, **store.CHECKED))
                # Groups of one size, whatever the sizes of the parts.
                joined = pa.concat_tables(waiting)
                whole = joined.num_rows // GROUP * GROUP
                writer.write_table(joined.slice(0, whole), GROUP)
                waiting = [joined.slice(whole)]
            if writer is not None and waiting[0].num_rows:
                writer.write_table(waiting[0], GROUP)

    def _check(self, path: Path, start: int, stop: int, again: str) -> None:
        """Refuses a part whose footer does not fit its name and this study."""
        with faults.reading(path, "a Parquet file", again):
            footer = pq.read_metadata(path)
        if store.texts_of(footer).get("config") != self.store.metadata["config"]:
            raise ValueError(f"{path}: belongs to another configuration; move it away")
        if footer.num_rows != stop - start or not 0 <= start < stop <= self.plan.total:
            raise ValueError(f"{path}: has {footer.num_rows} rows, which its name denies; {again}")


def with_ratio(plan: Plan, tables: Iterable[tuple[int, pd.DataFrame]]) -> Iterator[pd.DataFrame]:
    """Tables in order, from (first row, table), with the paired ratio to the yardstick's latency.

    It stands after the mean latency.
    """
    there = plan.values.titles["policies"][0] == YARDSTICK
    each = plan.points // plan.sizes["policies"]
    own_tile: Tile | None = None
    for start, frame in tables:
        latency, ratio = frame["mean_latency"].to_numpy(), np.full(len(frame), np.nan)
        for tile, low, high in plan.tiles(start, start + len(frame)) if there else ():
            if tile != own_tile:
                own_tile, yardstick = tile, np.full(each * tile.count, np.nan)
            own, place = latency[low - start : high - start], np.arange(low, high) - tile.start
            first = place < len(yardstick)
            yardstick[place[first]] = own[first]
            ratio[low - start : high - start] = own / yardstick[place % len(yardstick)]
        made = frame.copy(deep=False)
        made.insert(frame.columns.get_loc("mean_latency") + 1, f"ratio_to_{YARDSTICK}", ratio)
        yield made


def run_rows(
    simulator: Simulator,
    parts: Parts,
    ranges: list[RowRange],
    *,
    chunk: int | None = None,
    on_rows: Callable[[int], Any] = lambda rows: None,
) -> None:
    """Simulates ascending ranges of rows and writes them in parts.

    Parts have `chunk` rows, or as many as take about `CHUNK_SECONDS`. `on_rows` is told how many
    rows have just been simulated. OSError if a part cannot be written; what was written before
    stays.
    """
    plan = simulator.plan
    pace: dict[tuple[int, ...], float] = {}  # seconds a row, by kind of simulation
    parts.sweep_up(ranges)

    def piece(row: int, most: int, left: float) -> pd.DataFrame:
        """Rows of one kind: so many as take about `left` seconds, if the kind is known."""
        call, began = next(plan.calls(row, most)), time.perf_counter()
        kind = (*call.at.values(), call.tile.n, call.tile.workload)
        budget = simulator.budget(call.at["policies"])
        if kind in pace:
            rows = int(max(left, 1.0) / pace[kind])
        else:  # at least a batch, where it cannot be had for less
            rows = budget.rows(call.tile.n) if budget.pads else FIRST_REQUESTS // call.tile.n
        end = most if chunk else row + min(max(1, rows), call.stop - call.start)
        frame = simulator.table(row, end, on_rows)
        pace[kind] = (time.perf_counter() - began) / len(frame)
        return frame

    for start, stop in ranges:
        while start < stop:
            frames: list[pd.DataFrame] = []
            end, began = start, time.perf_counter()
            most = min(stop, start + (chunk or MOST_CHUNK))
            while end < most:
                left = CHUNK_SECONDS - (time.perf_counter() - began)
                if not chunk and frames and left <= 0:
                    break
                frames.append(piece(end, most, left))
                end += len(frames[-1])
            parts.write(start, end, pd.concat(frames, ignore_index=True))
            start = end


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


def join_processes(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> Processes:
    """Joins the processes of a job; to be called before JAX is used.

    The coordinator is address and port of the first process. What is None is found out by JAX where
    it knows how, such as under SLURM and on a TPU pod slice. ValueError if JAX cannot find out what
    is missing, or the processes do not meet.
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


def finish(parts: Parts, processes: Processes) -> list[RowRange]:
    """Waits for all processes; the first then makes the table if no row is missing.

    It returns the rows that are missing in this folder, which is for the first process to say.
    """
    if processes.count > 1:
        jax.distributed.shutdown()
    missing = parts.missing() if processes.first else []
    if processes.first and not missing:
        parts.finish()
    return missing
