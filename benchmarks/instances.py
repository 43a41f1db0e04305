"""The instances that all contenders are given."""

from __future__ import annotations

import jax
import numpy as np

from jaxsched import Instance, workloads

LONGEST = 1000
"""Outputs are at most this long, so that one interval [1, 1000] and ten classes hold the truth."""

SETTINGS = {
    "one interval": workloads.intervals.one_for_all(1, LONGEST),
    "ten classes": workloads.intervals.classes(width=100, count=10),
    "(1 ± 0.5)o": workloads.intervals.relative(0.5),
}
"""The predictions of arXiv 2508.14544."""

SEED = 20261122


def draw(setting: str, lanes: int, n: int, memory: int, outputs: int = 1) -> Instance:
    """A backlog with embedded LMSYS-Chat-1M lengths.

    Args:
      setting: A key of `SETTINGS`.
      lanes: Instances; fewer lanes are the first of more lanes.
      n: Requests in each.
      memory: KV cache in tokens.
      outputs: Outputs and intervals are so many times as long; prompts stay.
    """
    instance = workloads.make(
        jax.random.key(SEED),
        lengths=workloads.embedded.lmsys().truncated(max_output=LONGEST),
        intervals=SETTINGS[setting],
        n=n,
        lanes=lanes,
        memory=memory,
    )
    return Instance(
        prompt=instance.prompt,
        output=instance.output * np.int32(outputs),
        lower=(instance.lower - np.int32(1)) * np.int32(outputs) + np.int32(1),
        upper=instance.upper * np.int32(outputs),
        memory=instance.memory,
    )


def first(instance: Instance, lanes: int) -> Instance:
    """The first lanes of a batch."""
    return pick(instance, np.arange(lanes))


def pick(instance: Instance, rows: np.ndarray) -> Instance:
    """These lanes of a batch; the memory is a scalar."""
    return Instance(
        prompt=instance.prompt[rows],
        output=instance.output[rows],
        lower=instance.lower[rows],
        upper=instance.upper[rows],
        memory=instance.memory,
    )


def join(a: Instance, b: Instance) -> Instance:
    """The lanes of both, dealt out alternately; as many of either, of the same memory."""

    def both(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.stack([x, y], axis=1).reshape(-1, x.shape[-1])

    return Instance(
        prompt=both(a.prompt, b.prompt),
        output=both(a.output, b.output),
        lower=both(a.lower, b.lower),
        upper=both(a.upper, b.upper),
        memory=a.memory,
    )
