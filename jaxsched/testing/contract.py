"""The contract of a policy as one call, for anybody who adds a policy."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxsched.engines import reference
from jaxsched.engines.reference import EXTENDED, RULES, Known, Request, Rule
from jaxsched.instance import MAX_ROUND, Instance
from jaxsched.policies import SHIPPED, Policy, Running, View, fcfs
from jaxsched.policies.family import a_min_family
from jaxsched.policies.network import a_min_network
from jaxsched.policies.published import gsa_spec
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
    oracle: Rule | None = None,
    *,
    engine: str = "jax",
    seed: int = 0,
    instances: int = 64,
) -> None:
    """Tests that a policy keeps the contract of `Policy`, and that it does what it should.

    Its choices are called on random values: each must give int32 of its arguments' shape, element
    by element, and keep what `hindsight` and `needs_point` promise. Then random instances of every
    kind in `KINDS` are simulated, as a backlog and with arrivals, to the end and under a round
    limit. `check_result` compares them with `jaxsched.engines.reference`, and lanes must not change when
    they run in another order or alone.

    Args:
      policy: The policy.
      oracle: The same policy in plain Python. By default the one of `reference` for a shipped
        policy, and the policy's own functions otherwise; that tells whether the engine simulates
        them, but not whether they are what you meant.
      engine: As for `simulate`.
      seed: Of everything random.
      instances: Random instances of each of the four ways to run them.

    Raises:
      AssertionError: If a check fails; the text has a call of `simulate` that repeats it.
    """
    check_choices(policy, seed)
    rule = oracle or shipped_rule(policy) or as_rule(policy)
    for trial in TRIALS:
        if trial.arrivals and policy.rank is not None:
            continue
        instance = draw(trial, random.Random(f"{seed} {trial.name}"), instances)

        def run(instance: Instance, limit: int = trial.max_rounds) -> Result:
            result = simulate(instance, policy, max_rounds=limit, engine=engine)
            return jax.tree.map(np.asarray, result)

        result = run(instance)
        if trial.name == "backlog":
            _check_finished(instance, result, trial.max_rounds)
        check_result(instance, result, rule, max_rounds=trial.max_rounds)
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


def as_rule(policy: Policy) -> Rule:
    """The policy's own functions as a rule of the reference, called one request at a time."""

    params = jax.tree.map(jax.numpy.asarray, policy.params)

    def seen(request: Known) -> tuple[int, ...]:
        point = 0 if request.point is None else request.point
        return tuple(point if name == "point" else getattr(request, name) for name in _FIELDS)

    def with_view(choice: Callable[..., Any]) -> Callable[..., int]:
        return _on_numbers(lambda estimate, *fields: choice(estimate, View(*fields, params)))

    def with_running(choice: Callable[..., Any]) -> Callable[..., int]:
        return _on_numbers(lambda estimate, *fields: choice(estimate, Running(*fields, params)))

    estimate = _on_numbers(lambda *fields: policy.estimate(View(*fields, params)))
    admission_key, reserve = with_view(policy.admission_key), with_view(policy.reserve)
    eviction_key, refine = with_running(policy.eviction_key), with_running(policy.refine)
    sign = -1 if policy.evict_largest else 1
    free = quantum = None
    if policy.headroom is not None:
        free = _on_numbers(lambda *fields: policy.headroom(View(*fields, params)))
    if policy.quantum is not None:
        quantum = with_running(policy.quantum)
    return Rule(
        name=policy.name,
        estimate=lambda request: estimate(*seen(request)),
        admission_key=lambda request, now: admission_key(now, *seen(request)),
        reserve=lambda request, now: reserve(now, *seen(request)),
        eviction_key=lambda request, now, tokens, admitted, index: (
            sign * eviction_key(now, request.prompt, tokens, admitted, request.memory),
            sign * index,
        ),
        refine=lambda request, now, tokens: refine(now, request.prompt, tokens, 0, request.memory),
        needs_point=policy.needs_point,
        headroom=(lambda request: 0) if free is None else lambda request: free(*seen(request)),
        rank=None if policy.rank is None else functools.partial(_places, policy, params),
        quantum=quantum
        and (lambda request, now: quantum(now, request.prompt, 0, 0, request.memory)),
    )


def _places(policy: Policy, params: Any, requests: Sequence[Known]) -> list[int]:
    """`policy.rank` of a backlog."""
    rows = [[getattr(request, name) or 0 for name in _FIELDS] for request in requests]
    columns = np.asarray(rows, np.int32).T
    view = View(*map(jax.numpy.asarray, columns[:-1]), jax.numpy.int32(columns[-1][0]), params)
    real = jax.numpy.ones(len(requests), bool)
    return np.asarray(policy.rank(policy.estimate(view), view, real)).tolist()


_FIELDS = tuple(field.name for field in dataclasses.fields(View))[:-1]


def _on_numbers(choice: Callable[..., Any]) -> Callable[..., int]:
    compiled = jax.jit(choice)
    return functools.cache(lambda *numbers: int(compiled(*map(np.int32, numbers))))


def shipped_rule(policy: Policy) -> Rule | None:
    """The rule of the reference for a shipped policy with its numbers; `None` for another."""
    if policy.kind == a_min_family().kind:
        return reference.a_min_family(*np.asarray(policy.params).tolist())
    if policy.kind == a_min_network().kind:
        return reference.a_min_network(np.asarray(policy.params).tolist())
    if policy.kind == fcfs(watermark=1).kind:
        return reference.fcfs(int(policy.params))
    if policy.kind == gsa_spec().kind:
        return reference.gsa_spec(int(policy.params))
    shipped = policy.name in SHIPPED and SHIPPED[policy.name]() == policy
    return {**RULES, **EXTENDED}[policy.name] if shipped else None


def _check_finished(instance: Instance, result: Result, max_rounds: int) -> None:
    for lane in np.flatnonzero(result.status != 0):
        raise AssertionError(
            f"lane {lane}: {max_rounds} rounds were not enough; expected all requests to complete, "
            f"does the policy evict for ever?\n{reproduction(instance, lane, max_rounds)}"
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
