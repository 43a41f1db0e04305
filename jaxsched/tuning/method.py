"""What the loop asks of a method: a state that is all there is, and a step that depends on it.

A state is a pytree of numpy arrays, and a step draws from a generator that is seeded by its number
alone. So a run that is taken up from a checkpoint goes on to the same bits.
"""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

State = Any
"""A pytree of numpy arrays."""


class Step(NamedTuple):
    """What a step gives.

    Attributes:
      state: The next state.
      incumbent: The point that the method would name now, of shape [d].
      work: Requests simulated in the step.
    """

    state: State
    incumbent: NDArray[np.float64]
    work: int


class Method(Protocol):
    """A way to search.

    Attributes:
      name: As in the configuration.
      label: What it is called in tables.
      steps: How many steps it takes.
    """

    name: str
    label: str
    steps: int

    def init(self) -> State:
        """The state before the first step."""

    def step(self, state: State, step: int) -> Step:
        """The step of that number, counted from 0."""


def generator(seed: int, name: str, step: int) -> np.random.Generator:
    """The random numbers of a step of a method."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), step])


def steps_for(work: float, each: int) -> int:
    """Steps of so much work each that come to `work`, at least one."""
    return max(1, round(work / each))
