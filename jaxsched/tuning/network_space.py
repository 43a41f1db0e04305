"""The coordinates of the network around A_min: its weights, each over a scale of its own."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxsched.policies.network import EVICT, PROGRESS, SHAPES, WIDEST, NetworkParams

SCALES = {"linear": 0.5, "hidden": 0.25, "output": 0.25}
"""Field of `NetworkParams` -> c: a weight is c z."""

SPREAD = {"linear": 2.0, "hidden": 0.0, "output": 2.0}
"""Field -> deviation of random starts from the origin, in z."""


@dataclasses.dataclass(frozen=True)
class NetworkSpace:
    """Points for all weights. As all networks, those of the space finish.

    Attributes:
      seed: Of the hidden weights at the origin.
    """

    seed: int

    @functools.cached_property
    def size(self) -> int:
        """Coordinates of a point."""
        return sum(np.prod(shape, dtype=int) for shape in SHAPES.values())

    @functools.cached_property
    def origin(self) -> NDArray[np.float64]:
        """The point that is A_min, of shape [d]: hidden units that nothing follows from yet."""
        shape = SHAPES["hidden"]
        hidden = np.random.default_rng(self.seed).standard_normal(shape)
        zeros = {name: np.zeros(shape) for name, shape in SHAPES.items()}
        return self.point(NetworkParams(**zeros | {"hidden": hidden}))

    def point(self, params: NetworkParams) -> NDArray[np.float64]:
        """The point of a network, of shape [d]."""
        parts = [np.ravel(getattr(params, name)) / SCALES[name] for name in SHAPES]
        return np.concatenate(parts).astype(float)

    @functools.cached_property
    def box(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Least and largest z, each of shape [d]."""
        most = {name: np.full(shape, WIDEST) for name, shape in SHAPES.items()}
        least = {name: -value for name, value in most.items()}
        least["linear"][EVICT, PROGRESS] = 0.0
        return self.point(NetworkParams(**least)), self.point(NetworkParams(**most))

    def clip(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Brings points of shape [..., d] into the box."""
        return np.clip(z, *self.box)

    def params(self, z: Any, module: Any = np) -> NetworkParams:
        """The networks of points of shape [..., d]: fields of shape [..., *its own].

        Args:
          z: Points.
          module: `numpy`, or `jax.numpy` to trace and differentiate.
        """
        ends = np.cumsum([np.prod(shape, dtype=int) for shape in SHAPES.values()])
        parts = module.split(z, ends[:-1].tolist(), axis=-1)
        return NetworkParams(
            **{
                name: (SCALES[name] * part).reshape(*z.shape[:-1], *shape)
                for (name, shape), part in zip(SHAPES.items(), parts, strict=True)
            }
        )

    def random(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Points around the origin, of shape [count, d], with its hidden units."""
        widths = [np.full(shape, SPREAD[name]).ravel() for name, shape in SHAPES.items()]
        noise = rng.standard_normal((count, self.size)) * np.concatenate(widths)
        return self.clip(self.origin + noise)
