"""A `Result` against the model: what holds for every scheduler, and equality with the reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxsched.clocks import Clock, ticks
from jaxsched.engines import reference
from jaxsched.engines.reference import Blocks, Outcome, Request
from jaxsched.instance import MAX_ROUND, REQUEST_FIELDS, Instance, canonical, in_seconds
from jaxsched.policies import Policy
from jaxsched.result import Result, Status
from jaxsched.workers import Worker

PER_REQUEST = ("completion", "first_token", "preemptions")
PER_LANE_CLOCKED = (
    "status", "wasted_tokens", "memory_time", "evictions", "peak_memory", "rounds",
)  # fmt: skip
PER_LANE = (*PER_LANE_CLOCKED, "total_latency")


def check_result(
    instance: Instance,
    result: Result,
    policy: Policy,
    *,
    max_rounds: int = MAX_ROUND,
    max_batch: int | None = None,
    clock: Clock | None = None,
    worker: Worker | None = None,
) -> None:
    """Compares a simulation with the reference, lane by lane, in everything that `Result` says.

    Before that it checks what holds for every scheduler: a request completes once, not before its
    arrival plus its output, and totals are the sums of their parts. Memory is added up again from
    the reference's runs on the papers' worker, and may be above the instance's in no round.

    Args:
      instance: What was simulated; concrete, of any lane shape.
      result: What `simulate` made of it.
      policy: What made the decisions; its functions are called on Python's integers.
      max_rounds: The round limit that `simulate` was given.
      max_batch: The cap on the requests that run together that it was given.
      clock: The clock that it was given; concrete.
      worker: The worker that it was given; concrete, each number one for all or one for each lane.

    Raises:
      AssertionError: If they differ; the text has the field, both values, and a call to repeat it.
    """
    flat, found = flatten(instance), _flatten_result(result, instance.lanes)
    exact = None if clock is None else reference.Clock(*(int(tick) for tick in ticks(clock)))
    fields = [*PER_REQUEST, *(PER_LANE if clock is None else (*PER_LANE_CLOCKED, "ticks"))]
    fields += [] if result.history is None else ["history"]
    for lane in range(flat.prompt.shape[0]):
        requests, memory = requests_of(flat, lane)
        own = _worker_of(worker, instance.lanes, lane)
        blocks = None if own is None else Blocks(*own.numbers)
        outcome = reference.simulate(requests, memory, policy, max_rounds, max_batch, exact, blocks)
        got = {name: getattr(found, name)[lane].tolist() for name in fields}
        expected = _expected(outcome, requests, flat.n)
        expected |= _expected_history(outcome, got["history"]) if "history" in got else {}
        for fault in (
            *_faults(got, requests, memory, max_rounds, clock is not None),
            *_differences(got, {name: expected[name] for name in fields}, policy.name),
        ):
            call = reproduction(flat, lane, max_rounds, max_batch, clock, own)
            raise AssertionError(f"lane {lane}: {fault}\n{call}")


def _worker_of(worker: Worker | None, lanes: tuple[int, ...], lane: int) -> Worker | None:
    """The worker of one lane, if it is not the papers'."""
    if worker is None or not worker.blocks:
        return None
    values = [np.broadcast_to(np.asarray(value), lanes).reshape(-1) for value in worker.numbers]
    return Worker(worker.name, *(int(value[lane]) for value in values))


def requests_of(instance: Instance, lane: int | tuple[int, ...] = ()) -> tuple[list[Request], int]:
    """One lane as the reference takes it: its requests, without padding, and its memory.

    Arrivals in seconds become whole picoseconds.
    """
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


def flatten(instance: Instance) -> Instance:
    """The instance, of lane shape [N], with numpy leaves; in canonical form but for seconds."""
    axes = len(instance.lanes)
    leaves = jax.tree.map(np.asarray, canonical(instance))
    if in_seconds(instance):
        leaves = leaves.replace(arrival=np.asarray(instance.arrival, np.float64))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[axes:]), leaves)


def reproduction(
    flat: Instance,
    lane: int,
    max_rounds: int,
    max_batch: int | None = None,
    clock: Clock | None = None,
    worker: Worker | None = None,
) -> str:
    """The call that repeats one lane of an instance of lane shape [N], as text to paste."""
    count = int(flat.num_requests[lane])
    fields = [
        f"{name}={value[lane][:count].tolist()}"
        for name in REQUEST_FIELDS
        if (value := getattr(flat, name)) is not None
    ]
    arguments = "".join(f"    {text},\n" for text in [*fields, f"memory={flat.memory[lane]}"])
    options = f"max_rounds={max_rounds}" + (f", max_batch={max_batch}" if max_batch else "")
    options += "" if clock is None else f", clock={clock}"
    options += "" if worker is None else f", worker={worker!r}"
    return f"simulate(Instance(\n{arguments}), policy, {options})"


def _flatten_result(result: Result, lanes: tuple[int, ...]) -> Result:
    leaves = jax.tree.map(np.asarray, result)
    if leaves.status.shape != lanes:
        raise AssertionError(f"status has shape {leaves.status.shape}; expected {lanes}")
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[len(lanes) :]), leaves)


