"""One call from lengths, intervals and arrivals to an `Instance`."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import numpy as np

from jaxsched.instance import Instance, check_instance
from jaxsched.workloads import draws
from jaxsched.workloads.arrivals import ArrivalSource
from jaxsched.workloads.checks import integers, whole
from jaxsched.workloads.intervals import IntervalSource
from jaxsched.workloads.lengths import DrawnLengths, Lengths

PointSource = Callable[[jax.Array, np.ndarray], np.ndarray]
"""(key, output of shape [..., n]) -> point predictions, integers of the same shape."""

LENGTHS, INTERVALS, ARRIVALS, POINT = range(4)
"""What a lane's key is folded with for each purpose."""


def make(
    key: jax.Array,
    *,
    lengths: Lengths,
    intervals: IntervalSource | None = None,
    arrivals: ArrivalSource | None = None,
    n: int,
    memory: int | np.ndarray,
    lanes: int | tuple[int, ...] | None = None,
    first_lane: int = 0,
    point: PointSource | None = None,
) -> Instance:
    """Draws a batch of instances.

    A lane depends on `key` and on its index only: `lanes=8` gives what `lanes=4` and then
    `lanes=4, first_lane=4` give. Length, interval, arrival and point come from keys of their own,
    so changing one leaves the others as they were.

    A fork of a process that has started JAX hangs here, as JAX's threads are not forked: use
    `multiprocessing.get_context("spawn")`.

    Args:
      key: One threefry key, `jax.random.key(seed)`.
      lengths: Where prompts and outputs come from.
      intervals: Where predictions come from; `None` for those that `lengths` carries along.
      arrivals: Where arrivals come from; `None` for a backlog.
      n: Requests in a lane.
      memory: KV cache in tokens, a scalar or of the lanes' shape.
      lanes: Lane axes of the result: their number, their shape, or `None` for no lane axis.
      first_lane: Index of the first lane.
      point: Where point predictions come from; `None` for the interval's midpoint,
        floor((lower + upper) / 2).

    Returns:
      An `Instance` of numpy int32 arrays of shape [lanes..., n], checked; arrivals in seconds are
      float64.

    Raises:
      TypeError: If n, lanes, first_lane or memory are no integers.
      ValueError: If a request needs more than the memory (prompt + output > memory), naming lane
        and request, or if there are no predictions.
    """
    axes = lanes if isinstance(lanes, tuple) else (1 if lanes is None else lanes,)
    shape, n = tuple(whole("lanes", axis) for axis in axes), whole("n", n)
    keys = draws.lane_keys(key, math.prod(shape), first_lane).reshape(shape)
    drawn = lengths.draw(draws.purpose(keys, LENGTHS), (*shape, n))
    lower, upper = predict(draws.purpose(keys, INTERVALS), intervals, drawn)
    columns = {
        "prompt": drawn.prompt,
        "output": drawn.output,
        "lower": lower,
        "upper": upper,
        "point": points(draws.purpose(keys, POINT), point, drawn.output, lower, upper),
    }
    if arrivals is not None:
        columns["arrival"] = arrivals(draws.purpose(keys, ARRIVALS), (*shape, n))
    if lanes is None:
        shape, columns = (), {name: column[0] for name, column in columns.items()}
    memory = integers("memory", memory)
    if memory.shape not in ((), shape):
        got = f"memory: got shape {list(memory.shape)}"
        raise ValueError(f"{got}; expected a scalar or {list(shape)}")
    instance = Instance(memory=memory, **columns)
    check_instance(instance)
    return instance


def points(
    key: jax.Array, source: PointSource | None, output: np.ndarray, *interval: np.ndarray
) -> np.ndarray:
    """Point predictions from a source, or the midpoints floor((lower + upper) / 2)."""
    lower, upper = interval
    return lower + (upper - lower) // 2 if source is None else np.asarray(source(key, output))


def predict(
    key: jax.Array, intervals: IntervalSource | None, drawn: DrawnLengths
) -> tuple[np.ndarray, np.ndarray]:
    """Intervals from a source, or those drawn along with the lengths."""
    if intervals is not None:
        return intervals(key, drawn.output)
    if drawn.lower is None or drawn.upper is None:
        raise ValueError("intervals is None, but these lengths carry none; expected a source")
    return drawn.lower, drawn.upper
