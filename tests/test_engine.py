"""Both engines against the reference, in every figure, on thousands of random instances."""

from __future__ import annotations

import importlib.util
import random

import jax
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import jaxsched as js
from jaxsched.engines import xla as jax_engine
from jaxsched.engines.reference import Request
from jaxsched.instance import MAX_ROUND
from jaxsched.testing import KINDS, as_arrays, check_result, random_requests, requests_of
from jaxsched.testing.contract import TRIALS, WIDTH, batch, draw
from tests.oracle import RULES

POLICIES = [name for name in RULES if not name.startswith("svf")]  # those: test_contract
LANES = 149  # a multiple neither of the devices nor of the lanes stepped together
BATCHES = 2  # of each trial, and one in test_contract: 6 x 4 x (2 + 1) x 149 = 10,728 simulations
NATIVE = importlib.util.find_spec("numba") is not None
needs_native = pytest.mark.skipif(not NATIVE, reason="numba is not installed")
ENGINES = ["jax", pytest.param("native", marks=needs_native)]


def run(instance, policy, engine="jax", **options):
    policy = js.policy(policy) if isinstance(policy, str) else policy
    result = js.simulate(instance, policy, engine=engine, **options)
    return jax.tree.map(np.asarray, result)


def expect_same(one, other):
    for field in vars(one):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field), field)


def test_so_many_simulations_are_compared():
    assert len(POLICIES) * len(TRIALS) * (BATCHES + 1) * LANES >= 10_000


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
            expect_same(run(instance, name, "native", max_rounds=trial.max_rounds), result)


@pytest.mark.parametrize(
    ("name", "wide"), [("a_min:every_round", False), ("a_min:every_round", True), ("h_sf", True)]
)
def test_equals_the_reference_when_it_runs_out_of_everything(name, wide, monkeypatch):
    """Slots, buffer, runs, chunks and groups so small that nearly every instance needs more.

    Of 12 lanes at work 7 take their turn at a time; in the form that a step has on a TPU too.
    """

    sizes = dict(pool=12, turn=7, chunk=6, scan=3, buffer=8, wide=wide)
    few = sizes | dict(slots=(8, 16, WIDTH), runs=(8, WIDTH))
    monkeypatch.setattr(jax_engine, "GROUP_REQUESTS", 30 * WIDTH)
    trial = TRIALS[0] if js.policy(name).hindsight else TRIALS[1]
    instance = draw(trial, random.Random(0), LANES)
    check_result(instance, run(instance, name, plan=few), RULES[name])


@pytest.mark.parametrize("name", ["h_sf", "fcfs"])
def test_equals_the_reference_under_a_batch_cap(name):
    """A cap so low that it binds, one that binds at times, and one that never does."""
    trial = TRIALS[0] if name == "h_sf" else TRIALS[1]
    instance = draw(trial, random.Random(name), LANES)
    for cap in (1, 3, 40):
        result = run(instance, name, max_batch=cap)
        check_result(instance, result, RULES[name], max_batch=cap)
        if NATIVE:
            expect_same(run(instance, name, "native", max_batch=cap), result)
    expect_same(run(instance, name), result)


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


def test_equals_the_reference_with_hundreds_of_active_requests():
    rng = random.Random(0)
    drawn = [make(rng, n) for make, n in ((crowd, 300), (storm, 300), (crowd, 297), (storm, 129))]
    instance = js.Instance(**as_arrays(drawn))
    result = run(instance, "fcfs")
    check_result(instance, result, RULES["fcfs"])
    assert result.evictions[1] > 300
    assert (result.first_token[0] == 1).sum() > 128  # more than the least number of slots


@needs_native
def test_engines_agree_on_thousands_of_requests_that_return():
    """More requests than the first sorted run holds; all pass through it as they arrive."""
    rng = random.Random(0)

    def draw():
        return Request(rng.randint(1, 3), rng.randint(1, 30), 1, 31, rng.randint(0, 9), 1)

    drawn = [([draw() for _ in range(n)], memory) for n, memory in ((4_500, 2_000), (4_200, 9_000))]
    instance = js.Instance(**as_arrays(drawn))
    # Two numbers of slots and not seven, as each is compiled.
    result = run(instance, "a_min", plan=dict(slots=(128, 8_192)))
    assert (result.status == 0).all() and (result.evictions > 500).all()
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
    "priority": ([4, 9, 6, 11], 30, 4, 7, 11),
    "no_evict": ([4, 10, 12, 15], 41, 0, 0, 15),
}


def padded(*instances, arrivals=False):
    """A batch of the shape that the property tests compile for."""
    drawn = [requests_of(instance) for instance in instances]
    return batch(drawn + [([], 1)] * (LANES - len(drawn)), arrivals)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", POLICIES)
def test_worked_example(name, engine):
    result = run(padded(EXAMPLE), name, engine)
    completion, latency, evictions, wasted, rounds = FIGURES[name]
    assert result.completion[0, :4].tolist() == completion
    assert (result.total_latency[0], result.evictions[0]) == (latency, evictions)
    assert (result.wasted_tokens[0], result.rounds[0]) == (wasted, rounds)
    assert result.peak_memory[0] <= 9


# ---- large numbers


