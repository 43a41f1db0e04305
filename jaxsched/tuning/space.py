"""The coordinates that are searched; one point of a space is a vector z of shape [d].

A number of the family is x = c sinh(z), within its range: linear where |x| is below the scale c,
logarithmic beyond, so that a weight can be 0, change its sign, and reach 64 in a few steps.

The family has rules that evict one another's requests for ever; the space has none. Its eviction
keys never fall while a request runs: `evict_progress` is at least 0, and so is `evict_estimate`
where `run_growth` is searched. Of the active requests the one with the largest (key, index) is then
evicted only after one with a larger has entered. So the largest rises from overflow to overflow
until its request completes, and it is bounded: some request completes, and in the end all do.
Arrivals stand still, so their weight may be any.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from jaxsched.policies.family import NUMBERS, FamilyParams
from jaxsched.policies.network import (
    EVICT,
    HIDDEN_UNITS,
    PROGRESS,
    WIDEST,
    NetworkParams,
    shapes,
)

Floats = NDArray[np.float64]

_VICTIM = dict(evict_estimate=0.0, evict_progress=1.0, reserve_factor=0.0)

HAND_WRITTEN = {
    "fcfs": FamilyParams(
        admit_estimate=0.0, age=1.0, evict_estimate=0.0, evict_arrival=1.0, reserve_factor=0.0
    ),
    "lcf": FamilyParams(admit_estimate=0.0, age=1.0, evict_prompt=1.0, **_VICTIM),
    "remaining_volume": FamilyParams(admit_estimate=0.0, admit_prompt=1.0, progress=1.0, **_VICTIM),
    "remaining_volume:age=100": FamilyParams(
        admit_estimate=0.0, admit_prompt=1.0, progress=1.0, age=0.01, **_VICTIM
    ),
    "remaining_volume:lower": FamilyParams(
        admit_estimate=0.0, admit_area=1024.0, progress=1.0, **_VICTIM
    ),
    "remaining_volume:lower:age=100": FamilyParams(
        admit_estimate=0.0, admit_area=1024.0, progress=1.0, age=0.01, **_VICTIM
    ),
}
"""Good rules for live traffic as members of the family, from which a search for it starts.

