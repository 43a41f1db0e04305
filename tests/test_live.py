"""Rules for live traffic: against their twins by hand, on both workers, and by their own claims."""

from __future__ import annotations

import math
import random

import jax
import numpy as np
import pytest

import jaxsched as js
from jaxsched.arrays import unpaired
from jaxsched.engines import reference
from jaxsched.testing import KINDS, as_arrays, check_policy, check_result, random_requests
from tests import oracle
from tests.oracle import LIVE

pytest.importorskip("numba")

AGED = {f"remaining_volume:age={age}": oracle.remaining_volume(age=age) for age in (1, 40)}
AGED |= {
    "remaining_volume:lower:age=9": oracle.remaining_volume("lower", 9),
    "remaining_volume:point:age=30": oracle.remaining_volume("point", 30),
}
ALL = {**LIVE, **AGED}
WORKERS = [js.workers.vllm(block=3, max_num_seqs=4, budget=9), js.workers.vllm(16, 40, 64)]


@pytest.mark.parametrize("name", ALL)
def test_the_contract(name):
    check_policy(js.policy(name), ALL[name], engine="native", seed=5, instances=12)


def drawn(seed):
    """Requests of every kind, and memories of whole blocks that hold each."""
    rng = random.Random(seed)
    for kind in KINDS:
        requests, memory = random_requests(rng, kind)
        yield requests, memory + 16


@pytest.mark.parametrize("worker", WORKERS, ids=str)
@pytest.mark.parametrize("name", [*ALL, "mcf"])
def test_on_the_worker_of_an_engine(name, worker):
    """What the rules by hand do there in the reference."""
    policy = js.mcf() if name == "mcf" else js.policy(name)
    rule, pairs = {**ALL, "mcf": oracle.mcf()}[name], list(drawn(7))
    found = js.simulate(js.Instance(**as_arrays(pairs)), policy, worker=worker, engine="native")
    numbers = reference.Blocks(*map(int, worker.numbers))
    for lane, (requests, memory) in enumerate(pairs):
        right = reference.simulate(requests, memory, rule, worker=numbers)
        n = len(requests)
        assert found.completion[lane, :n].tolist() == right.completion
        assert found.first_token[lane, :n].tolist() == right.first_token
        assert found.evictions[lane] == right.evictions
        assert found.wasted_tokens[lane] == right.wasted_tokens


def test_ages_run_as_lanes_of_the_jax_engine():
    """Keys that read what has been generated, on the worker that does not keep it."""
    instance = js.Instance(**as_arrays(list(drawn(8))))
    ages = np.array([1, 40])
    found = jax.vmap(lambda age: js.simulate(instance, js.remaining_volume(age=age), engine="jax"))(
        ages
    )
    for i, age in enumerate(ages):
        own = jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], found)
        own = own.replace(totals=unpaired(own.totals))
        check_result(instance, own, ALL[f"remaining_volume:age={age}"])


def test_the_order_of_ages_is_that_of_volumes_that_shrink():
    """Whatever the round, volume / 2^(waited / age) orders as the key that stands still."""
    rng, age = random.Random(9), 50
    key = oracle.remaining_volume(age=age).admission_key
    views = [
        js.View(rng.randint(1, 900), 1, 1, 1, 1, rng.randint(0, 400), 9000, estimate=1)
        for _ in range(200)
    ]
    for now in (400, 4000):
        shrunk = [(r.prompt + 1) / 2 ** ((now - r.arrival) / age) for r in views]
        # the logarithm is linear between powers of 2, and up to 0.0861 octaves off
        for one, other in zip(range(199), range(1, 200), strict=True):
            if shrunk[one] > 1.13 * shrunk[other]:
                assert key(views[one]) > key(views[other])


def test_chance_is_spread_evenly():
    """Sixteen bins of one stretch of progress: neither the first nor the last is preferred."""
    view = [js.View(100, 9, 9, 9, 9, 0, 9000, generated=g) for g in range(4000)]
    key = js.random_victim().eviction_key
    counts = np.bincount([key(r) * 16 // 2**31 for r in view], minlength=16)
    assert counts.min() > 200 and counts.max() < 300


def test_random_ties_are_no_order_of_positions():
    """Of equal requests that do not all fit, not always the last ones wait."""
    instance = js.Instance(
        prompt=np.arange(1, 31), output=[9] * 30, lower=[1] * 30, upper=[9] * 30, memory=200
    )
    literal, drawn_ = (js.simulate(instance, p).completion for p in (js.a_min(), js.random_ties()))
    assert (np.diff(np.argsort(literal[:10])) != np.diff(np.argsort(drawn_[:10]))).any()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("remaining_volume:age=0.5", "age is 0.5; expected a whole number from 1 on, or 0"),
        ("tie:beta=2", "tie: beta is 2.0; expected 0 to 1"),
        ("trail:limit=-1", "trail: limit is -1.0; expected 0 to 1"),
    ],
)
def test_bad_numbers_are_refused(text, error):
    with pytest.raises(ValueError, match=error):
        js.policy(text)


def test_ageing_is_gamma_boost():
    """Arrivals less (1/gamma) ln(1 / (1 - exp(-gamma S))), S = volume / memory (2404.08826)."""
    rng, memory = random.Random(3), 16_492
    policy = js.policy("remaining_volume:point:age=300")
    constant = 300 * math.log2(memory * 300 / math.log(2))
    for _ in range(1000):
        s, o, a = rng.randint(1, 4000), rng.randint(1, 4000), rng.randint(0, 10_000)
        view = js.policies.View(s, o, 1, o, o, a, memory, estimate=o, params=300)
        size, gamma = (s * o + o * (o + 1) / 2) / memory, math.log(2) / 300
        boosted = a + math.log(1 - math.exp(-gamma * size)) / gamma
        apart = policy.admission_key(view) * 300 / 2**16 - constant - boosted
        assert -0.0862 * 300 - 0.1 <= apart <= size / 2 + 0.1
