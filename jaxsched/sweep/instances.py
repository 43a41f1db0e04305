"""The random instances of a tile, drawn once for all policies, predictions, memories and arrivals.

Lane j of seed S with n requests is that of

    jaxsched.workloads.make(jax.random.fold_in(jax.random.key(S), n), …, lanes=1, first_lane=j)

as in the main job, so any row of a sweep can be had again on its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxsched import frames
from jaxsched.instance import REQUEST_FIELDS, Instance
from jaxsched.result import Result
from jaxsched.sweep.config import NO_CLOCK
from jaxsched.sweep.plan import Plan, Tile
from jaxsched.workloads import draws, generate

CACHE_BYTES = 2**28
"""Predictions, arrivals and bounds of a tile that are kept, at most."""


class Drawn:
    """The instances of a tile; parts that belong to a value of an axis are drawn when asked for.

    Everything is numpy, of shape [tile.count, n] or [tile.count]. A part depends on the tile and on
    the values of the axes only.
    """

    def __init__(self, plan: Plan, tile: Tile) -> None:
        self.tile = tile
        self._axes = plan.axes
        self.memory = plan.axes.values["memory"]
        index = np.arange(tile.first, tile.first + tile.count)
        self.seed = np.asarray(plan.axes.values["seeds"])[index // plan.config.lanes]
        self.lane = index % plan.config.lanes
        self._keys = _lane_keys(self.seed, self.lane, tile.n)
        self._shape = (tile.count, tile.n)
        law = plan.axes.laws[tile.workload]
        self._lengths = law.draw(draws.purpose(self._keys, generate.LENGTHS), self._shape)
        self.prompt, self.output = self._lengths.prompt, self._lengths.output
        self._parts: dict[Any, Any] = {}
        self._kept = max(8, CACHE_BYTES // (8 * self.output.size))

    def interval(self, prediction: int, memory: int) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds of a prediction; the memory matters to some kinds of it."""
        interval = self._axes.intervals[prediction]
        size = self.memory[memory]
        source = None if interval.source is None else interval.source(size)
        # Kinds that take no notice of the memory share their draws.
        place = memory if interval.kind == "edges" else None

        def predict() -> tuple[np.ndarray, np.ndarray]:
            key = draws.purpose(self._keys, generate.INTERVALS)
            return generate.predict(key, source, self._lengths)

        return self._part(("interval", prediction, place), predict)

    def arrival(self, which: int, clock: int) -> np.ndarray | None:
        """Arrivals, in seconds under a clock and in rounds without; None for a backlog."""
        in_seconds = self._axes.values["clocks"][clock] != NO_CLOCK
        source = self._axes.arrivals[which].source(in_seconds)
        if source is None:
            return None

        def arrive() -> np.ndarray:
            return source(draws.purpose(self._keys, generate.ARRIVALS), self._shape)

        return self._part(("arrival", which, in_seconds), arrive)

    def bound(self, memory: int) -> np.ndarray:
        """Proved lower bound on the total latency of each instance as a backlog."""
        instance = Instance(
            prompt=self.prompt, output=self.output, lower=self.output, upper=self.output,
            memory=self.memory[memory],
        )  # fmt: skip
        return self._part(("bound", memory), lambda: frames.bound_of(instance))

    def _part(self, name: Any, make: Callable[[], Any]) -> Any:
        if name not in self._parts:
            if len(self._parts) >= self._kept:
                self._parts.clear()
            self._parts[name] = make()
        return self._parts[name]


def gather(
    drawn: Drawn, places: np.ndarray, clock: int, point: bool
) -> tuple[Instance, NDArray[np.float64]]:
    """The instances at some places of a tile, and their bounds (NaN with arrivals).

    Args:
      drawn: The tile.
      places: Indices of memory, arrivals, prediction and instance, of shape [4, R]; the arrivals
        are all backlogs or none is.
      clock: Index of the clock.
      point: Whether point predictions are needed.

    Returns:
      An instance of lane shape [R], and bounds of shape [R].
    """
    memory, arrival, prediction, instance = places
    pair = prediction * len(drawn.memory) + memory
    lower = _chosen(lambda i: drawn.interval(*divmod(i, len(drawn.memory)))[0], pair, instance)
    upper = _chosen(lambda i: drawn.interval(*divmod(i, len(drawn.memory)))[1], pair, instance)
    backlog = drawn.arrival(int(arrival[0]), clock) is None
    arrive = functools.partial(drawn.arrival, clock=clock)
    made = Instance(
        prompt=drawn.prompt[instance],
        output=drawn.output[instance],
        lower=lower,
        upper=upper,
        memory=np.asarray(drawn.memory, np.int32)[memory],
        arrival=None if backlog else _chosen(arrive, arrival, instance),
        point=generate.points(None, None, None, lower, upper) if point else None,
        num_requests=np.full(len(instance), drawn.tile.n, np.int32),
    )
    if not backlog:
        return made, np.full(len(instance), np.nan)
    return made, _chosen(drawn.bound, memory, instance)


def _chosen(part: Callable[[int], Any], point: np.ndarray, instance: np.ndarray) -> np.ndarray:
    """One row of the part of each point: row r is part(point[r])[instance[r]].

    One look-up for all rows: the parts that are used are stacked first.
    """
    used = np.bincount(point) > 0
    parts = [part(int(i)) for i in np.flatnonzero(used)]
    if len(parts) == 1:
        return parts[0][instance]
    place = np.cumsum(used) - 1
    return np.concatenate(parts)[place[point] * len(parts[0]) + instance]


def pad(instance: Instance, lanes: int, width: int) -> Instance:
    """Fills a batch up with idle lanes and with requests that are not there."""
    rows, n = instance.prompt.shape
    fields = {
        name: np.pad(value, ((0, lanes - rows), (0, width - n)), mode="edge")
        for name in REQUEST_FIELDS
        if (value := getattr(instance, name)) is not None
    }
    memory = np.pad(instance.memory, (0, lanes - rows), mode="edge")
    count = np.pad(instance.num_requests, (0, lanes - rows))
    return Instance(**fields, memory=memory, num_requests=count)


def without_padding(result: Result, lanes: int, n: int) -> Result:
    """The results of the lanes and requests that `pad` was given."""
    found = jax.tree.map(lambda leaf: leaf[:lanes], result)
    names = ("completion", "first_token", "preemptions", "times")
    per_request = {name: getattr(found, name) for name in names}
    return found.replace(
        **{name: None if leaf is None else leaf[:, :n] for name, leaf in per_request.items()}
    )


@jax.jit
def _fold(seeds: jax.Array, n: jax.Array, lanes: jax.Array) -> jax.Array:
    def key(seed: jax.Array, lane: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), n), lane)

    return jax.vmap(key)(seeds, lanes)


def _lane_keys(seed: np.ndarray, lane: np.ndarray, n: int) -> jax.Array:
    """The key of each instance."""
    return _fold(jnp.asarray(seed, jnp.uint32), np.uint32(n), jnp.asarray(lane, jnp.uint32))
