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

from jaxsched.machine import faults
from jaxsched.studies import store
from jaxsched.tuning.config import TuneConfig
from jaxsched.tuning.methods import Method, MethodState
from jaxsched.tuning.problem import Problem
from jaxsched.tuning.space import Coordinates, Floats


class Progress(NamedTuple):
    """A method on its way, a pytree of numpy arrays."""

    state: MethodState  # the method's own
    steps: NDArray[np.int64]  # steps done, of shape []
    work: NDArray[np.int64]  # requests simulated, of shape []; validation does not count
    seconds: Floats  # time it took, of shape []; validation counts
    best: Floats  # the point with the best validation so far, of shape [d]
    score: Floats  # its mean score there, of shape []
    # A row for each validation, of shape [V, 3]: work, mean score of the incumbent, and of the best
    # so far; NaN where it has not come to that
    curve: Floats


_AGAIN = "the same command goes on from the one before, or starts that method again"

OnStep = Callable[[Method, Progress], Any]


def run_method(
    config: TuneConfig,
    problem: Problem,
    space: Coordinates,
    method: Method,
    folder: Path,
    on_step: OnStep = lambda *_: None,
) -> Progress:
    """Runs a method to its end, from its latest checkpoint if there is one.

    Checkpoints are in the folder; `on_step` is called after every step.
    """
    every = config.validate_every
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    with ocp.CheckpointManager(folder.absolute(), options=options) as kept:
        progress = _latest(kept, method, space, -(-method.steps // every))
        on_step(method, progress)
        while progress.steps < method.steps:
            began = time.perf_counter()
            state, incumbent, work = method.step(progress.state, int(progress.steps))
            steps, total = progress.steps + 1, progress.work + np.int64(work)
            progress = progress._replace(state=state, steps=steps, work=total)
            due = progress.steps % every == 0 or progress.steps == method.steps
            if due:
                progress = _validated(progress, incumbent, problem, space, every)
            spent = progress.seconds + (time.perf_counter() - began)
            progress = progress._replace(seconds=np.asarray(spent))
            if due:
                with faults.writing(folder / str(progress.steps)):
                    kept.save(int(progress.steps), args=ocp.args.StandardSave(progress._asdict()))
                    store.write_sums(folder / str(progress.steps))
            on_step(method, progress)
    return progress


def check(folder: Path) -> None:
    """Refuses a damaged latest checkpoint in the folder of a method; ValueError names the file."""
    steps = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]
    if steps:
        latest = folder / str(max(steps))
        store.check_sums(latest, "the checkpoint", f"delete {latest}, and {_AGAIN}")


def _latest(kept: ocp.CheckpointManager, method: Method, space: Coordinates, room: int) -> Progress:
    """The latest checkpoint, or the start of a curve with room for so many validations."""
    zero, infinite = np.array(0), np.array(np.inf)
    curve = np.full((room, 3), np.nan)
    start = Progress(method.init(), zero, zero, np.array(0.0), space.origin, infinite, curve)
    latest = kept.latest_step()
    if latest is None:
        return start
    with faults.reading(
        kept.directory / str(latest), "a checkpoint of this tuning", f"delete it, and {_AGAIN}"
    ):
        tree = kept.restore(latest, args=ocp.args.StandardRestore(start._asdict()))
    return Progress(**tree)


def _validated(
    progress: Progress, incumbent: Floats, problem: Problem, space: Coordinates, every: int
) -> Progress:
    """The progress with one more row in the curve, and the better of best and incumbent."""
    score = problem.scores(problem.validation, space.params(incumbent[None])).mean()
    if score < progress.score:
        progress = progress._replace(best=incumbent, score=np.asarray(score))
    curve = progress.curve.copy()
    curve[-(-int(progress.steps) // every) - 1] = progress.work, score, progress.score
    return progress._replace(curve=curve)
