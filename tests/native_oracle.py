"""What the tests of the native engine share: a comparison with the reference, and large batches."""

from __future__ import annotations

import dataclasses
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import jaxsched as js
from jaxsched.engines import reference
from jaxsched.engines.reference import EVICTED, FINISHED
from jaxsched.engines.xla.inputs import Numbers, RunLimits
from jaxsched.instance import MAX_ROUND
from jaxsched.policies.network import SHAPES, NetworkParams, quantize
from jaxsched.testing import as_arrays, random_requests
from tests import oracle

native = pytest.importorskip("jaxsched.engines.cpu", exc_type=ImportError)

_WEIGHTS = np.random.default_rng(0)
NUMBERS = {
    "a_min_family": (100, 200, 300, 1100, 3, 1024, -512, 30, 700, 100, 900, 600, 0, 40),
    "a_min_network": tuple(
        quantize(
            NetworkParams(**{name: _WEIGHTS.normal(0, 0.5, SHAPES[name]) for name in SHAPES})
        ).tolist()
    ),
}
"""Name -> numbers, of the policies that have them."""

PLAIN = tuple(oracle.RULES)
KINDS = (*PLAIN, *NUMBERS)
"""Names of the policies compared here; those that set quanta or an order are in other tests."""

TOTALS = ("evictions", "wasted_tokens", "memory_time", "peak_memory", "rounds")


def spare(r):
    """Headroom, as a last number of the policy."""
    return r.params[-1]


def draw(seed, instances, count):
    rng = random.Random(seed)
    return [random_requests(rng, instances) for _ in range(count)]


def policy_of(kind, headroom=False):
    """The shipped policy of that name; with headroom of each lane's own as one number more."""
    made = {"a_min_family": js.a_min_family, "a_min_network": js.a_min_network}
    policy = made[kind]() if kind in made else js.policy(kind)
    if headroom:
        policy = dataclasses.replace(policy, **_with_headroom(policy))
    return policy


def _with_headroom(policy):
    """Numbers of the policy stay in their places; the headroom comes behind them."""
    old = np.asarray([] if policy.params is None else policy.params, np.int32).reshape(-1)
    return dict(
        headroom=spare, limit=max(policy.limit, 2**31 - 2), params=np.append(old, np.int32(0))
    )


def run(
    kind: str,
    *,
    clock: Any = None,
    params: Any = None,
    headroom: Any = None,
    max_rounds: int = MAX_ROUND,
    max_batch: int = 0,
    history: int = 0,
    **batch: Any,
) -> SimpleNamespace:
    """Runs the engine below `simulate`: clocks and arrivals are whole picoseconds of 64 bits."""
    prompt = np.asarray(batch["prompt"])
    lanes, n = prompt.shape
    policy = policy_of(kind, headroom is not None)
    numbers = np.empty((lanes, 0), np.int64)
    if kind in NUMBERS:
        own = NUMBERS[kind] if params is None else params
        numbers = np.broadcast_to(own, (lanes, len(NUMBERS[kind])))
    elif headroom is None and policy.params is not None:
        numbers = np.broadcast_to(np.asarray(policy.params).reshape(-1), (lanes, 1))
    if headroom is not None:
        numbers = np.concatenate([numbers, np.broadcast_to(headroom, lanes)[:, None]], axis=1)
    fields = {
        name: np.broadcast_to(batch[name], (lanes, n))
        for name in ("prompt", "output", "lower", "upper", "point")
        if name in batch
    }
    arrival = batch.get("arrival")
    instance = js.Instance(
        **{"lower": prompt, "upper": prompt, **fields},
        memory=np.broadcast_to(batch["memory"], lanes),
        arrival=None if arrival is None else np.broadcast_to(arrival, (lanes, n)),
        num_requests=np.broadcast_to(batch.get("num_requests", n), lanes),
    )
    ticks = None if clock is None else np.broadcast_to(clock, (lanes, 6))
    limits = RunLimits(np.int32(max_rounds), np.int32(max_batch or 2**31 - 2))
    params = {"all": numbers}
    found = native.simulate_lanes(
        instance, None, Numbers(params, ticks), limits, policy.choices, history
    )
    names = ("total_latency", "wasted_tokens", "memory_time")
    told = {name: found.totals[:, i] for i, name in enumerate(names)}
    told |= {name: value for name, value in vars(found).items() if value is not None}
    first = np.where(found.first_token < 0, -1, found.first_token - 1)
    for name in ("totals", "first_token", "num_requests"):
        del told[name]
    return SimpleNamespace(**told, first_admission=first)


