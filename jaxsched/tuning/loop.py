"""Runs a method: validation on the hard simulator, the best kept, checkpoints by orbax.

What a checkpoint holds is all there is: the method's state, the best point and the curve so far.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orbax.checkpoint as ocp
from numpy.typing import NDArray

from jaxsched.tuning.config import TuneConfig
from jaxsched.tuning.method import Method, State
from jaxsched.tuning.problem import Problem
from jaxsched.tuning.space import Coordinates


class Progress(NamedTuple):
    """A method on its way, a pytree of numpy arrays.

    Attributes:
      state: The method's own.
      steps: Steps done, of shape [].
      work: Requests simulated, of shape []; validation does not count.
      seconds: Time it took, of shape []; validation counts.
      best: The point with the best validation so far, of shape [d].
      score: Its mean score there, of shape [].
      curve: A row for each validation, of shape [V, 3]: work, mean score of the incumbent, and of
        the best so far; NaN where it has not come to that.
    """

    state: State
    steps: NDArray[np.int64]
    work: NDArray[np.int64]
    seconds: NDArray[np.float64]
    best: NDArray[np.float64]
    score: NDArray[np.float64]
    curve: NDArray[np.float64]


OnStep = Callable[[Method, Progress], Any]


def run(
    config: TuneConfig,
    problem: Problem,
    space: Coordinates,
    method: Method,
    folder: Path,
    on_step: OnStep = lambda *_: None,
) -> Progress:
    """Runs a method to its end, from its latest checkpoint if there is one.

    Args:
      config: How often to validate.
      problem: What to validate on.
      space: Where points lie.
      method: What to run.
      folder: Of its checkpoints.
      on_step: Called after every step.
    """
    every = config.validate_every
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    with ocp.CheckpointManager(folder.absolute(), options=options) as kept:
        progress = _latest(kept, _start(method, space, every))
        on_step(method, progress)
        while progress.steps < method.steps:
            began = time.perf_counter()
            progress, incumbent = _step(method, progress)
            due = progress.steps % every == 0 or progress.steps == method.steps
            if due:
                progress = _validated(progress, incumbent, problem, space, every)
            spent = progress.seconds + (time.perf_counter() - began)
            progress = progress._replace(seconds=np.asarray(spent))
            if due:
                kept.save(int(progress.steps), args=ocp.args.StandardSave(_tree(progress)))
            on_step(method, progress)
    return progress


def _start(method: Method, space: Coordinates, every: int) -> Progress:
    zero, room = np.array(0), -(-method.steps // every)
    return Progress(
        state=method.init(),
        steps=zero,
        work=zero,
        seconds=np.array(0.0),
        best=space.origin,
        score=np.array(np.inf),
        curve=np.full((room, 3), np.nan),
    )


def _latest(kept: ocp.CheckpointManager, start: Progress) -> Progress:
    """The latest checkpoint, or the start."""
    if kept.latest_step() is None:
        return start
    tree = kept.restore(kept.latest_step(), args=ocp.args.StandardRestore(_tree(start)))
    return Progress(**tree)


def _tree(progress: Progress) -> dict[str, Any]:
    return progress._asdict()


def _step(method: Method, progress: Progress) -> tuple[Progress, NDArray[np.float64]]:
    state, incumbent, work = method.step(progress.state, int(progress.steps))
    progress = progress._replace(
        state=state, steps=progress.steps + 1, work=progress.work + np.int64(work)
    )
    return progress, incumbent


def _validated(
    progress: Progress,
    incumbent: NDArray[np.float64],
    problem: Problem,
    space: Coordinates,
    every: int,
) -> Progress:
    """The progress with one more row in the curve, and the better of best and incumbent."""
    score = problem.scores(problem.validation, space.params(incumbent[None])).mean()
    if score < progress.score:
        progress = progress._replace(best=incumbent, score=np.asarray(score))
    curve = progress.curve.copy()
    curve[-(-int(progress.steps) // every) - 1] = progress.work, score, progress.score
    return progress._replace(curve=curve)
