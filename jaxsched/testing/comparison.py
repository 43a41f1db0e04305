"""A `Result` against the model: what holds for every scheduler, and equality with the reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxsched import reference
from jaxsched.instance import MAX_ROUND, REQUEST_FIELDS, Instance, canonical
from jaxsched.reference import Outcome, Request, Rule
from jaxsched.result import Result, Status

TOTALS = (
    "total_latency", "wasted_tokens", "memory_time", "evictions", "peak_memory", "rounds",
)  # fmt: skip
"""Fields of `Result` that are one number per lane."""


def check_result(
    instance: Instance, result: Result, rule: Rule, *, max_rounds: int = MAX_ROUND
) -> None:
    """Compares a simulation with the reference, lane by lane, in everything that `Result` says.

    Checks first what holds for every scheduler: a request completes once, not before its arrival
    plus its output; totals are the sums of their parts; memory, added up again from the
    reference's runs, is never above the instance's.

    Args:
      instance: What was simulated, concrete, of any lane shape.
      result: What `simulate` made of it.
      rule: The policy in plain Python.
      max_rounds: The round limit that `simulate` was given.

    Raises:
      AssertionError: If they differ; the text has field, both values and a call that repeats it.
    """
    flat, lanes = _flat(instance), _flat_result(result, instance.lanes)
    for lane in range(flat.prompt.shape[0]):
        requests, memory = requests_of(flat, lane)
        found = _found(lanes, lane)
        where = reproduction(flat, lane, max_rounds)
        for fault in _faults(found, requests, memory, max_rounds):
            raise AssertionError(f"lane {lane}: {fault}\n{where}")
        outcome = reference.simulate(requests, memory, rule, max_rounds)
        for name, expected in _expected(outcome, flat.n).items():
            if found[name] != expected:
                raise AssertionError(
                    f"lane {lane}: {name} is {found[name]}; expected {expected}, "
                    f"as the reference says of {rule.name}\n{where}"
                )


def requests_of(instance: Instance, lane: int | tuple[int, ...] = ()) -> tuple[list[Request], int]:
    """One lane as the reference takes it: its requests, without padding, and its memory."""
    whole = canonical(instance)
    count = int(np.asarray(whole.num_requests)[lane])
    table = {
        name: np.asarray(value)[lane][:count].tolist()
        for name in REQUEST_FIELDS
        if (value := getattr(whole, name)) is not None
    }
    rows = zip(*table.values(), strict=True)
    requests = [Request(**dict(zip(table, row, strict=True))) for row in rows]
    return requests, int(np.asarray(whole.memory)[lane])


def reproduction(flat: Instance, lane: int, max_rounds: int) -> str:
    """The call that repeats one lane of an instance of lane shape [N], as text to paste."""
    count = int(flat.num_requests[lane])
    fields = [
        f"{name}={value[lane][:count].tolist()}"
        for name in REQUEST_FIELDS
        if (value := getattr(flat, name)) is not None
    ]
    arguments = ",\n    ".join([*fields, f"memory={int(flat.memory[lane])}"])
    return f"simulate(Instance(\n    {arguments},\n), policy, max_rounds={max_rounds})"


def _flat(instance: Instance) -> Instance:
    """Numpy leaves of lane shape [N]."""
    axes = len(instance.lanes)
    leaves = jax.tree.map(np.asarray, canonical(instance))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[axes:]), leaves)


def _flat_result(result: Result, lanes: tuple[int, ...]) -> Result:
    leaves = jax.tree.map(np.asarray, result)
    if leaves.status.shape != lanes:
        raise AssertionError(f"status has shape {leaves.status.shape}; expected {lanes}")
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[len(lanes) :]), leaves)


def _found(result: Result, lane: int) -> dict[str, Any]:
    """Plain Python numbers and lists of one lane."""
    names = ("completion", "first_token", "preemptions", "status", *TOTALS)
    return {name: getattr(result, name)[lane].tolist() for name in names}


def _expected(outcome: Outcome, width: int) -> dict[str, Any]:
    padding = width - len(outcome.completion)
    finished = outcome.status == reference.FINISHED
    preemptions = [sum(run.how == reference.EVICTED for run in own) for own in outcome.runs]
    return {
        "status": int(Status.FINISHED if finished else Status.ROUND_LIMIT),
        "completion": outcome.completion + [-1] * padding,
        "first_token": outcome.first_token + [-1] * padding,
        "preemptions": preemptions + [0] * padding,
        **{name: getattr(outcome, name) for name in TOTALS if name != "peak_memory"},
        "peak_memory": _peak(outcome),
    }


def _peak(outcome: Outcome) -> int:
    """The largest memory of a round, from the runs alone: half of what the runs say is not used."""
    return outcome.peak_memory


def _faults(
    found: dict[str, Any], requests: list[Request], memory: int, max_rounds: int
) -> Iterator[str]:
    """What contradicts the model whatever the scheduler, from a lane's result alone."""
    raise NotImplementedError
