"""What is finished of a study of many rows, on disk: parts of any size, then one table.

    FOLDER/manifest.json                  configuration, versions, device (see `store`)
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
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from jaxsched.studies import store
from jaxsched.studies.axes import YARDSTICK
from jaxsched.studies.plan import Plan, Range, Tile, without
from jaxsched.studies.store import Store

PART = re.compile(r"(\d+)-(\d+)\.parquet")

GROUP = 2**17
"""Rows in a group of results.parquet."""

AGAIN = "delete it, and the same command simulates it again; nothing else is lost"
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

    def done(self) -> list[Range]:
        """The ranges of rows that are there, ascending.

        Raises:
          ValueError: If a part is damaged or belongs to another study; the text names it.
        """
        if self.results.exists():
            self._check(self.results, 0, self.plan.total, ALL_AGAIN)
            return [(0, self.plan.total)]
        found = []
        for path in sorted(self._folder.glob("*.parquet")):
            if match := PART.fullmatch(path.name):
                found.append((int(match[1]), int(match[2])))
                self._check(path, *found[-1], AGAIN)
        return found

    def missing(self, ranges: Sequence[Range] | None = None) -> list[Range]:
        """What is not there yet, of all rows or of the given ascending ranges."""
        return without([(0, self.plan.total)] if ranges is None else ranges, self.done())

    def write(self, start: int, stop: int, frame: pd.DataFrame) -> None:
        """Adds a part, whole or not at all."""
        self.store.write(self.name(start, stop), frame)

    def sweep_up(self, ranges: Sequence[Range]) -> None:
        """Removes what killed processes left half written of these ranges."""
        for path in self._folder.glob(".*.parquet"):
            match = PART.fullmatch(path.name.split(".", 2)[-1])
            if match and not without([(int(match[1]), int(match[2]))], ranges):
                path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Puts all parts into one table, in order, and removes them.

        Raises:
          ValueError: If a part is damaged; nothing is removed then.
        """
        if not self.results.exists():
            store.write_atomically(self.results, self._write_all)
        if self._folder.exists():
            shutil.rmtree(self._folder)

    def tables(self) -> Iterator[pd.DataFrame]:
        """The tables of the parts in order, with ratios; no row twice."""
        ratios, end = Ratios(self.plan), 0
        for start, stop in self.done():
            if stop > end:
                frame = self.store.read(self.name(start, stop), AGAIN).iloc[max(0, end - start) :]
                yield ratios.added(max(start, end), frame)
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
        try:
            footer = pq.read_metadata(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path}: cannot be read ({error}); {again}") from None
        if store.texts_of(footer).get("config") != self.store.metadata["config"]:
            raise ValueError(f"{path}: belongs to another configuration; move it away")
        if footer.num_rows != stop - start or not 0 <= start < stop <= self.plan.total:
            raise ValueError(f"{path}: has {footer.num_rows} rows, which its name denies; {again}")


class Ratios:
    """Adds the paired ratio to the yardstick's latency, for tables that come in order."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._there = plan.values.titles["policies"][0] == YARDSTICK
        self._tile: Tile | None = None
        self._latency = np.zeros(0)

    def added(self, start: int, frame: pd.DataFrame) -> pd.DataFrame:
        """The table of the rows from `start` on, with the ratio after the mean latency."""
        latency = frame["mean_latency"].to_numpy()
        ratio = np.full(len(frame), np.nan)
        for tile, low, high in self._plan.tiles(start, start + len(frame)):
            if not self._there:
                break
            if tile != self._tile:
                each = self._plan.points // self._plan.sizes["policies"]
                self._tile, self._latency = tile, np.full(each * tile.count, np.nan)
            own, place = latency[low - start : high - start], np.arange(low, high) - tile.start
            first = place < len(self._latency)
            self._latency[place[first]] = own[first]
            ratio[low - start : high - start] = own / self._latency[place % len(self._latency)]
        frame = frame.copy(deep=False)
        frame.insert(frame.columns.get_loc("mean_latency") + 1, f"ratio_to_{YARDSTICK}", ratio)
        return frame
