"""The network around A_min: A_min itself at weights of 0, and every engine alike at all others."""

from __future__ import annotations

import importlib.util
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxsched.engines.soft.network import A_MIN_NETWORK

import jaxsched as js
from jaxsched.engines import reference
from jaxsched.policies.network import EVICT, PROGRESS, SHAPES, WEIGHTS, WIDEST, quantize
from jaxsched.testing import KINDS, check_result, contract
from jaxsched.testing.choices import check_choices

NATIVE = importlib.util.find_spec("numba") is not None
ENGINES = ["jax", *(["native"] if NATIVE else [])]
LANES = 256
PLAIN = 32  # lanes without linear weights and outputs
QUICK = [kind for kind in KINDS if kind != "long_outputs"]


def random_weights(rng, count):
    """`count` sets of weights: small ones, large ones, all at the ends, and some that are 0."""
    scale = rng.choice([0.05, 0.3, 2.0, 100.0], (count, 1))
    drawn = {}
    for name, shape in SHAPES.items():
        values = rng.normal(size=(count, *shape)) * scale.reshape(count, *(1 for _ in shape))
        drawn[name] = np.where(rng.random(values.shape) < 0.1, 0, values).astype(np.float32)
    return js.NetworkParams(**drawn)


def one_of(params, lane):
    return jax.tree.map(lambda leaf: leaf[lane], params)


def draw(seed, lanes, arrivals):
    """Instances of every kind in turn, single requests and memories that just fit among them."""
    rng = random.Random(seed)
    kinds = [QUICK[i % len(QUICK)] for i in range(lanes)]
    drawn = [contract.random_requests(rng, kind) for kind in kinds]
    return contract.batch(drawn, arrivals)


def as_lanes(instance, params, engine):
    """Every lane of the instance under weights of its own."""
    run = lambda one, own: js.simulate(  # noqa: E731
        one, js.a_min_network(own), max_rounds=2_000, engine=engine
    )
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(run))(instance, params))


@pytest.fixture(scope="module")
def batches():
    """Instances, weights and results by engine: as a backlog and with arrivals."""
    found = []
    for arrivals in (False, True):
        instance = draw(f"network {arrivals}", LANES, arrivals)
        params = random_weights(np.random.default_rng(arrivals), LANES)
        params.linear[:PLAIN] = params.output[:PLAIN] = 0
        results = {engine: as_lanes(instance, params, engine) for engine in ENGINES}
        found.append((instance, params, results))
    return found


@pytest.mark.parametrize("case", [0, 1], ids=["backlog", "arrivals"])
def test_the_reference_agrees(batches, case):
    instance, params, results = batches[case]
    fixed = np.asarray(jax.vmap(quantize)(params))
    assert fixed.shape == (LANES, WEIGHTS) and fixed.dtype == np.int32
    for lane in range(0, LANES, 2):
        one, own = (one_of(tree, lane) for tree in (instance, results["jax"]))
        check_result(one, own, reference.a_min_network(fixed[lane].tolist()), max_rounds=2_000)
    evictions = results["jax"].evictions
    assert np.sum(evictions > 0) > 60 and np.sum(evictions > 20) > 3


@pytest.mark.skipif(not NATIVE, reason="numba is not installed")
@pytest.mark.parametrize("case", [0, 1], ids=["backlog", "arrivals"])
def test_the_engines_agree(batches, case):
    results = batches[case][2]
    for name, value in vars(results["jax"]).items():
        if value is not None:
            np.testing.assert_array_equal(getattr(results["native"], name), value, err_msg=name)


def test_weights_run_as_lanes_or_one_at_a_time(batches):
    instance, params, results = batches[0]
    for lane in (0, 5, 21):
        policy = js.a_min_network(one_of(params, lane))
        alone = js.simulate(one_of(instance, lane), policy, max_rounds=2_000, engine="jax")
        assert np.array_equal(alone.completion, results["jax"].completion[lane])


