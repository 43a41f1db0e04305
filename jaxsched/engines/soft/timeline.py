"""The steps of time that the relaxation takes.

A relaxation that took every round would spend most of them on nothing. Its steps are therefore
laid out beforehand, from an exact simulation, which costs a hundredth: dense where much happens,
or at precisely the rounds in which something does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxsched.arrays import Pytree
from jaxsched.instance import Instance
from jaxsched.result import Result, Status

MARGIN = 1.15
"""How much longer than the exact simulation a relaxed one may take, by default."""


class Timeline(Pytree):
    """Steps of time, and what an exact simulation did in them; leading axes are lanes.

    Attributes:
      start: First round of every step, of shape [..., S].
      length: Rounds from there to the next step, of shape [..., S]; 0 for padding at the end.
      admitted: Whether an exact simulation admitted the request at the start of the step, of
        shape [..., S, n]; `None` if the relaxation decides. Given, its decisions are taken and
        only their derivatives are those of the relaxation (straight-through).
      evicted: As `admitted`, whether it was evicted.
    """

    start: Any
    length: Any
    admitted: Any = None
    evicted: Any = None


def uniform_timeline(rounds: ArrayLike, steps: int, margin: float = MARGIN) -> Timeline:
    """Equal steps from round 0 to `margin` times `rounds`.

    Args:
      rounds: Rounds that an exact simulation took, of shape [...].
      steps: Number of steps S. With S = margin · rounds every round is one.
      margin: At least 1.
    """
    _check(steps, margin)
    return _between(np.asarray(rounds)[..., None] * margin * np.linspace(0, 1, steps + 1))


def event_timeline(result: Result, steps: int, margin: float = MARGIN) -> Timeline:
    """Steps in which an exact simulation admitted and completed equally many.

    Args:
      result: A finished simulation of the same instances, by any policy like the one that is
        relaxed; shape [...].
      steps: Number of steps S; a tenth of them lies beyond the end of the simulation.
      margin: Where the last step ends, relative to that.

    Raises:
      ValueError: If a lane is not finished, or an argument is out of range.
    """
    _check(steps, margin)
    _finished(result)
    before = max(1, steps - max(1, steps // 10))
    ends = _quantiles(np.asarray(result.first_token) - 1, np.asarray(result.completion), before)
    tail = ends[..., -1:] * np.linspace(1, margin, steps - before + 1)[1:]
    return _between(np.concatenate([ends, tail], axis=-1))


def exact_timeline(instance: Instance, result: Result) -> Timeline:
    """The rounds in which an exact simulation did something, and what: for straight-through.

    Args:
      instance: The instances, of lane shape [...].
      result: What `simulate(..., history=True)` found for them.

    Returns:
      A timeline of as many steps as the busiest lane needs, rounded up to a multiple of 64.

    Raises:
      ValueError: If there is no history, or a lane is not finished.
    """
    if result.history is None:
        raise ValueError("history is None; expected the result of simulate(..., history=True)")
    _finished(result)
    lanes, n = instance.lanes, instance.n
    output = np.asarray(instance.output).reshape(-1, n)
    completion = np.asarray(result.completion).reshape(-1, n)
    history = np.asarray(result.history)
    history = history.reshape(-1, *history.shape[-2:])
    rows = [_events(*row) for row in zip(output, completion, history, strict=True)]
    steps = max(64, -(-max(len(rounds) for rounds, _, _ in rows) // 64) * 64)
    start = np.stack([np.pad(r, (0, steps + 1 - len(r)), mode="edge") for r, _, _ in rows])
    masks = np.zeros((2, len(rows), steps, n), bool)
    for lane, (_, admitted, evicted) in enumerate(rows):
        masks[0, lane, admitted[0], admitted[1]] = True
        masks[1, lane, evicted[0], evicted[1]] = True
    admitted, evicted = masks.reshape(2, *lanes, steps, n)
    whole = _between(start.reshape(*lanes, steps + 1))
    return Timeline(start=whole.start, length=whole.length, admitted=admitted, evicted=evicted)


_Places = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Steps and requests."""


def _events(
    output: NDArray[Any], completion: NDArray[Any], history: NDArray[Any]
) -> tuple[NDArray[np.int64], _Places, _Places]:
    """The rounds with an event, and at which of them who is admitted and who is evicted."""
    done = np.flatnonzero(completion >= 0)
    who, begun, ended = history[history[:, 0] >= 0].astype(np.int64).T
    final = completion[done] - output[done]
    rounds = np.unique(np.concatenate([[0], final, completion[done], begun, ended]))
    requests, starts = np.concatenate([done, who]), np.concatenate([final, begun])
    at = np.searchsorted(rounds, starts)
    return rounds, (at, requests), (np.searchsorted(rounds, ended), who)


def _quantiles(first: NDArray[Any], last: NDArray[Any], steps: int) -> NDArray[np.float64]:
    """Round 0, and ends of steps with as many events in each; of padding, `last` is below 0."""
    events = np.concatenate([first, last], axis=-1).astype(float)
    known = (events > 0) & (np.concatenate([last, last], axis=-1) >= 0)
    # The first rounds of those that run from the start are one event.
    events = np.concatenate([np.zeros((*last.shape[:-1], 1)), np.where(known, events, np.inf)], -1)
    events, final = np.sort(events, axis=-1), known.sum(axis=-1, keepdims=True)
    at = np.linspace(0, 1, steps + 1) * final
    before = np.floor(at).astype(int)
    low, high = (
        np.take_along_axis(events, np.minimum(place, final), axis=-1)
        for place in (before, before + 1)
    )
    return low + (at - before) * (high - low)


def _between(ends: NDArray[Any]) -> Timeline:
    ends = ends.astype(np.float32)
    return Timeline(start=ends[..., :-1], length=np.diff(ends, axis=-1))


def _finished(result: Result) -> None:
    status = np.asarray(result.status)
    if (status != Status.FINISHED).any():
        lane = tuple(int(i) for i in np.argwhere(status != Status.FINISHED)[0])
        name = Status(int(status[lane])).name
        raise ValueError(f"lane {lane}: status is {name}; expected FINISHED")


def _check(steps: int, margin: float) -> None:
    if steps < 2 or margin < 1:
        raise ValueError(f"steps is {steps}, margin {margin}; expected at least 2 and at least 1")
