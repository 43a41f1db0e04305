"""Random values on the axes of a study.

A random value is a text with places to fill in, such as "relative:{uniform:0:0.99}":

    {uniform:LOW:HIGH}        equally likely in LOW … HIGH
    {log_uniform:LOW:HIGH}    its logarithm is

Several places in one text are drawn together, so a table with `count = 100` adds 100 random vectors
of numbers rather than a grid of them.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable

import jax
import numpy as np

from jaxsched.studies.axes import AXES
from jaxsched.studies.toml import at_least, one_of, with_key
from jaxsched.workloads import draws

PLACE = re.compile(r"\{([^{}]*)\}")
LAWS = ("uniform", "log_uniform")


@dataclasses.dataclass(frozen=True)
class RandomConfig:
    """Random values on an axis.

    Attributes:
      axis: Name of the axis, such as "predictions".
      value: Pattern of the values, such as "relative:{uniform:0:0.99}".
      count: How many.
      seed: Of these values.
    """

    axis: str
    value: str
    count: int = at_least(1)
    seed: int = at_least(0, default=0)

    def __post_init__(self) -> None:
        one_of("axis", self.axis, AXES)
        if not PLACE.search(self.value):
            raise ValueError(
                f"value: got {self.value!r}; expected a place such as {{uniform:0:1}} in it"
            )
        with_key("value", draw, self)


def draw(random: RandomConfig) -> list[str]:
    """The random values of a table, as texts; numbers have six significant digits.

    Raises:
      ValueError: If a place in the pattern is none of the known laws.
    """
    places = [_law(text) for text in PLACE.findall(random.value)]
    shape = (len(places), random.count)
    columns = draws.uniforms(jax.random.key(random.seed), shape)
    # From levels to numbers column by column, each with the law of its place.
    columns = [law(column) for law, column in zip(places, columns, strict=True)]
    pattern = PLACE.sub("{}", random.value)
    return [pattern.format(*(f"{x:.6g}" for x in row)) for row in zip(*columns, strict=True)]


def _law(text: str) -> Callable[[np.ndarray], np.ndarray]:
    """The function from uniform numbers in (0, 1) to those of a place, such as "uniform:0:1"."""
    name, *ends = text.split(":")
    usage = "expected {uniform:LOW:HIGH} or {log_uniform:LOW:HIGH}"
    try:
        low, high = map(float, ends)
    except ValueError:
        raise ValueError(f"got {{{text}}}; {usage}") from None
    if name not in LAWS or not -math.inf < low < high < math.inf:
        raise ValueError(f"got {{{text}}}; {usage} with LOW less than HIGH")
    if name == "uniform":
        return lambda u: low + (high - low) * u
    if low <= 0:
        raise ValueError(f"got {{{text}}}; expected LOW of more than 0 for log_uniform")
    return lambda u: np.exp(math.log(low) + (math.log(high) - math.log(low)) * u)