They are `fcfs` where arrivals differ, `lcf`; and, on the worker of an engine, `remaining_volume`
without a prediction exactly and else but for rounding: its volumes are in 1/1024 of the memory.
"""


def lanes_of(rules: Sequence[Any]) -> Any:
    """P rules as one with fields of shape [P, ...]."""
    return jax.tree.map(lambda *values: np.array(values, float), *rules)


class Coordinates(abc.ABC):
    """What a search asks of a space."""

    @property
    @abc.abstractmethod
    def box(self) -> tuple[Floats, Floats]:
        """Least and largest z, each of shape [d]."""

    @property
    @abc.abstractmethod
    def origin(self) -> Floats:
        """The point that is A_min, of shape [d]."""

    @abc.abstractmethod
    def params(self, z: Any, module: Any = np) -> Any:
        """The rules of points of shape [..., d], with leading axes [...] in every field.

        The module is `numpy`, or `jax.numpy` to trace and differentiate.
        """

    @abc.abstractmethod
    def random(self, rng: np.random.Generator, count: int) -> Floats:
        """Points to start from, of shape [count, d]."""

    def hand_written(self) -> Floats:
        """Points of good rules for live traffic, of shape [count, d]."""
        return np.empty((0, self.size))

    @property
    def size(self) -> int:
        """Coordinates of a point, d."""
        return len(self.origin)

    def clip(self, z: Floats) -> Floats:
        """Brings points of shape [..., d] into the box."""
        return np.clip(z, *self.box)


@dataclasses.dataclass(frozen=True)
class Space(Coordinates):
    """Points for some of the numbers; the others stay as in A_min."""

    free: tuple[str, ...]  # fields of `FamilyParams`, one for each coordinate

    @property
    def scale(self) -> Floats:
        """C of every coordinate, of shape [d]."""
        return np.array([NUMBERS[name].scale for name in self.free])

    @property
    def box(self) -> tuple[Floats, Floats]:
        """Each number within its range, where every rule finishes."""
        rising = {"evict_progress", "evict_estimate" if "run_growth" in self.free else ""}
        low, high = np.array([NUMBERS[name][:2] for name in self.free], float).T
        low = np.where([name in rising for name in self.free], 0, low)
        return np.arcsinh(low / self.scale), np.arcsinh(high / self.scale)

    @property
    def origin(self) -> Floats:
        """The point that is A_min."""
        return self.point(FamilyParams())

    def point(self, params: FamilyParams) -> Floats:
        """The point of a rule, of shape [d]."""
        values = np.array([float(getattr(params, name)) for name in self.free])
        return np.arcsinh(values / self.scale)

    def params(self, z: Any, module: Any = np) -> FamilyParams:
        """The rules of points, the numbers that are not free as in A_min."""
        values = self.scale.astype(z.dtype) * module.sinh(z)
        filled = {name: values[..., i] for i, name in enumerate(self.free)}
        literal = dataclasses.asdict(FamilyParams())
        rest = {name: module.full(z.shape[:-1], x, z.dtype) for name, x in literal.items()}
        return FamilyParams(**rest | filled)

    def hand_written(self) -> Floats:
        """Those of `HAND_WRITTEN`, as far as their numbers are free."""
        return self.clip(np.array([self.point(params) for params in HAND_WRITTEN.values()]))

    def random(self, rng: np.random.Generator, count: int) -> Floats:
        """Points anywhere in the box, of shape [count, d]; a quarter of the numbers as in A_min."""
        low, high = self.box
        drawn = low + (high - low) * rng.random((count, len(self.free)))
        return np.where(rng.random(drawn.shape) < 0.25, self.origin, drawn)


SCALES = {"linear": 0.5, "hidden": 0.25, "output": 0.25}
"""Field of `NetworkParams` -> c: a weight is c z, with 12 hidden units."""

SPREAD = {"linear": 2.0, "hidden": 0.0, "output": 2.0}
"""Field -> deviation of random starts from the origin, in z."""


@dataclasses.dataclass(frozen=True)
class NetworkSpace(Coordinates):
    """Points for all weights. As all networks, those of the space finish."""

    seed: int  # of the hidden weights at the origin
    units: int = HIDDEN_UNITS  # hidden units of a head

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Field of `NetworkParams` -> its shape."""
        return shapes(self.units)

    @property
    def scales(self) -> dict[str, float]:
        """Field -> c. However many units there are, as large a z moves a result as far."""
        return SCALES | {"output": SCALES["output"] * (HIDDEN_UNITS / self.units) ** 0.5}

    @functools.cached_property
    def origin(self) -> Floats:
        """The point that is A_min, of shape [d]: hidden units that nothing follows from yet."""
        hidden = np.random.default_rng(self.seed).standard_normal(self.shapes["hidden"])
        zeros = {name: np.zeros(shape) for name, shape in self.shapes.items()}
        return self.point(NetworkParams(**zeros | {"hidden": hidden}))

    def point(self, params: NetworkParams) -> Floats:
        """The point of a network, of shape [d]."""
        parts = [np.ravel(getattr(params, name)) / c for name, c in self.scales.items()]
        return np.concatenate(parts).astype(float)

    @functools.cached_property
    def box(self) -> tuple[Floats, Floats]:
        """Each weight within its range, where every rule finishes."""
        most = {name: np.full(shape, WIDEST) for name, shape in self.shapes.items()}
        least = {name: -value for name, value in most.items()}
        least["linear"][EVICT, PROGRESS] = 0.0
        return self.point(NetworkParams(**least)), self.point(NetworkParams(**most))

    def params(self, z: Any, module: Any = np) -> NetworkParams:
        """The networks of points."""
        ends = np.cumsum([np.prod(shape, dtype=int) for shape in self.shapes.values()])
        parts = module.split(z, ends[:-1].tolist(), axis=-1)
        return NetworkParams(
            **{
                name: (self.scales[name] * part).reshape(*z.shape[:-1], *shape)
                for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
            }
        )

    def random(self, rng: np.random.Generator, count: int) -> Floats:
        """Points around the origin, of shape [count, d], with its hidden units."""
        widths = [np.full(shape, SPREAD[name]).ravel() for name, shape in self.shapes.items()]
        noise = rng.standard_normal((count, self.size)) * np.concatenate(widths)
        return self.clip(self.origin + noise)
