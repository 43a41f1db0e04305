"""From a range of rows of a study to that part of the table: draws, simulates, measures.

There is no loop over instances: a call takes thousands of them as numpy columns.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from jaxsched.engines.xla import NO_CAP
from jaxsched.simulate import engine_for, simulate
from jaxsched.studies.axes import AXES, CALL, ROW, of_level
from jaxsched.studies.draw import Drawn, pad, without_padding
from jaxsched.studies.frames import STATUSES, bound_of, in_order, missed
from jaxsched.studies.plan import Call, Plan, Tile

AVAILABLE = re.compile(r"MemAvailable:\s+(\d+)")

HOST_BYTES, DEVICE_BYTES = 120, 220
"""Memory per request of a batch, at most: on the host, and for the JAX engine on its device."""

MOST_BYTES = 2**29
"""Memory of a batch, at most; larger batches are not faster on any CPU."""

MOST_ROWS = {"cpu": 2**9}
"""Simulations in a batch of the JAX engine for each local device, at most."""

PLENTY = 2**16
"""The same for devices that want many, such as a GPU."""

MOST_CHUNK = 2**18
"""Rows in a chunk, at most."""


class Budget:
    """Sizes of batches: as many simulations as fit into memory, fewer once they did not.

    They are padded for the JAX engine, to a width or (0) the next power of two of requests; there
    will never be more than `largest` simulations for one.
    """

    def __init__(self, pads: bool, largest: int, width: int = 0) -> None:
        self.pads = pads
        self._largest, self._width = largest, width
        self._host = min(MOST_BYTES, free_memory() // 8)
        devices = len(jax.local_devices())
        self._most = MOST_ROWS.get(jax.default_backend(), PLENTY) * devices
        self._device = device_memory() // 4 * devices if pads else None
        self._parts = 1

    def width(self, n: int) -> int:
        """Requests that a batch of n requests is padded to: with few widths few programs."""
        return (self._width or power_of_two(n)) if self.pads else n

    def rows(self, n: int) -> int:
        """Simulations of n requests that run at a time."""
        width = self.width(n)
        rows = self._host // (HOST_BYTES * width)
        if self._device is not None:
            rows = min(rows, self._most, self._device // (DEVICE_BYTES * width))
        rows = max(1, rows // self._parts)
        return min(1 << (rows.bit_length() - 1), power_of_two(self._largest)) if self.pads else rows

    def shrink(self, n: int) -> bool:
        """Halves what runs at a time, after memory ran out; False if that is one simulation."""
        if self.rows(n) == 1:
            return False
        self._parts *= 2
        return True

    def bytes(self, n: int) -> int:
        """Memory of a batch on the host, at most."""
        return self.rows(n) * self.width(n) * (HOST_BYTES + (DEVICE_BYTES if self.pads else 0))


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that host or device had no memory left."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()
    return isinstance(error, MemoryError)


def power_of_two(number: int) -> int:
    """The smallest power of two that is at least `number`."""
    return 1 << max(0, number - 1).bit_length()


def free_memory() -> int:
    """Bytes that this process may still use, as far as the system says."""
    limits = [1024 * int(kilobytes) for kilobytes in AVAILABLE.findall(_text("/proc/meminfo"))]
    # What the control group of a container or a cluster's job leaves.
    limit, used = (_text(f"/sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    if limit.isdecimal() and used.isdecimal():
        limits.append(max(0, int(limit) - int(used)))
    return min(limits, default=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def device_memory() -> int:
    """Bytes of a local device that programs may use; those of the host for a CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return int(stats.get("bytes_limit", free_memory()))


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


Columns = dict[str, Any]
"""Columns of a table: arrays of one length."""

ROWS = [axis.name for axis in of_level(ROW)]


class Rows(NamedTuple):
    """Some rows of a study."""

    at: Columns  # seed and lane, and of the axes by name the indices of the values
    measured: Columns  # what `Study.measure` says


