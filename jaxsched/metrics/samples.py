"""What each request of a simulation saw, in seconds."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from jaxsched.clocks import TICKS_PER_SECOND, to_ticks
from jaxsched.instance import Instance
from jaxsched.metrics.distribution import Floats, Integers
from jaxsched.result import Result


@dataclasses.dataclass(frozen=True)
class Requests:
    """What each request saw, in seconds; every array has shape [..., n], 0 where not finished.

    Attributes:
      ttft: Time to first token.
      tpot: Time per output token after the first; 0 for an output of one.
      e2el: End-to-end latency.
      queueing: Wait for the first admission.
      finished: Requests that completed; padding did not.
      several: Those of them with more than one output token.
    """

    ttft: Floats
    tpot: Floats
    e2el: Floats
    queueing: Floats
    finished: NDArray[np.bool_]
    several: NDArray[np.bool_]


def requests(instance: Instance, result: Result) -> Requests:
    """The times of every request, from exact picoseconds.

    Raises:
      ValueError: If the result has no times, or the arrivals are not those that were simulated.
    """
    if result.times is None:
        raise ValueError("times: the result has none; expected simulate(…, clock=…)")
    output = np.asarray(instance.output, np.int64)
    finished = np.asarray(result.completion) >= 0
    several = finished & (output > 1)
    admitted, first, last = np.moveaxis(result.ticks, -1, 0)
    arrival = arrival_ticks(instance)
    if np.any(finished & (admitted < arrival)):
        raise ValueError(
            "instance: a request arrives after its admission; expected the arrivals that were "
            "simulated (through jit they may have been float32)"
        )

    def seconds(ticks: Integers, mask: NDArray[np.bool_]) -> Floats:
        return np.where(mask, ticks, 0) / TICKS_PER_SECOND

    return Requests(
        ttft=seconds(first - arrival, finished),
        tpot=seconds(last - first, several) / np.maximum(output - 1, 1),
        e2el=seconds(last - arrival, finished),
        queueing=seconds(admitted - arrival, finished),
        finished=finished,
        several=several,
    )


def arrival_ticks(instance: Instance) -> Integers:
    """Arrivals in picoseconds, of shape [..., n]; 0 for a backlog."""
    if instance.arrival is None:
        return np.zeros(np.shape(instance.prompt), np.int64)
    return to_ticks(instance.arrival)