@pytest.mark.parametrize("case", [0, 1], ids=["backlog", "arrivals"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_min_is_a_member(batches, engine, case):
    """Whatever leads to the hidden units, as long as nothing leads on."""
    instance, _, results = batches[case]
    plain, own = (one_of(tree, slice(PLAIN)) for tree in (instance, results[engine]))
    check_result(plain, own, reference.a_min(), max_rounds=2_000)
    assert np.sum(own.evictions) > 50


@pytest.mark.parametrize("memory", [50, 2_001, 2**28])
def test_keys_keep_the_order_of_estimates(memory):
    """At weights of 0 no two estimates tie that differ, and none that are equal come apart."""
    rng = np.random.default_rng(1)
    estimate = np.sort(np.concatenate([np.arange(1, 5_000), rng.integers(1, 2**24, 5_000)]))
    estimate, prompt = estimate.astype(np.int32), rng.integers(1, memory, len(estimate))
    policy, zeros = js.a_min_network(), jnp.zeros(len(estimate), jnp.int32)
    weights = jnp.asarray(policy.params)
    view = js.View(*[jnp.asarray(prompt, jnp.int32)] * 7, jnp.int32(memory), weights)
    running = js.Running(view.prompt, zeros, zeros, jnp.int32(memory), weights)
    same = np.diff(estimate) == 0
    for key in (policy.admission_key(estimate, view), policy.eviction_key(estimate, running)):
        assert np.array_equal(np.diff(key) == 0, same) and np.all(np.diff(key) >= 0)
    assert np.array_equal(policy.reserve(estimate, view), estimate)
    refined = policy.refine(estimate, running)
    assert np.array_equal(refined & (2**28 - 1), estimate) and np.all(refined >> 28 == 1)


def test_evictions_are_counted_and_estimates_only_grow():
    rng = np.random.default_rng(2)
    policy = js.a_min_network(one_of(random_weights(rng, 8), 3))
    state = jnp.arange(1, 200, dtype=jnp.int32)
    running = js.Running(
        prompt=jnp.full_like(state, 10), generated=5 * state, admitted=jnp.zeros_like(state),
        memory=jnp.int32(5_000), params=jnp.asarray(policy.params),
    )  # fmt: skip
    for count in range(1, 9):
        before, state = state & (2**28 - 1), policy.refine(state, running)
        assert np.all(state >> 28 == min(count, 6))
        assert np.all(state & (2**28 - 1) >= jnp.maximum(before, running.generated))


def test_no_network_evicts_for_ever(batches):
    """As in the tests of tuning: a worker so small that whoever stays decides."""
    rng = np.random.default_rng(8)
    prompt, output = rng.integers(1, 7, (4, 40)), rng.integers(1, 21, (4, 40))
    lower = rng.integers(1, 21, (4, 40))
    tight = js.Instance(prompt=prompt, output=output, lower=lower, upper=lower + 5, memory=40)
    run = lambda own: js.simulate(tight, js.a_min_network(own), max_rounds=200_000)  # noqa: E731
    result = jax.vmap(run)(random_weights(rng, 300))
    assert np.all(np.asarray(result.status) == js.Status.FINISHED)


def test_keys_never_fall_as_a_request_runs():
    rng = np.random.default_rng(3)
    tokens = jnp.arange(3_000, dtype=jnp.int32)
    for lane in range(40):
        policy = js.a_min_network(one_of(random_weights(rng, 40), lane))
        same = jnp.full_like(tokens, rng.integers(1, 1_000))
        running = js.Running(same, tokens, tokens, jnp.int32(9_000), jnp.asarray(policy.params))
        assert np.all(np.diff(policy.eviction_key(same, running)) >= 0)


def test_weights_are_rounded_and_kept_in_range():
    params = js.NetworkParams(
        linear=np.full(SHAPES["linear"], 1e9), output=np.full(SHAPES["output"], -1 / 1024),
        hidden=np.full(SHAPES["hidden"], 0.7501),
    )  # fmt: skip
    fixed = np.asarray(quantize(params)).reshape(4, -1)
    assert np.all(fixed[:, :6] == WIDEST * 1024)
    units = fixed[:, 6:].reshape(4, -1, 7)
    assert np.all(units[..., 6] == -1)
    # Progress takes the sign of the unit's output, where evictions are decided.
    expected = np.full((4, 12, 6), 768)
    expected[EVICT, :, PROGRESS] = -768
    assert np.array_equal(units[..., :6], expected)
    assert np.array_equal(jax.jit(quantize)(params), quantize(params))


def test_upper_bounds_and_outputs_are_not_read():
    check_choices(js.a_min_network(one_of(random_weights(np.random.default_rng(4), 1), 0)))
    policy = js.a_min_network(one_of(random_weights(np.random.default_rng(5), 1), 0))
    instance = draw("upper", 13, False)
    far = instance.replace(upper=np.where(instance.upper > 0, 2**30, 0).astype(np.int32))
    one, other = (js.simulate(each, policy, engine="jax") for each in (instance, far))
    assert np.array_equal(one.completion, other.completion)


@pytest.mark.parametrize("name", SHAPES)
def test_wrong_weights_are_refused(name):
    shape = SHAPES[name]
    with pytest.raises(ValueError, match=rf"{name} has shape \[2, .*expected \[.*use jax.vmap"):
        js.a_min_network(js.NetworkParams(**{name: np.zeros((2, *shape))}))
    values = np.zeros(shape)
    values.flat[-1] = np.nan
    with pytest.raises(ValueError, match=f"{name} has a NaN; expected numbers"):
        js.a_min_network(js.NetworkParams(**{name: values}))


@pytest.mark.skipif(not NATIVE, reason="numba is not installed")
def test_weights_out_of_range_mark_the_lane():
    from jaxsched.engines import cpu as native  # noqa: PLC0415

    one, weights = np.ones((3, 1), np.int32), np.zeros((3, WEIGHTS), np.int64)
    weights[0, 7], weights[1, 359], weights[2, 0] = 2**13, -(2**13) - 1, 2**13 + 1
    got = native.run("a_min_network", prompt=one, output=one, lower=1, memory=9, params=weights)
    assert got.status.tolist() == [0, 2, 2]
    with pytest.raises(ValueError, match=r"params: got shape \[3, 10\]; expected \[3, 360\]"):
        native.run("a_min_network", prompt=one, output=one, lower=1, memory=9,
                   params=weights[:, :10])  # fmt: skip


def test_members_share_a_program():
    one, other = (js.a_min_network(one_of(random_weights(np.random.default_rng(7), 2), i))
                  for i in (0, 1))  # fmt: skip
    assert one.kind == other.kind == js.a_min_network().kind != js.a_min_family().kind


def shown(params, dtype):
    """The same random requests as an engine and as the relaxation show them."""
    rng = np.random.default_rng(9)
    prompt, lower, tokens = rng.integers(1, 2_000, (3, 400)).astype(dtype)
    prompt, lower, tokens = map(jnp.asarray, (prompt, lower, tokens))
    view = js.View(prompt, *[lower] * 6, jnp.asarray(9_000, dtype), params)
    return view, js.Running(prompt, tokens, tokens, jnp.asarray(9_000, dtype), params)


@pytest.mark.parametrize("lane", range(3))
def test_soft_and_hard_choices_agree_up_to_rounding(lane):
    """Over two evictions, so that what a request carries is compared as well."""
    params = one_of(random_weights(np.random.default_rng(10 + lane), 1), 0)
    params = jax.tree.map(lambda leaf: np.clip(leaf, -1, 1), params)
    policy = js.a_min_network(params)
    view, running = shown(jnp.asarray(policy.params), np.int32)
    soft_view, soft_running = shown(jax.tree.map(jnp.asarray, params), np.float32)
    hard, soft = policy.estimate(view), A_MIN_NETWORK.estimate(soft_view)
    for count in range(2):
        for key, soft_key in (
            (policy.admission_key(hard, view), A_MIN_NETWORK.admission_key(soft, soft_view)),
            (policy.eviction_key(hard, running), A_MIN_NETWORK.eviction_key(soft, soft_running)),
        ):
            np.testing.assert_allclose(np.asarray(key) / 2**24, soft_key / 1024, atol=0.05)
        reserve = np.maximum(A_MIN_NETWORK.reserve(soft, soft_view), 1)
        np.testing.assert_allclose(policy.reserve(hard, view), reserve, rtol=0.03, atol=1)
        assert np.all(hard >> 28 == count) and np.allclose(soft.evictions, count)
        hard, soft = policy.refine(hard, running), A_MIN_NETWORK.refine(soft, soft_running)
        np.testing.assert_allclose(hard & (2**28 - 1), soft.estimate, rtol=0.03, atol=1)