class Simulator:
    """Simulates rows of a study; keeps the tile drawn last."""

    def __init__(self, plan: Plan, engine: str = "auto", largest: int | None = None) -> None:
        self.plan = plan
        self.engine = engine
        most = plan.largest_call if largest is None else min(largest, plan.largest_call)
        # With whole tiles every n runs the program that was compiled for the first.
        width = max(plan.values.read["num_requests"]) if plan.study.whole else 0
        self._budgets = {pads: Budget(pads, most, width) for pads in (False, True)}
        self._reads = [policy.reads_predictions for policy in plan.values.read["policies"]]
        self._drawn: Drawn | None = None

    def budget(self, policy: int) -> Budget:
        """Sizes of the batches of a policy; only the JAX engine needs batches of few shapes."""
        pads = engine_for(self.engine, self.plan.values.read["policies"][policy]) == "jax"
        return self._budgets[pads]

    @property
    def different(self) -> int:
        """Simulations of the study that are really run: rows alike to others are copied."""
        predictions = self.plan.sizes["predictions"]
        runs = sum(predictions if reads else 1 for reads in self._reads)
        return self.plan.total // (len(self._reads) * predictions) * runs

    def check(self) -> None:
        """Draws all instances, those of most requests first; refuses what cannot be simulated."""
        starts = [tile for tile, _, _ in self.plan.tiles(0, self.plan.total)]
        for tile in sorted(starts, key=lambda tile: -tile.n):
            self._draw(tile).check()

    def table(
        self, start: int, stop: int, on_rows: Callable[[int], Any] = lambda rows: None
    ) -> pd.DataFrame:
        """The rows start … stop - 1 of the study; `on_rows` is told how many have been added."""
        found = self.rows(start, stop, on_rows)
        about = {name: found.at[name] for name in ("seed", "lane")}
        columns = {**about, **self.titles(found.at), **found.measured}
        columns["status"] = pd.Categorical.from_codes(columns["status"], STATUSES)
        return pd.DataFrame({name: columns[name] for name in in_order(columns)}, copy=False)

    def rows(
        self, start: int, stop: int, on_rows: Callable[[int], Any] = lambda rows: None
    ) -> Rows:
        """The same, as columns."""
        parts: list[Rows] = []
        for call in self.plan.calls(start, stop):
            parts.append(self.call(call))
            on_rows(call.stop - call.start)
        at, measured = ([part[i] for part in parts] for i in range(2))
        return Rows(_joined(at), _joined(measured))

    def titles(self, at: Columns) -> Columns:
        """Columns that say the values of axes; texts are categories."""
        columns: Columns = {}
        for name, axis in AXES.items():
            if name not in at or not self.plan.values.told(name):
                continue  # the instances, and what is measured; what need not be told
            titles, read = list(self.plan.values.titles[name]), self.plan.values.read[name]
            columns[axis.column] = (
                np.asarray(titles)[at[name]]
                if axis.whole
                else pd.Categorical.from_codes(at[name], titles)
            )
            for column, number in axis.more.items():
                columns[column] = _more([number(value) for value in read], at[name])
        return columns

    def call(self, call: Call) -> Rows:
        """The columns of a call."""
        drawn = self._draw(call.tile)
        rows, shape = np.arange(call.start, call.stop), (*self.plan.inner, call.tile.count)
        *row_axes, instance = places = np.unravel_index(rows, shape)
        back: Any = slice(None)
        # A policy that takes no notice of predictions is simulated under the first of them.
        if not self._reads[call.at["policies"]]:
            first = [0 if name == "predictions" else 1 for name in (*ROWS, "instance")]
            alike = [place * factor for place, factor in zip(places, first, strict=True)]
            keys, back = np.unique(np.ravel_multi_index(alike, shape), return_inverse=True)
            places = np.unravel_index(keys, shape)
        found = self._simulated(call, np.stack(places))
        fixed = {"workloads": call.tile.workload, **call.at}
        at = {
            "seed": drawn.seed[instance],
            "lane": drawn.lane[instance],
            **dict(zip(ROWS, row_axes, strict=True)),
            **{name: np.full(len(rows), value) for name, value in fixed.items()},
        }
        return Rows(at, {name: values[back] for name, values in found.items()})

    def _draw(self, tile: Tile) -> Drawn:
        if self._drawn is None or self._drawn.tile != tile:
            self._drawn = Drawn(self.plan, tile)
        return self._drawn

    def _simulated(self, call: Call, places: np.ndarray) -> Columns:
        """Measured columns at `places`: ROW axes and instance, of shape [K + 1, R]."""
        backlog = self.plan.backlogs[places[ROWS.index("arrivals")]]
        order = np.argsort(~backlog, kind="stable")
        # A backlog is a program of its own, so batches do not mix it with arrivals.
        parts = np.split(order, [np.count_nonzero(backlog)])
        pieces = [piece for part in parts for piece in self._batches(call, places[:, part])]
        back = np.argsort(order)
        return {name: values[back] for name, values in _joined(pieces).items()}

    def _batches(self, call: Call, places: np.ndarray) -> Iterator[Columns]:
        """The same, batch by batch; where memory runs out, again with smaller ones."""
        budget, done = self.budget(call.at["policies"]), 0
        while done < places.shape[1]:
            chosen = places[:, done : done + budget.rows(call.tile.n)]
            try:
                piece = self._batch(call, chosen, budget)
            except Exception as error:
                if not is_out_of_memory(error) or not budget.shrink(call.tile.n):
                    raise
                continue
            yield piece
            done += chosen.shape[1]

    def _batch(self, call: Call, places: np.ndarray, budget: Budget) -> Columns:
        """Simulates the instances at `places` in one go."""
        cell, rows, n = self.plan.cell(call), places.shape[1], call.tile.n
        needs_point = cell["policies"].needs_point
        instance, bound = self._draw(call.tile).gather(cell, places, needs_point)
        asked = pad(instance, budget.rows(n), budget.width(n)) if budget.pads else instance
        given = dict(self.plan.study.arguments)
        for axis in of_level(CALL):
            more = axis.arguments(cell[axis.name])
            if taken := more.keys() & {"instance", "engine", *given}:
                raise ValueError(
                    f"axis {axis.name}: gives `simulate` {sorted(taken)}, which is given already"
                )
            given |= more
        # A cap that never binds, where another program would be needed.
        if budget.pads and given["max_batch"] is None and any(self.plan.values.read["max_batch"]):
            given["max_batch"] = NO_CAP
        if given["worker"].blocks:
            bound = bound_of(instance, given["worker"])
        result = simulate(asked, engine=self.engine, **given)
        result = without_padding(result, rows, n) if budget.pads else result
        found = self.plan.study.measure(instance, result, bound, cell)
        return {**found, "missed": missed(instance, cell["policies"])}


def _joined(parts: list[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _more(values: list[Any], codes: np.ndarray) -> Any:
    if any(isinstance(value, str) for value in values):
        return pd.Categorical(values).take(codes)
    return np.asarray(values, np.float64)[codes]