def _faults(
    got: dict[str, Any], requests: list[Request], memory: int, max_rounds: int, clocked: bool
) -> Iterator[str]:
    """What contradicts the model whatever the scheduler, from the result alone."""
    completion = got["completion"][: len(requests)]
    done = [c >= 0 for c in completion]
    if got["status"] not in (Status.FINISHED, Status.ROUND_LIMIT):
        yield f"status is {got['status']}; expected FINISHED or ROUND_LIMIT of a valid instance"
    if all(done) != (got["status"] == Status.FINISHED):
        yield f"status is {got['status']}, and {sum(done)} of {len(requests)} requests completed"
    for i, (request, c, first) in enumerate(
        zip(requests, completion, got["first_token"][: len(requests)], strict=True)
    ):
        arrival = 0 if clocked else request.arrival
        earliest = arrival + request.output
        if c >= 0 and not earliest <= c <= max_rounds:
            yield f"request {i}: completion is {c}; expected {earliest} to {max_rounds}"
        if c >= 0 and not arrival < first <= c - request.output + 1:
            yield f"request {i}: first_token is {first}, with completion {c}"
        if clocked and c >= 0 and not request.arrival <= got["ticks"][i][0] < got["ticks"][i][2]:
            yield f"request {i}: ticks are {got['ticks'][i]}, with arrival {request.arrival}"
    sums = {"rounds": max([0, *completion]), "evictions": sum(got["preemptions"])}
    if not clocked:
        latency = (c - r.arrival for c, r in zip(completion, requests, strict=True) if c >= 0)
        sums["total_latency"] = sum(latency)
    yield from _differences(got, sums, "its parts")
    if not got["evictions"] <= got["wasted_tokens"] <= got["evictions"] * memory:
        yield f"wasted_tokens is {got['wasted_tokens']}, with {got['evictions']} evictions"
    if got["peak_memory"] > memory:
        yield f"peak_memory is {got['peak_memory']}; expected at most {memory}"


def _differences(got: dict[str, Any], expected: dict[str, Any], source: str) -> Iterator[str]:
    for name, value in expected.items():
        if got[name] != value:
            yield f"{name} is {got[name]}; expected {value} by {source}"


def _expected(outcome: Outcome, requests: list[Request], width: int) -> dict[str, Any]:
    """The reference's outcome in the fields of a `Result`, padding included."""
    unfinished = outcome.status != reference.FINISHED
    used = list(_memory_used(outcome, requests).values())
    memory = {"memory_time": sum(used), "peak_memory": max(used, default=0)}
    if outcome.computed:  # on the worker of a serving engine, where runs do not tell it
        memory = {name: getattr(outcome, name) for name in memory}
    per_request: dict[str, tuple[list[Any], Any]] = {
        "completion": (outcome.completion, -1),
        "first_token": (outcome.first_token, -1),
        "preemptions": ([sum(r.how == reference.EVICTED for r in own) for own in outcome.runs], 0),
        "ticks": (_times(outcome), [-1, -1, -1]),
    }
    return {
        "status": int(Status.ROUND_LIMIT if unfinished else Status.FINISHED),
        **{
            name: values + [fill] * (width - len(values))
            for name, (values, fill) in per_request.items()
        },
        "total_latency": outcome.total_latency,
        "wasted_tokens": outcome.wasted_tokens,
        "evictions": outcome.evictions,
        "rounds": outcome.rounds,
        **memory,
    }


def _times(outcome: Outcome) -> list[list[int]]:
    lists = (outcome.admission_time, outcome.first_token_time, outcome.completion_time)
    return [list(times) for times in zip(*lists, strict=True)]


def _expected_history(outcome: Outcome, got: list[list[int]]) -> dict[str, Any]:
    """Evicted runs in order of eviction; the order within a round is the engine's to tell."""
    runs = [
        ([i, run.admitted, run.ended, *outcome.kept[i][k : k + 1]] if outcome.kept else
         [i, run.admitted, run.ended], run.how)
        for i, own in enumerate(outcome.runs)
        for k, run in enumerate(own)
    ]  # fmt: skip
    wanted = [reference.EVICTED] + ([reference.COMPLETED] if outcome.kept else [])
    evicted = sorted(entry for entry, how in runs if how in wanted)
    told = [entry for entry in got if entry[0] >= 0]
    rounds = [entry[2] for entry in told[: sum(how == reference.EVICTED for _, how in runs)]]
    if sorted(told) == evicted and rounds == sorted(rounds):
        return {"history": got}
    return {"history": evicted}


def _memory_used(outcome: Outcome, requests: list[Request]) -> Counter[int]:
    """Memory in use by round, from the reference's runs and not from its totals."""
    used: Counter[int] = Counter()
    for request, own in zip(requests, outcome.runs, strict=True):
        for run in own:
            for t in range(run.admitted, run.ended):
                used[t] += request.prompt + t - run.admitted + 1
    return used
