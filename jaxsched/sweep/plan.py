"""The order of all simulations of a sweep, and how it is cut.

Every simulation has a number, its row in the table. The rows are ordered by

    workload, n, tile, policy, max_batch, clock, memory, arrivals, prediction, instance

where the instances, seeds × lanes of them, are drawn in tiles of consecutive ones. Tiles follow
from the configuration alone, and whatever is random is drawn for whole tiles, so that results do
not depend on where the rows are cut into chunks and batches.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from jaxsched.frames import YARDSTICK
from jaxsched.sweep.config import NO_CLOCK, Axes, SweepConfig

TILE_REQUESTS = 2**18
"""Requests in a tile, at most (one instance may have more)."""

Range = tuple[int, int]
"""Rows from the first up to, but not including, the second."""

OUTER = ("policies", "max_batch", "clocks")
"""Axes whose values are simulated in separate calls."""

INNER = ("memory", "arrivals", "predictions")
"""Axes whose values can share a call."""

SLICES = 64
"""Slices that the rows are cut into for each process; they are dealt out one by one."""


@dataclasses.dataclass(frozen=True)
class Tile:
    """Consecutive instances of one workload and number of requests.

    Attributes:
      workload: Index of the workload.
      n: Requests.
      first: Index of the first instance; instance i is lane i % lanes of seed i // lanes.
      count: Instances.
      start: Row of its first simulation.
    """

    workload: int
    n: int
    first: int
    count: int
    start: int


@dataclasses.dataclass(frozen=True)
class Call:
    """Consecutive rows of one tile that share policy, cap and clock.

    Attributes:
      tile: Their tile.
      policy: Index of the policy, as `cap` and `clock` are those of their axes.
      start: First row, counted in the tile's rows of that policy, cap and clock.
      stop: The row after the last.
    """

    tile: Tile
    policy: int
    cap: int
    clock: int
    start: int
    stop: int


class Plan:
    """All simulations of a sweep.

    Attributes:
      config: What was asked for.
      axes: Its axes; the policy that ratios are taken to stands first among the policies.
      sizes: Number of values of each axis.
      instances: Seeds times lanes.
      total: Number of simulations.
    """

    def __init__(self, config: SweepConfig) -> None:
        self.config = config
        self.axes = _yardstick_first(Axes.of(config))
        self.sizes = {name: len(values) for name, values in self.axes.values.items()}
        self.instances = self.sizes["seeds"] * config.lanes
        self.outer = math.prod(self.sizes[name] for name in OUTER)
        self.inner = tuple(self.sizes[name] for name in INNER)
        self.points = self.outer * math.prod(self.inner)
        self._block = self.instances * self.points
        self.total = self._block * self.sizes["workloads"] * self.sizes["num_requests"]

    @property
    def has_clock(self) -> bool:
        """Whether some of the simulations are under a clock."""
        return any(name != NO_CLOCK for name in self.axes.values["clocks"])

    @property
    def largest_call(self) -> int:
        """Simulations that one call can have, at most."""
        return max(map(self._width, self.axes.values["num_requests"])) * math.prod(self.inner)

    def _width(self, n: int) -> int:
        """Instances in a full tile."""
        return max(1, min(self.instances, TILE_REQUESTS // n))

    def tile_at(self, row: int) -> Tile:
        """The tile that a row belongs to."""
        block, rest = divmod(row, self._block)
        workload, which = divmod(block, self.sizes["num_requests"])
        n = self.axes.values["num_requests"][which]
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
                outer = np.unravel_index(which, [self.sizes[name] for name in OUTER])
                ends = max(low - which * size, 0), min(high - which * size, size)
                yield Call(tile, *map(int, outer), *ends)

    def share(self, process: int, processes: int) -> list[Range]:
        """The rows of one of several processes, as ranges; they depend on the plan alone."""
        if processes == 1:
            return [(0, self.total)]
        width = max(1, -(-self.total // (SLICES * processes)))
        starts = range(process * width, self.total, processes * width)
        return [(start, min(start + width, self.total)) for start in starts]


def without(ranges: Sequence[Range], done: Sequence[Range]) -> list[Range]:
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


def _yardstick_first(axes: Axes) -> Axes:
    """The axes with the policy that ratios are taken to in front, so that its rows come first."""
    names = axes.values["policies"]
    order = sorted(range(len(names)), key=lambda i: names[i] != YARDSTICK)
    names = tuple(names[i] for i in order)
    policies = tuple(axes.policies[i] for i in order)
    return dataclasses.replace(axes, values={**axes.values, "policies": names}, policies=policies)
