"""The coordinates that are searched: x = c sinh(z), within the range of each number.

Linear where |x| is below the scale c, logarithmic beyond, so that a weight can be 0, change its
sign, and reach 64 in a few steps. One point of the space is a vector z of shape [d].

The family has rules that evict one another's requests for ever; the space has none. Its eviction
keys never fall while a request runs: `evict_progress` is at least 0, and so is `evict_estimate`
where `run_growth` is searched. Of the active requests the one with the largest (key, index) is then
evicted only after one with a larger has entered. So the largest rises from overflow to overflow
until its request completes, and it is bounded: some request completes, and in the end all do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np
from numpy.typing import NDArray

from jaxsched.policies.family import RANGES, FamilyParams

SCALES = {
    "start": 0.25,
    "admit_prompt": 0.25,
    "admit_area": 4.0,
    "reserve_factor": 0.25,
    "reserve_floor": 16.0,
    "evict_estimate": 1.0,
    "evict_progress": 1.0,
    "evict_prompt": 0.25,
    "run_growth": 1.0,
    "evict_growth": 1.0,
}
"""Field of `FamilyParams` -> c."""


def lanes_of(rules: Sequence[Any]) -> Any:
    """P rules as one with fields of shape [P, ...]."""
    return jax.tree.map(lambda *values: np.array(values, float), *rules)


class Coordinates(Protocol):
    """What a search asks of a space; one point is a vector z of shape [d].

    Attributes:
      size: d.
      origin: The point that is A_min, of shape [d].
    """

    size: int
    origin: NDArray[np.float64]

    def clip(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Brings points of shape [..., d] into the box."""

    def params(self, z: Any, module: Any = np) -> Any:
        """The rules of points of shape [..., d], with leading axes [...] in every field."""

    def random(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Points to start from, of shape [count, d]."""


@dataclasses.dataclass(frozen=True)
class Space:
    """Points for some of the ten numbers; the others stay as in A_min.

    Attributes:
      free: Fields of `FamilyParams`, one for each coordinate.
    """

    free: tuple[str, ...]

    @property
    def size(self) -> int:
        """Coordinates of a point."""
        return len(self.free)

    @property
    def scale(self) -> NDArray[np.float64]:
        """C of every coordinate, of shape [d]."""
        return np.array([SCALES[name] for name in self.free])

    @property
    def box(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Least and largest z, each of shape [d]."""
        rising = {"evict_progress", "evict_estimate" if "run_growth" in self.free else ""}
        low, high = np.array([RANGES[name] for name in self.free], float).T
        low = np.where([name in rising for name in self.free], 0, low)
        return np.arcsinh(low / self.scale), np.arcsinh(high / self.scale)

    @property
    def origin(self) -> NDArray[np.float64]:
        """The point that is A_min, of shape [d]."""
        return self.point(FamilyParams())

    def point(self, params: FamilyParams) -> NDArray[np.float64]:
        """The point of a rule, of shape [d]."""
        values = np.array([float(getattr(params, name)) for name in self.free])
        return np.arcsinh(values / self.scale)

    def clip(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Brings points of shape [..., d] into the box."""
        return np.clip(z, *self.box)

    def params(self, z: Any, module: Any = np) -> FamilyParams:
        """The rules of points of shape [..., d]: fields of shape [...].

        Args:
          z: Points.
          module: `numpy`, or `jax.numpy` to trace and differentiate.
        """
        scale = self.scale.astype(z.dtype)
        values = scale * module.sinh(z)
        filled = {name: values[..., i] for i, name in enumerate(self.free)}
        rest = {
            field.name: module.full(z.shape[:-1], field.default, z.dtype)
            for field in dataclasses.fields(FamilyParams)
            if field.name not in filled
        }
        return FamilyParams(**filled, **rest)

    def random(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Points anywhere in the box, of shape [count, d]; a quarter of the numbers as in A_min."""
        low, high = self.box
        drawn = low + (high - low) * rng.random((count, len(self.free)))
        return np.where(rng.random(drawn.shape) < 0.25, self.origin, drawn)
