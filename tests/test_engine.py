"""Both engines against the reference, in every figure, on thousands of random instances."""

from __future__ import annotations

import dataclasses
import importlib.util
import random

import jax
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import jaxsched as js
from jaxsched import engine as jax_engine
from jaxsched.reference import RULES, Request
from jaxsched.testing import KINDS, as_arrays, check_result, random_requests
from jaxsched.testing.contract import TRIALS, batch

POLICIES = list(RULES)
LANES = 251  # a prime: a multiple neither of the devices nor of the lanes stepped together
BATCHES = 3  # of each trial; 6 policies x 3 trials x 3 batches x 251 = 13,554 simulations
NATIVE = importlib.util.find_spec("numba") is not None
needs_native = pytest.mark.skipif(not NATIVE, reason="numba is not installed")
ENGINES = ["jax", pytest.param("native", marks=needs_native)]


def run(instance, name, engine="jax", max_rounds=js.MAX_ROUND, policy=None):
    policy = js.policy(name) if policy is None else policy
    result = js.simulate(instance, policy, max_rounds=max_rounds, engine=engine)
    return jax.tree.map(np.asarray, result)


def expect_same(one, other):
    for field in vars(one):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field), field)


def test_so_many_simulations_are_compared():
    assert len(POLICIES) * len(TRIALS) * BATCHES * LANES >= 10_000


# Nothing of a batch drawn by its seed can be made smaller, so no shrinking.
@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=BATCHES, phases=[Phase.generate])
@given(seed=st.integers(0, 2**64), kinds=st.permutations(list(KINDS)))
def test_equals_the_reference(name, seed, kinds):
    rng = random.Random(seed)
    drawn = [random_requests(rng, kinds[i % len(kinds)]) for i in range(LANES - 1)]
    drawn.insert(rng.randrange(LANES), ([], 1))
    for trial in TRIALS:
        instance = batch(drawn, trial.arrivals)
        result = run(instance, name, max_rounds=trial.max_rounds)
        check_result(instance, result, RULES[name], max_rounds=trial.max_rounds)
        if NATIVE:
            expect_same(run(instance, name, "native", trial.max_rounds), result)


@pytest.mark.parametrize("name", ["a_min:every_round", "fcfs"])
def test_equals_the_reference_when_it_runs_out_of_everything(name, monkeypatch):
    """Slots, buffer, runs and chunks of a size at which every batch changes levels and flushes."""

    def small_plan(*args):
        plan = real_plan(*args)
        return dataclasses.replace(
            plan, slots=(8, 16, plan.n), buffer=8, chunk=5, runs=(8, 16, plan.n)
        )

    real_plan = jax_engine.make_plan
    monkeypatch.setattr(jax_engine, "make_plan", small_plan)
    policy = dataclasses.replace(js.policy(name), name="small " + name)  # compiles anew
    rng = random.Random(name)
    kinds = list(KINDS)
    drawn = [random_requests(rng, kinds[i % len(kinds)], None) for i in range(LANES)]
    instance = batch(drawn, arrivals=True)
    check_result(instance, run(instance, name, policy=policy), RULES[name])


def crowd(rng, n):
    """Three hundred short requests at once, a long silence, and then a few at a time."""
    arrival = [rng.choice((0, 0, 1, 5_000 + 40 * i)) for i in range(n)]
    return [Request(1, rng.randint(4, 12), 3, 12, a, 6) for a in arrival], 12 * n


def storm(rng, n):
    """Estimates far too low: more evictions than the buffer holds."""
    return [
        Request(rng.randint(1, 5), rng.randint(1, 30), 1, 31, rng.randint(0, 50), rng.randint(1, 3))
        for _ in range(n)
    ], 150


@pytest.mark.parametrize("name", ["a_min:on_eviction", "fcfs"])
def test_equals_the_reference_with_hundreds_of_active_requests(name):
    rng = random.Random(name)
    drawn = [make(rng, n) for make, n in ((crowd, 300), (storm, 300), (crowd, 297), (storm, 129))]
    instance = js.Instance(**as_arrays(drawn))
    result = run(instance, name)
    check_result(instance, result, RULES[name])
    assert result.evictions[1] > 300
    in_first_round = (result.first_token == 1).sum(axis=1)
    assert in_first_round[0] > 128  # more than the least number of slots


@needs_native
def test_engines_agree_on_thousands_of_requests_that_return():
    """All requests return to the queue, more than its first run holds."""
    rng = random.Random(0)
    drawn = [([Request(rng.randint(1, 3), rng.randint(1, 6), 1, 6, rng.randint(0, 9))
               for _ in range(n)], memory) for n, memory in ((4_500, 400), (4_200, 40_000))]  # fmt: skip
    arrays = [
        js.Instance(
            **{
                field: np.array([getattr(request, field) for request in requests], np.int32)
                for field in ("prompt", "output", "lower", "upper", "arrival")
            },
            memory=memory,
        )
        for requests, memory in drawn
    ]
    instance = js.stack(arrays)
    result = run(instance, "a_min")
    assert (result.status == 0).all() and result.evictions[0] > 1_000
    expect_same(run(instance, "a_min", "native"), result)


# ---- the worked example of docs/model.md

EXAMPLE = js.Instance(
    prompt=[2, 1, 3, 1],
    output=[4, 6, 2, 3],
    lower=[2, 1, 1, 3],
    upper=[5, 8, 4, 3],
    point=[4, 4, 4, 4],
    memory=9,
)
# policy: completion times, total latency, evictions, wasted tokens, rounds
FIGURES = {
    "h_sf": ([6, 10, 2, 3], 21, 0, 0, 10),
    "a_max": ([7, 13, 3, 3], 26, 0, 0, 13),
    "a_min:on_eviction": ([4, 10, 2, 5], 21, 2, 2, 10),
    "a_min:every_round": ([4, 10, 2, 5], 21, 2, 2, 10),
    "mc_sf": ([4, 13, 7, 11], 35, 1, 4, 13),
    "fcfs": ([4, 9, 6, 11], 30, 4, 7, 11),
}


def padded(instances):
    """A batch of the shape that the property tests have compiled for."""
    empty = ([], 1)
    drawn = [requests_and_memory(instance) for instance in instances]
    return batch(drawn + [empty] * (LANES - len(drawn)), arrivals=False)


def requests_and_memory(instance):
    from jaxsched.testing import requests_of

    return requests_of(instance)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", POLICIES)
def test_worked_example(name, engine):
    result = run(padded([EXAMPLE]), name, engine)
    completion, latency, evictions, wasted, rounds = FIGURES[name]
    assert result.completion[0, :4].tolist() == completion
    assert (result.total_latency[0], result.evictions[0]) == (latency, evictions)
    assert (result.wasted_tokens[0], result.rounds[0]) == (wasted, rounds)
    assert result.peak_memory[0] <= 9
