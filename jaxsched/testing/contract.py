"""The contract of a policy as one call, for anybody who adds a policy."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from rich.progress import track

from jaxsched.engines.reference import Request
from jaxsched.instance import MAX_ROUND, Instance
from jaxsched.policies import Policy
from jaxsched.result import Result
from jaxsched.simulate import simulate
from jaxsched.testing.choices import check_choices
from jaxsched.testing.comparison import check_result, reproduction
from jaxsched.testing.instances import KINDS, as_arrays, random_requests

WIDTH = 40
"""Request positions of every instance: no kind draws more, and one width means one program."""


class Trial(NamedTuple):
    """One way to run the random instances."""

    name: str
    arrivals: bool
    max_rounds: int


TRIALS = (
    Trial("backlog", arrivals=False, max_rounds=2**16),  # stops a policy that never ends
    Trial("arrivals", arrivals=True, max_rounds=MAX_ROUND),
    Trial("backlog cut short", arrivals=False, max_rounds=40),
    Trial("arrivals cut short", arrivals=True, max_rounds=40),
)


def check_policy(
    policy: Policy,
    oracle: Policy | None = None,
    *,
    engine: str = "auto",
    seed: int = 0,
    instances: int = 64,
) -> None:
    """Tests that a policy keeps the contract of `Policy`, and that it does what it should.

    Its functions are called on random and extreme requests, on Python's integers and as the engines
    compute them. Then random instances of every kind in `KINDS` are simulated, as a backlog and
    with arrivals, to the end and under a round limit. `check_result` compares them with the
    reference, and lanes must not change when they run in another order or alone. Takes some
    seconds, and shows how far it is.

    Args:
      policy: The policy.
      oracle: The same policy written once more, for the reference: its functions get Python's
        integers and may do anything. By default the policy itself; that tells whether the engine
        simulates it, but not whether it is what you meant.
      engine: As for `simulate`.
      seed: Of everything random.
      instances: Random instances of each of the four ways to run them.

    Raises:
      AssertionError: If a check fails; the text names the function and the value, or has a call of
        `simulate` that repeats it.
    """
    check_choices(policy, seed)
    trials = [trial for trial in TRIALS if policy.rank is None or not trial.arrivals]
    for trial in track(trials, f"checking {policy.name}", transient=True):
        instance = draw(trial, random.Random(f"{seed} {trial.name}"), instances)

        def run(instance: Instance, limit: int = trial.max_rounds) -> Result:
            result = simulate(instance, policy, max_rounds=limit, engine=engine)
            return jax.tree.map(np.asarray, result)

        result = run(instance)
        if trial.name == "backlog":
            _check_finished(instance, result, trial.max_rounds)
        check_result(instance, result, oracle or policy, max_rounds=trial.max_rounds)
        _check_neighbors(instance, result, run, np.random.default_rng(seed), trial.max_rounds)


def draw(trial: Trial, rng: random.Random, instances: int) -> Instance:
    """Random instances of every kind in turn, of shape [instances, WIDTH]."""
    kinds = list(KINDS)
    drawn = [random_requests(rng, kinds[i % len(kinds)]) for i in range(instances)]
    return batch(drawn, trial.arrivals)


def batch(drawn: list[tuple[list[Request], int]], arrivals: bool) -> Instance:
    """One instance of shape [len(drawn), WIDTH]; without arrivals it is a backlog."""
    arrays = as_arrays(drawn)
    spare = WIDTH - arrays["prompt"].shape[1]
    wide = {
        name: np.pad(array, ((0, 0), (0, spare))) if array.ndim == 2 else array
        for name, array in arrays.items()
        if arrivals or name != "arrival"
    }
    return Instance(**wide)


def _check_finished(instance: Instance, result: Result, max_rounds: int) -> None:
    for lane in np.flatnonzero(result.status != 0):
        raise AssertionError(
            f"lane {lane}: {max_rounds} rounds were not enough; expected all requests to complete, "
            f"does the policy evict for ever?\n{reproduction(instance, int(lane), max_rounds)}"
        )


def _check_neighbors(
    instance: Instance,
    result: Result,
    run: Callable[[Instance], Result],
    rng: np.random.Generator,
    max_rounds: int,
) -> None:
    """Runs the lanes in another order, and two of them with nothing beside them."""
    lanes = len(result.status)
    order = rng.permutation(lanes)
    moved = run(jax.tree.map(lambda leaf: leaf[order], instance))
    pairs = [(order, moved, np.arange(lanes), "in another order")]
    for lane in (int(result.rounds.argmax()), int(rng.integers(lanes))):
        alone = np.where(np.arange(lanes) == lane, instance.num_requests, 0).astype(np.int32)
        found = run(instance.replace(num_requests=alone))
        pairs.append((np.array([lane]), found, np.array([lane]), "alone"))
    for which, found, places, how in pairs:
        for name in (name for name, value in vars(result).items() if value is not None):
            differs = getattr(found, name)[places] != getattr(result, name)[which]
            for row in np.flatnonzero(differs.reshape(len(which), -1).any(axis=1)):
                raise AssertionError(
                    f"lane {which[row]}: {name} is another when the lanes run {how}\n"
                    f"{reproduction(instance, which[row], max_rounds)}"
                )
