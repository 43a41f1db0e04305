"""Requests, and points of the tuning's space, at which gradients are compared."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from numpy.typing import NDArray

import jaxsched as js
from jaxsched import workloads
from jaxsched.policies.files import RULES, read_rule
from jaxsched.studies.config import LengthsConfig
from jaxsched.tuning.config import TuneConfig
from jaxsched.tuning.space import Space
from jaxsched.workloads.texts import read_prediction

SPACE = Space(TuneConfig.free)
"""The coordinates that `jaxsched tune` searches."""

MARGIN = 0.5
"""Points are moved so far into the box, beyond which a number has no influence."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """Random backlogs.

    Attributes:
      name: In tables and figures.
      source: Embedded lengths, as of `LengthsConfig`.
      longest: Output, in tokens; `None` for no limit but the memory.
      prediction: Its specification.
      tuned: A shipped rule for such predictions.
    """

    name: str
    source: str
    longest: int | None
    prediction: str
    tuned: str

    def draw(self, lanes: int, seed: int, n: int = 128, memory: int = 4096) -> js.Instance:
        """Instances; memory is of the lanes' shape, too."""
        return workloads.make(
            jax.random.key(seed),
            lengths=LengthsConfig(self.source, self.longest, memory).law,
            intervals=read_prediction(self.prediction).source(memory),
            n=n,
            memory=np.full(lanes, memory),
            lanes=lanes,
        )

    def points(self) -> dict[str, NDArray[np.float64]]:
        """A_min, a rule at random and a tuned one, each of shape [d] and inside the box."""
        away = np.random.default_rng(3).uniform(-1.5, 1.5, len(SPACE.free))
        points = {
            "A_min": SPACE.origin,
            "random": SPACE.origin + away,
            "tuned": SPACE.point(read_rule(RULES / f"{self.tuned}.toml").params),
        }
        low, high = SPACE.box
        return {name: np.clip(z, low + MARGIN, high - MARGIN) for name, z in points.items()}


WORKLOADS = (
    Workload("ShareGPT, classes of 100", "sharegpt", None, "classes:100:18", "sharegpt_classes"),
    Workload("LMSYS, one interval", "lmsys", 1000, "one:1:1000", "lmsys_one"),
)
