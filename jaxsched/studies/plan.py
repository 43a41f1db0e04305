"""The order of all simulations of a study, and how it is cut.

Every simulation has a number, its row in the table. The rows are in the order of the axes (see
`jaxsched.studies.axes`), where the instances, seeds × lanes of them, are drawn in tiles of
consecutive ones:

    workload, n, tile, policy, max_batch, clock, worker, memory, arrivals, prediction, instance

Tiles follow from the configuration alone, and whatever is random is drawn for whole tiles, so that
results do not depend on where the rows are cut into chunks and batches.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxsched.instance import Instance
from jaxsched.studies.axes import BLOCK, CALL, ROW, Cell, Values, of_level
from jaxsched.workloads import Trace

TILE_REQUESTS = 2**18
"""Requests in a tile, at most (one instance may have more)."""

RowRange = tuple[int, int]
"""Rows from the first up to, but not including, the second."""

SLICES = 64
"""Slices that the rows are cut into for each process; they are dealt out one by one."""


@dataclasses.dataclass(frozen=True)
class Study:
    """What a configuration asks for."""

    values: Values  # of the axes
    # Random instances for each seed, workload and number of requests; the same ones for all other
    # values, so that comparisons are paired
    lanes: int
    # (instance, result, bound, cell) -> measured columns, arrays of shape [lanes]
    measure: Callable[..., dict[str, Any]]
    # Instances are stretches of this trace, and its own arrivals at the mean rates of the axis;
    # None to draw them from the workloads
    stretches: Trace | None = None
    key_of_n: bool = True  # whether instances of every number of requests have keys of their own
    # The proved lower bound on the total latency of each lane of a backlog; None for a quick one
    bound: Callable[[Instance], np.ndarray] | None = None
    whole: bool = False  # whether all instances of a number of requests are one tile
    # Further arguments of `simulate`
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Tile:
    """Consecutive instances of one workload and number of requests."""

    workload: int  # index of the workload
    n: int  # requests
    first: int  # index of the first instance; instance i is lane i % lanes of seed i // lanes
    count: int  # instances
    start: int  # row of its first simulation


@dataclasses.dataclass(frozen=True)
class Call:
    """Consecutive rows of one tile that share the values of all CALL axes."""

    tile: Tile  # their tile
    at: Mapping[str, int]  # of each CALL axis by name the index of the value
    start: int  # first row, counted in the tile's rows of these values
    stop: int  # the row after the last


class Plan:
    """All simulations of a study.

    Attributes:
      study, values: What was asked for.
      sizes, outer, inner: Number of values of each axis, of each CALL axis and of each ROW axis.
      instances: Seeds times lanes.
      points: Combinations of values of CALL and ROW axes.
      total: Number of simulations.
    """

    def __init__(self, study: Study) -> None:
        self.study, self.values = study, study.values
        self.sizes = {name: len(found) for name, found in self.values.read.items()}
        self.instances = self.sizes["seeds"] * study.lanes
        self.outer = {axis.name: self.sizes[axis.name] for axis in of_level(CALL)}
        self.inner = tuple(self.sizes[axis.name] for axis in of_level(ROW))
        self.points = math.prod(self.outer.values()) * math.prod(self.inner)
        self._block = self.instances * self.points
        self.total = self._block * math.prod(self.sizes[axis.name] for axis in of_level(BLOCK))

    @property
    def largest_call(self) -> int:
        """Simulations that one call can have, at most."""
        return max(map(self._width, self.values.read["num_requests"])) * math.prod(self.inner)

    @functools.cached_property
    def backlogs(self) -> np.ndarray:
        """Mask of the arrivals without any, of shape [arrivals]."""
        return np.asarray([arrivals.backlog for arrivals in self.values.read["arrivals"]])

    def _width(self, n: int) -> int:
        """Instances in a full tile."""
        most = self.instances if self.study.whole else TILE_REQUESTS // n
        return max(1, min(self.instances, most))

    def cell(self, call: Call) -> dict[str, Any]:
        """What the values of the CALL axes stand for."""
        return {name: self.values.read[name][i] for name, i in call.at.items()}

    def cells(self, cell: Cell, names: Sequence[str], which: int) -> Cell:
        """A cell with the values of some ROW axes, given by their index in all combinations."""
        at = np.unravel_index(which, [self.sizes[name] for name in names])
        found = {name: self.values.read[name][i] for name, i in zip(names, at, strict=True)}
        return {**cell, **found}

    def tile_at(self, row: int) -> Tile:
        """The tile that a row belongs to."""
        block, rest = divmod(row, self._block)
        workload, which = divmod(block, self.sizes["num_requests"])
        n = self.values.read["num_requests"][which]
        width = self._width(n)
        first = rest // (width * self.points) * width
        count = min(width, self.instances - first)
        return Tile(workload, n, first, count, block * self._block + first * self.points)

    def tiles(self, start: int, stop: int) -> Iterator[tuple[Tile, int, int]]:
        """The tiles of the rows start … stop - 1, each with its part of them."""
        while start < stop:
            tile = self.tile_at(start)
            end = min(stop, tile.start + tile.count * self.points)
            yield tile, start, end
            start = end

    def calls(self, start: int, stop: int) -> Iterator[Call]:
        """The rows start … stop - 1 cut into calls."""
        for tile, low, high in self.tiles(start, stop):
            size = tile.count * math.prod(self.inner)
            low, high = low - tile.start, high - tile.start
            for which in range(low // size, -(-high // size)):
                at = map(int, np.unravel_index(which, list(self.outer.values())))
                ends = max(low - which * size, 0), min(high - which * size, size)
                yield Call(tile, dict(zip(self.outer, at, strict=True)), *ends)

    def rows_of(self, policy: int, n: int = 0) -> RowRange:
        """The rows of a policy and a number of requests (by index), if the tiles are whole."""
        size = self._block // self.sizes["policies"]
        start = n * self._block + policy * size
        return start, start + size

    def share(self, process: int, processes: int) -> list[RowRange]:
        """The rows of one of several processes, as ranges; they depend on the plan alone."""
        if processes == 1:
            return [(0, self.total)]
        width = max(1, -(-self.total // (SLICES * processes)))
        starts = range(process * width, self.total, processes * width)
        return [(start, min(start + width, self.total)) for start in starts]


def without(ranges: Sequence[RowRange], done: Sequence[RowRange]) -> list[RowRange]:
    """What is left of ascending ranges of rows without the ascending ranges `done`."""
    left = []
    for start, stop in ranges:
        for low, high in done:
            if high > start and low < stop:
                if low > start:
                    left.append((start, low))
                start = max(start, high)
        if start < stop:
            left.append((start, stop))
    return left
