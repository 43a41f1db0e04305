"""The network around A_min: A_min itself at weights of 0, and every engine alike at all others."""

from __future__ import annotations

import dataclasses
import importlib.util
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsched as js
from jaxsched.policies.network import (
    EVICT,
    PROGRESS,
    SHAPES,
    WEIGHTS,
    WIDEST,
    _net,
    quantize,
    unrounded,
)
from jaxsched.testing import KINDS, check_result, contract
from jaxsched.testing.choices import check_choices
from tests import oracle

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
        check_result(one, own, oracle.a_min_network(fixed[lane].tolist()), max_rounds=2_000)
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
    check_result(plain, own, oracle.a_min(), max_rounds=2_000)
    assert np.sum(own.evictions) > 50


@pytest.mark.parametrize("memory", [50, 2_001, 2**28])
def test_keys_keep_the_order_of_estimates(memory):
    """At weights of 0 no two estimates tie that differ, and none that are equal come apart."""
    rng = np.random.default_rng(1)
    estimate = np.sort(np.concatenate([np.arange(1, 5_000), rng.integers(1, 2**24, 5_000)]))
    policy, same = js.a_min_network(), np.diff(estimate) == 0
    r = record(policy, rng.integers(1, memory, len(estimate)), estimate, memory=memory)
    for name in ("admission_key", "eviction_key"):
        key = asked(policy, name, r)
        assert np.array_equal(np.diff(key) == 0, same) and np.all(np.diff(key) >= 0)
    assert np.array_equal(asked(policy, "reserve", r), estimate)
    assert np.array_equal(asked(policy, "refine", r), estimate)


def record(policy, prompt, estimate, generated=0, evictions=0, memory=9_000):
    """What a policy sees of some requests, int64."""
    zeros = np.zeros_like(prompt)
    values = np.int64([prompt, estimate, zeros + generated, zeros + evictions])
    prompt, estimate, generated, evictions = values
    return js.View(
        prompt, *[estimate] * 4, np.zeros_like(prompt), np.int64(memory), estimate=estimate,
        generated=generated, evictions=evictions, params=np.asarray(policy.params, np.int64),
    )  # fmt: skip


def asked(policy, name, r):
    with jax.enable_x64(True):
        return np.asarray(getattr(policy, name)(as_jax(r)))


def as_jax(r):
    return dataclasses.replace(r, **{k: jnp.asarray(v) for k, v in vars(r).items()})


def test_estimates_only_grow():
    rng = np.random.default_rng(2)
    policy = js.a_min_network(one_of(random_weights(rng, 8), 3))
    estimate = np.arange(1, 200)
    generated = 5 * estimate
    for evictions in range(8):
        r = record(policy, np.full(199, 10), estimate, generated, evictions, memory=5_000)
        before, estimate = estimate, asked(policy, "refine", r)
        assert np.all(estimate >= np.maximum(before, generated)) and estimate.max() < 2**28


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
    tokens = np.arange(3_000)
    for lane in range(40):
        policy = js.a_min_network(one_of(random_weights(rng, 40), lane))
        same = np.full_like(tokens, rng.integers(1, 1_000))
        r = record(policy, same, same, tokens)
        assert np.all(np.diff(asked(policy, "eviction_key", r)) >= 0)


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
    with pytest.raises(ValueError, match=f"{name} is or holds NaN; expected numbers"):
        js.a_min_network(js.NetworkParams(**{name: values}))


def test_units_that_lead_nowhere_change_nothing():
    """There may be more units than 12; the exact and the soft choices follow the weights."""
    params = one_of(random_weights(np.random.default_rng(12), 2), 1)
    more = np.ones((len(params.output), 5, params.hidden.shape[-1]), np.float32)
    wide = js.NetworkParams(
        linear=params.linear,
        hidden=np.concatenate([params.hidden, more], axis=1),
        output=np.pad(params.output, ((0, 0), (0, 5))),
    )
    assert quantize(wide).shape == (WEIGHTS + 4 * 5 * 7,)
    instance = draw("wide", 13, False)
    found = [js.simulate(instance, js.a_min_network(own)) for own in (params, wide)]
    assert np.array_equal(found[0].completion, found[1].completion)
    rng = np.random.default_rng(13)
    prompt, estimate, tokens = rng.integers(1, 2_000, (3, 50))
    r = record(js.a_min_network(), prompt, estimate, tokens, evictions=1)
    floats = {k: jnp.asarray(v, jnp.float32) for k, v in vars(r).items()}
    nets = [_net(EVICT, js.View(**floats | {"params": unrounded(own)})) for own in (params, wide)]
    np.testing.assert_allclose(*nets, rtol=1e-5, atol=1)
    assert np.ptp(nets[0]) > 1


def test_members_share_a_program():
    one, other = (js.a_min_network(one_of(random_weights(np.random.default_rng(7), 2), i))
                  for i in (0, 1))  # fmt: skip
    assert one.kind == other.kind == js.a_min_network().kind != js.a_min_family().kind


@pytest.mark.parametrize("lane", range(3))
def test_soft_and_hard_choices_agree_up_to_rounding(lane):
    """Over two evictions, so that what a request carries is compared as well."""
    rng = np.random.default_rng(9)
    prompt, lower, tokens = rng.integers(1, 2_000, (3, 400))
    params = one_of(random_weights(np.random.default_rng(10 + lane), 1), 0)
    params = jax.tree.map(lambda leaf: np.clip(leaf, -1, 1), params)
    policy, weights = js.a_min_network(params), unrounded(params)
    hard, soft = lower, np.float32(lower)
    for evictions in range(2):
        r = record(policy, prompt, hard, tokens, evictions)
        floats = {k: np.float32(v) for k, v in vars(r).items()}
        s = as_jax(js.View(**floats | {"estimate": soft, "params": weights}))
        for name in ("admission_key", "eviction_key"):
            key = asked(policy, name, r)
            np.testing.assert_allclose(key / 2**24, getattr(policy, name)(s) / 2**24, atol=0.05)
        reserve = np.maximum(policy.reserve(s), 1)
        np.testing.assert_allclose(np.maximum(asked(policy, "reserve", r), 1), reserve,
                                   rtol=0.03, atol=1)  # fmt: skip
        hard, soft = asked(policy, "refine", r), np.asarray(policy.refine(s))
        np.testing.assert_allclose(hard, soft, rtol=0.03, atol=1)


def test_soft_nets_are_the_same_as_weight_by_weight():
    """With their derivatives; a list of weights is not taken for matrices."""
    rng = np.random.default_rng(11)
    prompt, estimate, tokens = rng.integers(1, 2_000, (3, 50))
    weights = unrounded(one_of(random_weights(rng, 8), 1))
    r = record(js.a_min_network(), prompt, estimate, tokens, evictions=2)

    def total(weights, kind):
        floats = {k: jnp.asarray(v, float) for k, v in vars(r).items()}
        net = _net(EVICT, js.View(**floats | {"params": kind(weights)}))
        return jnp.sum(net * factor), net

    with jax.enable_x64(True):
        factor, weights = jnp.asarray(rng.normal(size=50)), jnp.asarray(weights, float)
        one, other = (jax.grad(total, has_aux=True)(weights, kind) for kind in (jnp.asarray, list))
    assert np.any(np.asarray(one[0]) != 0)
    for products, sums in zip(one, other, strict=True):
        np.testing.assert_allclose(products, sums, rtol=1e-9, atol=1e-9)
