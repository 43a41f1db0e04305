"""The random instances of a tile, drawn once for all values of the other axes.

Lane j of seed S with n requests is that of

    jaxsched.workloads.make(jax.random.fold_in(jax.random.key(S), n), …, lanes=1, first_lane=j)

so any row of a study can be had again on its own. (`Study.key_of_n` leaves the folding out.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from jaxsched.instance import REQUEST_FIELDS, Instance, check_instance
from jaxsched.result import Result
from jaxsched.studies.axes import ROW, Cell, of_level
from jaxsched.studies.frames import bound_of
from jaxsched.studies.plan import Plan, Tile
from jaxsched.workloads import Trace, draws, generate, intervals
from jaxsched.workloads.lengths import DrawnLengths as Lengths
from jaxsched.workloads.texts import Arrivals, Prediction

CACHE_BYTES = 2**28
"""Predictions, arrivals and bounds of a tile that are kept, at most."""


class Drawn:
    """The requests of a tile; what belongs to a value of an axis is drawn when asked for.

    Everything is numpy, of shape [tile.count, n] or [tile.count], and depends on the tile and on
    the values of the axes only.
    """

    tile: Tile

    def __init__(self, plan: Plan, tile: Tile) -> None:
        self.tile: Tile = tile
        self.plan = plan
        index = np.arange(tile.first, tile.first + tile.count)
        self.seed = np.asarray(plan.values.read["seeds"])[index // plan.study.lanes]
        self.lane = index % plan.study.lanes
        n = np.uint32(tile.n) if plan.study.key_of_n else None
        self._keys = _lane_keys(self.seed.astype(np.uint32), self.lane.astype(np.uint32), n)
        self._shape = (tile.count, tile.n)
        self._times: np.ndarray | None = None
        if plan.study.stretches is None:
            law = plan.values.read["workloads"][tile.workload]
            self.lengths = law.draw(draws.purpose(self._keys, generate.LENGTHS), self._shape)
        else:
            self.lengths, self._times = stretches(plan.study.stretches, self._keys, tile.n)
        self._parts: dict[Any, Any] = {}
        self._kept = max(8, CACHE_BYTES // (8 * self.lengths.output.size))

    def predicted(self, prediction: Prediction, memory: int) -> dict[str, np.ndarray]:
        """Lower and upper bounds of the outputs; the memory matters to some kinds of them."""
        source = None if prediction.source is None else prediction.source(memory)

        def predict() -> tuple[np.ndarray, np.ndarray]:
            key = draws.purpose(self._keys, generate.INTERVALS)
            return generate.predict(key, source, self.lengths)

        # Kinds that take no notice of the memory share their draws.
        place = memory if prediction.reads_memory else None
        lower, upper = self._part(("predicted", prediction.text, place), predict)
        return {"lower": lower, "upper": upper}

    def arrival(self, arrivals: Arrivals, in_seconds: bool) -> np.ndarray | None:
        """Arrivals, in seconds or in rounds; None for a backlog."""
        if self._times is not None:
            return self._times / arrivals.number
        source = arrivals.source(in_seconds)
        if source is None:
            return None

        def arrive() -> np.ndarray:
            return source(draws.purpose(self._keys, generate.ARRIVALS), self._shape)

        return self._part(("arrival", arrivals.text, in_seconds), arrive)

    def bound(self, memory: int) -> np.ndarray:
        """Proved lower bound on the total latency of each instance as a backlog."""
        prompt, output = self.lengths.prompt, self.lengths.output
        instance = Instance(prompt=prompt, output=output, lower=output, upper=output, memory=memory)
        return self._part(("bound", memory), lambda: (self.plan.study.bound or bound_of)(instance))

    def gather(
        self, cell: Cell, places: np.ndarray, point: bool
    ) -> tuple[Instance, NDArray[np.float64]]:
        """The instances at some places, and their bounds (NaN with arrivals).

        Places are indices of each ROW axis and of the instance, of shape [K + 1, R], whose arrivals
        are all backlogs or none is; with `point` point predictions are made. The instance has lane
        shape [R].
        """
        at = {axis.name: column for axis, column in zip(of_level(ROW), places, strict=False)}
        instance, fields = places[-1], {}
        for axis in of_level(ROW):
            names = (axis.name, *axis.given)
            which = np.ravel_multi_index(
                [at[name] for name in names], [self.plan.sizes[name] for name in names]
            )
            used = np.flatnonzero(np.bincount(which))
            parts = [axis.fields(self, self.plan.cells(cell, names, int(i))) for i in used]
            for name in parts[0]:
                fields[name] = _chosen([part[name] for part in parts], used, which, instance)
        if point and "point" not in fields:
            fields["point"] = generate.points(None, None, None, fields["lower"], fields["upper"])
        made = Instance(
            **{"prompt": self.lengths.prompt[instance], "output": self.lengths.output[instance]}
            | fields,
            num_requests=np.full(len(instance), self.tile.n, np.int32),
        )
        if made.arrival is not None:
            return made, np.full(len(instance), np.nan)
        used = np.flatnonzero(np.bincount(at["memory"]))
        bounds = [self.bound(self.plan.values.read["memory"][i]) for i in used]
        return made, _chosen(bounds, used, at["memory"], instance)

    def check(self) -> None:
        """Refuses instances that cannot be simulated, under each prediction.

        ValueError if a request can never fit, or has no prediction; the text names it.
        """
        axes = [axis.name for axis in of_level(ROW)]
        for i, prediction in enumerate(self.plan.values.read["predictions"]):
            places = np.zeros((len(axes) + 1, self.tile.count), int)
            places[axes.index("predictions")], places[-1] = i, np.arange(self.tile.count)
            cell = {name: found[0] for name, found in self.plan.values.read.items()}
            try:
                check_instance(self.gather(cell, places, True)[0])
            except ValueError as error:
                advice = "lengths.max_output leaves longer ones out"
                text = str(error).replace(intervals.OPEN_ENDED, advice)
                where = f"n = {self.tile.n}, prediction {prediction.text!r}"
                raise ValueError(f"{where}: {text}") from None

    def _part(self, name: Any, make: Callable[[], Any]) -> Any:
        if name not in self._parts:
            if len(self._parts) >= self._kept:
                self._parts.clear()
            self._parts[name] = make()
        return self._parts[name]


def stretches(trace: Trace, keys: jax.Array, n: int) -> tuple[Lengths, np.ndarray]:
    """Requests of a trace in a row, from a random one on, and their times at rate 1."""
    shape = (len(keys), 1)
    chosen = draws.uniforms(draws.purpose(keys, generate.ARRIVALS), shape)
    rows = draws.below(chosen, len(trace) - n + 1) + np.arange(n)
    own = [None if bound is None else bound[rows] for bound in (trace.lower, trace.upper)]
    assert trace.prompt is not None and trace.arrival_seconds is not None  # `usable` says so
    times = trace.arrival_seconds[rows]
    span = trace.arrival_seconds[-1] - trace.arrival_seconds[0]
    # The rate is that of the whole trace; busy hours stay busy.
    return Lengths(trace.prompt[rows], trace.output[rows], *own), (times - times[:, :1]) * (
        len(trace) - 1
    ) / span


def _chosen(
    parts: Sequence[Any], used: np.ndarray, which: np.ndarray, instance: np.ndarray
) -> np.ndarray | None:
    """One row of the part of each place: row r is parts[used == which[r]][instance[r]].

    One look-up for all rows: the parts are stacked first.
    """
    if parts[0] is None:
        return None
    if len(parts) == 1:
        return parts[0][instance]
    place = np.searchsorted(used, which)
    return np.concatenate(parts)[place * len(parts[0]) + instance]


def concatenate(instances: Iterable[Instance]) -> Instance:
    """Puts instances of lane shape [lanes] and one number of requests one after another."""
    several = list(instances)
    columns = {
        field: np.concatenate([np.asarray(getattr(instance, field)) for instance in several])
        for field in REQUEST_FIELDS
        if getattr(several[0], field) is not None
    }
    memory = np.concatenate([np.broadcast_to(i.memory, i.lanes) for i in several])
    return Instance(**columns, memory=memory)


def pad(instance: Instance, lanes: int, width: int) -> Instance:
    """Fills a batch up with idle lanes and with requests that are not there."""
    rows, n = instance.prompt.shape
    fields = {
        name: np.pad(value, ((0, lanes - rows), (0, width - n)), mode="edge")
        for name in REQUEST_FIELDS
        if (value := getattr(instance, name)) is not None
    }
    memory = np.pad(instance.memory, (0, lanes - rows), mode="edge")
    numbers = np.pad(instance.num_requests, (0, lanes - rows))
    return Instance(**fields, memory=memory, num_requests=numbers)


def without_padding(result: Result, lanes: int, n: int) -> Result:
    """The results of the lanes and requests that `pad` was given."""
    found = jax.tree.map(lambda leaf: leaf[:lanes], result)
    names = ("completion", "first_token", "preemptions", "times")
    per_request = {name: getattr(found, name) for name in names}
    return found.replace(
        **{name: None if leaf is None else leaf[:, :n] for name, leaf in per_request.items()}
    )


@jax.jit
def _lane_keys(seeds: jax.Array, lanes: jax.Array, n: jax.Array | None) -> jax.Array:
    """The key of each instance."""

    def key(seed: jax.Array, lane: jax.Array) -> jax.Array:
        of_seed = jax.random.key(seed)
        return jax.random.fold_in(of_seed if n is None else jax.random.fold_in(of_seed, n), lane)

    return jax.vmap(key)(seeds, lanes)