def backlog(output, memory, prompt=1):
    output = np.asarray(output, np.int32)
    prompt = np.full_like(output, prompt)
    return js.Instance(
        prompt=prompt, output=output, lower=output, upper=output, point=output, memory=memory
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["h_sf", "a_min:on_eviction"])
def test_totals_beyond_32_bits_are_exact(name, engine):
    """Seven requests that fill the memory alone, one after another up to the last round."""
    output = np.full(7, 2**27)
    result = run(padded(backlog(output, memory=2**27 + 1)), name, engine)
    completion = np.cumsum(output)
    assert result.completion[0, :7].tolist() == completion.tolist()
    assert result.total_latency[0] == completion.sum() > 2**31
    assert result.memory_time[0] == sum(int(o) + int(o) * (int(o) + 1) // 2 for o in output) > 2**55
    assert result.rounds[0] == completion[-1] > 0.8 * MAX_ROUND


@pytest.mark.parametrize("name", POLICIES)
def test_outputs_of_32000_tokens(name):
    rng = random.Random(0)
    requests = [
        Request(rng.randint(1, 900), rng.choice((9, 400, 32_000)), 1, 40_000, 0, 5_000)
        for _ in range(9)
    ]
    instance = padded(js.Instance(**{k: v[0] for k, v in as_arrays([(requests, 70_000)]).items()}))
    result = run(instance, name)
    check_result(instance, result, RULES[name], max_rounds=MAX_ROUND)
    if NATIVE:
        expect_same(run(instance, name, "native"), result)


@needs_native
@pytest.mark.parametrize("name", POLICIES)
def test_a_hundred_thousand_requests(name):
    rng = np.random.default_rng(0)
    output = np.minimum(rng.geometric(0.01, 100_000), 2_000)
    instance = backlog(output, memory=8_000, prompt=40)
    instance = instance.replace(lower=np.maximum(1, output // 2), upper=output + 9)
    result = run(instance, name, "native")
    assert result.status == 0
    assert result.total_latency == result.completion.astype(np.int64).sum() > 2**31
    assert result.peak_memory <= 8_000
    assert (result.evictions == 0) == (name in ("h_sf", "a_max", "mc_sf", "no_evict"))


# ---- invariants at the size of the paper's experiment


def paper(x, factor=1, lanes=2, n=2_000):
    """Intervals [(1 - x) o, (1 + x) o] and points o // factor."""
    return js.workloads.make(
        jax.random.key(1),
        lengths=js.workloads.embedded.lmsys(),
        intervals=js.workloads.intervals.relative(x),
        n=n,
        lanes=lanes,
        memory=16_492,
        point=lambda key, output: np.maximum(1, output // factor),
    )


@pytest.fixture(scope="module")
def wide():
    return paper(0.95, factor=2)


def expect_invariants(instance, result):
    output, prompt = instance.output.astype(np.int64), instance.prompt.astype(np.int64)
    least = (output * prompt + output * (output + 1) // 2).sum(axis=1)
    assert (result.status == 0).all()
    assert (result.completion >= output).all()
    assert (result.first_token <= result.completion - output + 1).all()
    assert (result.total_latency == result.completion.sum(axis=1, dtype=np.int64)).all()
    assert (result.rounds == result.completion.max(axis=1)).all()
    assert (result.peak_memory <= instance.memory).all()
    assert (result.evictions == result.preemptions.sum(axis=1)).all()
    assert (result.memory_time >= least).all()
    assert ((result.memory_time == least) == (result.wasted_tokens == 0)).all()
    assert ((result.evictions == 0) == (result.wasted_tokens == 0)).all()


@needs_native
@pytest.mark.parametrize("name", POLICIES)
def test_invariants_of_large_runs(name, wide):
    result = run(wide, name, "native")
    expect_invariants(wide, result)
    if name in ("h_sf", "a_max", "no_evict"):
        assert (result.evictions == 0).all()
        assert (memory_by_round(wide, result) <= wide.memory[..., None]).all()
    else:
        assert (result.evictions > 0).all()


@pytest.mark.parametrize("name", ["h_sf", "a_min:on_eviction"])
def test_invariants_of_large_runs_on_jax(name, wide):
    exact = paper(0)
    for instance in (wide, exact):
        result = run(instance, name)
        expect_invariants(instance, result)
        if name == "h_sf" or instance is exact:
            assert (result.evictions == 0).all()
            assert (memory_by_round(instance, result) <= instance.memory[..., None]).all()
        if NATIVE:
            expect_same(run(instance, name, "native"), result)


@needs_native
def test_exact_predictions_make_all_policies_equal():
    exact = paper(0)
    right = run(exact, "h_sf", "native")
    for name in set(POLICIES) - {"h_sf", "fcfs", "priority", "no_evict"}:
        expect_same(run(exact, name, "native"), right)


def memory_by_round(instance, result):
    """Memory in use in every round where nothing is evicted, of shape [lanes, rounds]."""
    used = np.zeros((len(result.rounds), result.rounds.max()), np.int64)
    for lane, end in enumerate(result.completion):
        lengths = zip(instance.prompt[lane], instance.output[lane], end, strict=True)
        for prompt, output, c in lengths:
            used[lane, c - output : c] += prompt + np.arange(1, output + 1)
    assert (used.max(axis=1) == result.peak_memory).all()
    assert (used.sum(axis=1) == result.memory_time).all()
    return used