def arrays_of(instances):
    """Instances as arrays, with arrivals that may need 64 bits."""
    still = [([dataclasses.replace(r, arrival=0) for r in rs], m) for rs, m in instances]
    arrays = as_arrays(still)
    arrivals = np.zeros(arrays["prompt"].shape, np.int64)
    for row, (requests, _) in zip(arrivals, instances, strict=True):
        row[: len(requests)] = [request.arrival for request in requests]
    return arrays | {"arrival": arrivals}


def rule_of(kind, params=None, headroom=None):
    """The rule by hand for a lane."""
    if kind == "a_min_family":
        rule = oracle.a_min_family(*map(int, params))
    elif kind == "a_min_network":
        rule = oracle.a_min_network(list(map(int, params)))
    else:
        rule = oracle.RULES[kind]
    if headroom is None:
        return rule
    return dataclasses.replace(rule, headroom=lambda r: int(headroom))


def expect_equal(kind, instances, max_rounds=MAX_ROUND, max_batch=0, **numbers):
    """Compares everything the native engine says with the reference, lane by lane.

    `numbers` are `params`, `headroom` and `clock`, a row or number for each lane.
    """
    options = {name: np.array(value) for name, value in numbers.items()}
    options |= dict(max_rounds=max_rounds, max_batch=max_batch)
    arrays = arrays_of(instances)
    most = int(run(kind, **arrays, **options).evictions.max()) or 1
    got = run(kind, **arrays, **options, history=most)
    for lane, (requests, memory) in enumerate(instances):
        own = {name: options[name][lane] for name in numbers}
        clock = own.pop("clock", None)
        right = reference.simulate(
            requests,
            memory,
            rule_of(kind, **own),
            max_rounds,
            max_batch or None,
            None if clock is None else reference.Clock(*map(int, clock)),
        )
        found = {name: value[lane].tolist() for name, value in vars(got).items()
                 if name != "times" or clock is not None}  # fmt: skip
        expected = expect(right, len(found["completion"]), clock is not None, most)
        # Evictions of one round have no order in the reference.
        found["history"].sort(key=lambda run: (run[2] if run[2] >= 0 else MAX_ROUND, run))
        for name, value in expected.items():
            assert found[name] == value, (kind, lane, name, memory, requests, own, clock)


def expect(right, n, clocked, most):
    """The outcome of a lane as the native engine says it, padded to n requests."""
    runs = [
        [i, run.admitted, run.ended]
        for i, own in enumerate(right.runs)
        for run in own
        if run.how == EVICTED
    ]
    runs.sort(key=lambda run: (run[2], run))
    admitted = [rounds[0] if rounds else -1 for rounds in right.admissions]
    preemptions = [sum(run.how == EVICTED for run in own) for own in right.runs]
    expected = {
        "completion": padded(right.completion, n, -1),
        "first_admission": padded(admitted, n, -1),
        "preemptions": padded(preemptions, n, 0),
        "total_latency": 0 if clocked else right.total_latency,
        "status": 0 if right.status == FINISHED else 1,
        "history": padded(runs, most, [-1] * 3),
    } | {name: getattr(right, name) for name in TOTALS}
    if clocked:
        times = zip(
            right.admission_time, right.first_token_time, right.completion_time, strict=True
        )
        expected["times"] = padded([list(row) for row in times], n, [-1] * 3)
    return expected


def padded(values, n, filler):
    return values + [filler] * (n - len(values))


def large(n=3_000, memory=16_000, lanes=3, span=0, longest=1_000):
    """Long-tailed lengths, intervals that hold or do not, arrivals over `span` rounds."""
    rng = np.random.default_rng(0)
    prompt = np.minimum(rng.geometric(0.03, (lanes, n)), 2_000)
    output = np.minimum(rng.lognormal(3.8, 1.1, (lanes, n)).astype(int) + 1, longest)
    lower = np.maximum(1, (output * rng.uniform(0.05, 1.2, (lanes, n))).astype(int))
    upper = lower + rng.integers(0, 500, (lanes, n))
    arrival = rng.integers(0, span + 1, (lanes, n))
    return dict(
        prompt=prompt, output=output, lower=lower, upper=upper, point=upper, arrival=arrival,
        memory=memory,
    )  # fmt: skip


def same(one, other):
    """Whether two runs agree in everything."""
    return all(np.array_equal(value, getattr(other, name)) for name, value in vars(one).items())
