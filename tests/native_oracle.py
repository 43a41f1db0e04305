"""What the tests of the native engine share: a comparison with the reference, and large batches."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from jaxsched.engines import reference
from jaxsched.engines.reference import EVICTED, FINISHED
from jaxsched.instance import MAX_ROUND
from jaxsched.policies.network import SHAPES, NetworkParams, quantize
from jaxsched.testing import as_arrays, random_requests

native = pytest.importorskip("jaxsched.engines.cpu", exc_type=ImportError)

_WEIGHTS = np.random.default_rng(0)
NUMBERS = {
    "a_min_family": (100, 200, 300, 1100, 3, 1024, -512, 30, 700, 100),
    "a_min_network": tuple(
        quantize(
            NetworkParams(**{name: _WEIGHTS.normal(0, 0.5, SHAPES[name]) for name in SHAPES})
        ).tolist()
    ),
}
"""Kind -> numbers, of those that have them."""

TOTALS = ("evictions", "wasted_tokens", "memory_time", "peak_memory", "rounds")


def draw(seed, instances, count):
    rng = random.Random(seed)
    return [random_requests(rng, instances) for _ in range(count)]


def run(kind, instances, **options):
    """Simulates instances whose arrivals may need 64 bits."""
    arrays = as_arrays([([replace(r, arrival=0) for r in rs], m) for rs, m in instances])
    arrivals = np.zeros(arrays["prompt"].shape, np.int64)
    for row, (requests, _) in zip(arrivals, instances, strict=True):
        row[: len(requests)] = [request.arrival for request in requests]
    return native.run(kind, **arrays | {"arrival": arrivals}, threads=1, **options)


def rule_of(kind, params=None, headroom=0):
    """The reference's rule for a lane."""
    if kind == "a_min_family":
        rule = reference.a_min_family(*map(int, params))
    elif kind == "a_min_network":
        rule = reference.a_min_network(list(map(int, params)))
    else:
        rule = reference.RULES[kind]
    return replace(rule, headroom=lambda request: int(headroom))


def expect_equal(kind, instances, max_rounds=MAX_ROUND, max_batch=0, **numbers):
    """Compares everything the native engine says with the reference, lane by lane.

    `numbers` are `params`, `headroom` and `clock`, a row or number for each lane.
    """
    options = {name: np.array(value) for name, value in numbers.items()}
    options |= dict(max_rounds=np.broadcast_to(max_rounds, len(instances)), max_batch=max_batch)
    most = int(run(kind, instances, **options).evictions.max()) or 1
    got = run(kind, instances, **options, history=most)
    for lane, (requests, memory) in enumerate(instances):
        own = {name: options[name][lane] for name in numbers}
        clock = own.pop("clock", None)
        right = reference.simulate(
            requests,
            memory,
            rule_of(kind, **own),
            int(options["max_rounds"][lane]),
            max_batch or None,
            None if clock is None else reference.Clock(*map(int, clock)),
        )
        found = {name: value[lane].tolist() for name, value in told(got).items()}
        expected = expect(right, len(found["completion"]), clock is not None, most)
        # Evictions of one round have no order in the reference.
        found["history"].sort(key=lambda run: (run[2] if run[2] >= 0 else MAX_ROUND, run))
        for name, value in expected.items():
            assert found[name] == value, (kind, lane, name, memory, requests, own, clock)


def told(got):
    return {name: value for name, value in got._asdict().items() if value is not None}


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
