"""`simulate` as callers use it: jit, vmap, devices, dtypes, padding, limits, and its refusals."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import logging
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsched as js
from jaxsched.arrays import unpaired
from jaxsched.instance import MAX_MEMORY, MAX_ROUND
from jaxsched.testing import KINDS, random_requests
from jaxsched.testing.contract import WIDTH, batch

NATIVE = importlib.util.find_spec("numba") is not None
needs_native = pytest.mark.skipif(not NATIVE, reason="numba is not installed")
ENGINES = ["jax", pytest.param("native", marks=needs_native)]
LANES = 15  # no multiple of the two devices
POLICY = js.a_min()


def simulate(instance, engine="jax", policy=POLICY, **options):
    return js.simulate(instance, policy, engine=engine, **options)


def take(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def expect_same(one, other):
    """Equal in every field, on whatever device, whether 64 bits are in pairs or not."""
    for field in vars(one):
        a, b = (getattr(result, field) for result in (one, other))
        np.testing.assert_array_equal(*((a, b) if a is None else (unpaired(a), unpaired(b))), field)


@contextlib.contextmanager
def compiles_nothing(caplog):
    def compilations():
        return [message for message in caplog.messages if "Finished XLA compilation" in message]

    with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
        yield
        assert not compilations()
        jax.jit(lambda x: x + 1)(1)  # the log would have told
        assert compilations()


@pytest.fixture(scope="module", autouse=True)
def compile_quickly():
    """What XLA makes of the engine is for test_engine; here many programs run once each."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def instance():
    rng = random.Random(0)
    kinds = list(KINDS)
    drawn = [random_requests(rng, kinds[i % len(kinds)]) for i in range(LANES)]
    return batch(drawn, arrivals=True)


@pytest.fixture(scope="module")
def traced(instance):
    return jax.tree.map(jnp.asarray, instance)


@pytest.fixture(scope="module")
def found(instance):
    """What the calls below must give, too: one plain call, on two devices."""
    assert len(jax.local_devices()) == 2
    return jax.tree.map(np.asarray, simulate(instance))


@pytest.fixture(scope="module")
def in_jit():
    """The same inside a caller's jit, on one device; refuses to be traced twice."""

    def on_jax(one):
        return simulate(one, "jax")

    def on_native(one):
        return simulate(one, "native")

    once = [jax.jit(chex.assert_max_traces(call, n=1)) for call in (on_jax, on_native)]
    return dict(zip(("jax", "native"), once, strict=True))


@pytest.fixture(scope="module")
def in_nested_vmap():
    def totals(engine, one):
        result = simulate(one, engine)
        return result, result.total_latency, result.mean_latency

    calls = {name: functools.partial(totals, name) for name in ("jax", "native")}
    return {name: jax.jit(jax.vmap(jax.vmap(call))) for name, call in calls.items()}


def squared(tree):
    return jax.tree.map(lambda leaf: leaf.reshape(3, 5, *leaf.shape[1:]), tree)


def flattened(tree):
    return jax.tree.map(lambda leaf: leaf.reshape(LANES, *leaf.shape[2:]), tree)


# ---- inside the caller's transformations


@pytest.mark.parametrize("engine", ENGINES)
def test_inside_jit(engine, in_jit, traced, found):
    result = in_jit[engine](traced)
    expect_same(result, found)
    for name in ("total_latency", "wasted_tokens", "memory_time", "mean_latency"):
        value = getattr(result, name)
        assert isinstance(value, np.ndarray) and value.shape == (LANES,)
        np.testing.assert_array_equal(value, getattr(found, name))
    more = traced.replace(memory=traced.memory + 1)
    expect_same(in_jit[engine](more), simulate(more))


@pytest.mark.parametrize("engine", ENGINES)
def test_inside_vmap(engine, traced, found):
    expect_same(jax.vmap(lambda one: simulate(one, engine))(traced), found)


def test_vmap_alone_compiles_once(traced, caplog):
    """Outside jit, too, where JAX by itself would compile loop by loop at every call."""
    jax.vmap(simulate)(traced)
    more = traced.replace(memory=traced.memory + 1)
    with compiles_nothing(caplog):
        jax.vmap(simulate)(more)


@pytest.mark.parametrize("engine", ENGINES)
def test_inside_nested_vmap_and_jit(engine, in_nested_vmap, traced, found):
    result, total, mean = in_nested_vmap[engine](squared(traced))
    expect_same(flattened(result), found)
    assert total.dtype == np.int64 and mean.dtype == np.float32
    np.testing.assert_array_equal(total.reshape(-1), found.total_latency)
    np.testing.assert_allclose(mean.reshape(-1), found.mean_latency, rtol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_totals_inside_jit_pass_32_bits(engine, in_nested_vmap):
    """Seven requests, each of which fills the memory, one after another."""
    ones = np.ones((LANES, WIDTH), np.int32)
    huge = js.Instance(
        prompt=ones, output=2**27 * ones, lower=2**27 * ones, upper=2**27 * ones, arrival=0 * ones,
        point=ones, memory=np.full(LANES, 2**27 + 1), num_requests=np.full(LANES, 7),
    )  # fmt: skip
    _, total, mean = in_nested_vmap[engine](squared(huge))
    assert total.tolist() == [[28 * 2**27] * 5] * 3
    np.testing.assert_allclose(mean, 4 * 2**27)


@pytest.mark.parametrize("engine", ENGINES)
def test_vmap_over_one_field(engine, instance, traced, found):
    """A sweep over the memory of one instance, the rest of which is not batched."""
    one = take(traced, 3)
    memory = one.memory + jnp.arange(LANES, dtype=jnp.int32)
    sweep = jax.vmap(lambda memory: simulate(one.replace(memory=memory), engine))(memory)
    copies = jax.tree.map(lambda leaf: np.repeat(leaf[3:4], LANES, axis=0), instance)
    expect_same(sweep, simulate(copies.replace(memory=np.asarray(memory))))


# ---- lanes


@pytest.mark.parametrize("engine", ENGINES)
def test_an_instance_without_lanes(engine, instance, found):
    one = take(instance, 3)
    result = simulate(one, engine)
    assert result.completion.shape == (WIDTH,) and np.shape(result.status) == ()
    expect_same(result, take(found, 3))
    assert isinstance(result.total_latency, np.int64)


@pytest.mark.parametrize("engine", ENGINES)
def test_lane_axes_come_back(engine, instance, found):
    result = simulate(squared(instance), engine)
    assert result.completion.shape == (3, 5, WIDTH) and result.total_latency.shape == (3, 5)
    expect_same(flattened(result), found)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_memory_for_all_lanes(engine, instance):
    largest = int(instance.memory.max())
    one = simulate(instance.replace(memory=largest), engine)
    expect_same(one, simulate(instance.replace(memory=np.full(LANES, largest)), engine))


@pytest.mark.parametrize("engine", ENGINES)
def test_neighbors_and_order_do_not_matter(engine, instance, found):
    order = np.random.default_rng(0).permutation(LANES)
    expect_same(simulate(take(instance, order), engine), take(found, order))
    alone = np.where(np.arange(LANES) == 4, instance.num_requests, 0)
    result = simulate(instance.replace(num_requests=alone), engine)
    expect_same(take(jax.tree.map(np.asarray, result), 4), take(found, 4))


@pytest.mark.parametrize("engine", ENGINES)
def test_padding_is_never_read(engine, instance, found):
    real = np.arange(WIDTH) < instance.num_requests[:, None]
    garbage = {
        name: np.where(real, getattr(instance, name), value)
        for name, value in (("prompt", -7), ("output", 2**31 - 1), ("lower", 9), ("upper", 0),
                            ("arrival", -1), ("point", -(2**31)))
    }  # fmt: skip
    result = simulate(instance.replace(**garbage), engine)
    expect_same(result, found)
    completion = np.asarray(result.completion)
    assert (completion[~real] == -1).all() and (completion[real] > 0).all()
    assert (np.asarray(result.first_token)[~real] == -1).all()
    assert (np.asarray(result.preemptions)[~real] == 0).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_lanes_without_requests_are_finished(engine, instance):
    result = simulate(instance.replace(num_requests=np.zeros(LANES, np.int32)), engine)
    assert (np.asarray(result.status) == js.Status.FINISHED).all()
    assert (np.asarray(result.completion) == -1).all()
    for name in ("total_latency", "wasted_tokens", "memory_time", "mean_latency", "rounds"):
        assert (np.asarray(getattr(result, name)) == 0).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_stacked_instances_of_different_n(engine, instance, found):
    lanes = [take(instance, i) for i in range(LANES)]
    cut = [
        jax.tree.map(lambda leaf, k=int(lane.num_requests): leaf[:k] if leaf.ndim else leaf, lane)
        for lane in lanes
    ]
    cut = [lane.replace(num_requests=None) for lane in cut] + [take(instance, 0)]
    stacked = take(js.stack(cut), slice(LANES))
    assert stacked.prompt.shape == (LANES, WIDTH)
    expect_same(simulate(stacked, engine), found)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_round_limit_is_told_from_the_end(engine, instance, found):
    limit = int(np.sort(found.rounds)[LANES // 2])
    result = simulate(instance, engine, max_rounds=np.int64(limit))
    cut = found.rounds > limit
    assert 0 < cut.sum() < LANES
    np.testing.assert_array_equal(
        np.asarray(result.status), np.where(cut, js.Status.ROUND_LIMIT, js.Status.FINISHED)
    )
    kept = np.where(found.completion <= limit, found.completion, -1)
    np.testing.assert_array_equal(np.asarray(result.completion), kept)
    assert (np.asarray(result.peak_memory) <= found.peak_memory).all()
    done = np.where(kept >= 0, kept - instance.arrival, 0).sum(axis=1)
    np.testing.assert_array_equal(result.total_latency, done)


# ---- what goes in


DTYPES = [np.int8, np.uint8, np.int16, np.uint16, np.uint32, np.int64, np.uint64, "list", "jax"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("engine", ENGINES)
def test_results_do_not_depend_on_dtypes(engine, dtype, instance):
    small = instance.replace(arrival=instance.arrival % 100, upper=instance.lower + 5)
    small = jax.tree.map(lambda leaf: leaf[np.array([0, 3, 9] * 5)], small)
    assert small.memory.max() < 128 and small.output.max() < 128

    def convert(leaf):
        if dtype == "list":
            return leaf.tolist()
        return jnp.asarray(leaf) if dtype == "jax" else leaf.astype(dtype)

    other = js.Instance(**{name: convert(leaf) for name, leaf in vars(small).items()})
    expect_same(simulate(other, engine), simulate(small, engine))


def test_one_device_of_a_cpu_shares_its_lanes_between_cores(instance, found, monkeypatch):
    module, one, threads = sys.modules["jaxsched.simulate"], jax.local_devices()[:1], []

    def executor(count):
        threads.append(count)
        return ThreadPoolExecutor(count)

    monkeypatch.setattr(jax, "local_devices", lambda: one)
    monkeypatch.setattr(module, "cores", lambda: 2)
    monkeypatch.setattr(module, "THREAD_LANES", 5)
    monkeypatch.setattr(module, "ThreadPoolExecutor", executor)
    expect_same(simulate(instance), found)
    assert threads == [2]


def test_compiles_once_per_shape_and_policy(instance, found, caplog):
    """Other values, an equal policy made anew, other dtypes and another limit: one program."""
    backwards = slice(None, None, -1)
    with compiles_nothing(caplog):
        result = simulate(take(instance, backwards), policy=js.policy("a_min"))
        expect_same(result, take(found, backwards))
        wide = jax.tree.map(lambda leaf: leaf.astype(np.int64), instance)
        simulate(wide.replace(memory=2 * wide.memory), policy=js.a_min(refine="on_eviction"))
        simulate(instance, max_rounds=1_000)


# ---- what is refused


def rounds_floats(r):
    return jnp.floor(jnp.float64(r.upper) * jnp.float64(0.5)).astype(jnp.int64) + 1


def upper_first():
    return dataclasses.replace(js.a_min(), name="own", estimate=rounds_floats)


@needs_native
def test_auto_takes_the_native_engine_where_it_can(instance, found):
    result = simulate(instance, "auto")
    assert isinstance(result.completion, np.ndarray)
    expect_same(result, found)


@pytest.fixture
def nothing_runs(monkeypatch):
    """Fails if anything is compiled or simulated."""

    def never(*args):
        raise AssertionError("an engine was called")

    monkeypatch.setattr(importlib.import_module("jaxsched.simulate"), "_runner", never)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (dict(prompt=0), ValueError, "lane 2, request 1: prompt is 0; expected 1 to 2147483646"),
        (dict(output=-3), ValueError, "lane 2, request 1: output is -3; expected 1 to 2147483646"),
        (dict(lower=0), ValueError, "lane 2, request 1: lower is 0; expected 1 to"),
        (dict(lower=99, upper=98), ValueError,
         "lane 2, request 1: lower is 99; expected at most upper = 98"),
        (dict(upper=2**31 - 1), ValueError,
         "lane 2, request 1: upper is 2147483647; expected 1 to 2147483646"),
        (dict(point=0), ValueError, "lane 2, request 1: point is 0; expected 1 to"),
        (dict(arrival=-1), ValueError,
         "lane 2, request 1: arrival is -1; expected 0 to 1073741823"),
        (dict(arrival=MAX_ROUND + 1), ValueError,
         "lane 2, request 1: arrival is 1073741824; expected 0 to 1073741823"),
        (dict(prompt=70, output=31, memory=100), ValueError,
         "lane 2, request 1: prompt + output is 101; expected at most memory = 100, or this "
         "request can never finish"),
        (dict(memory=0), ValueError, "lane 2, memory is 0; expected 1 to 268435456"),
        (dict(memory=MAX_MEMORY + 1), ValueError, "lane 2, memory is 268435457; expected 1 to"),
        (dict(num_requests=-1), ValueError, "lane 2, num_requests is -1; expected 0 to 40"),
        (dict(num_requests=41), ValueError, "lane 2, num_requests is 41; expected 0 to 40"),
        (dict(prompt=float("nan")), TypeError,
         "prompt: got dtype float64 (lane 2, request 1: nan); expected integers"),
        (dict(output=1.5), TypeError,
         "output: got dtype float64 (lane 2, request 1: 1.5); expected integers"),
        (dict(memory=np.inf), TypeError, "memory: got dtype float64 (lane 2, inf); expected"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("engine", ENGINES)
def test_wrong_values_outside_jit(engine, change, error, text, instance, nothing_runs):
    fields = {}
    for name, value in change.items():
        array = getattr(instance, name)
        array = array.astype(np.float64 if isinstance(value, float) else np.int64)
        array[(2,) if array.ndim == 1 else (2, 1)] = value
        fields[name] = array
    with pytest.raises(error) as caught:
        simulate(instance.replace(**fields), engine)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (dict(prompt=3), ValueError, "prompt: got shape []; expected [..., n] with no axis of"),
        (dict(prompt=np.ones((15, 0), int)), ValueError, "prompt: got shape [15, 0]; expected"),
        (dict(output=np.ones((15, 39), int)), ValueError,
         "output: got shape [15, 39]; expected [15, 40], as prompt has"),
        (dict(lower=np.ones(40, int)), ValueError, "lower: got shape [40]; expected [15, 40]"),
        (dict(upper=None), ValueError, "upper: missing; expected integers"),
        (dict(memory=None), ValueError, "memory: missing; expected integers"),
        (dict(memory=np.ones(14, int)), ValueError,
         "memory: got shape [14]; expected [] or [15], as prompt has"),
        (dict(num_requests=np.ones((15, 1), int)), ValueError,
         "num_requests: got shape [15, 1]; expected [] or [15]"),
        (dict(prompt=np.ones((15, 40), bool)), TypeError, "prompt: got dtype bool; expected"),
        (dict(arrival=np.ones((15, 40), np.float32)), TypeError,
         "arrival: got dtype float32; expected integers"),
        (dict(num_requests=True), TypeError, "num_requests: got dtype bool; expected integers"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("inside", [False, True])
def test_wrong_shapes_and_dtypes_anywhere(inside, change, error, text, instance, nothing_runs):
    """Shapes and dtypes are known inside `jit`, too, so they are refused there as well."""
    bad = instance.replace(**change)
    with pytest.raises(error) as caught:
        if inside:
            jax.jit(simulate).trace(jax.tree.map(jnp.asarray, bad))
        else:
            simulate(bad)
    assert text in str(caught.value)


def test_text_is_refused(instance, nothing_runs):
    with pytest.raises(TypeError, match="memory: got dtype <U1; expected integers"):
        simulate(instance.replace(memory=np.full(LANES, "9")))


FAULTS = [
    dict(prompt=0),
    dict(output=0),
    dict(lower=0),
    dict(lower=99, upper=98),
    dict(upper=2**31 - 1),
    dict(point=-1),
    dict(arrival=-1),
    dict(arrival=MAX_ROUND + 1),
    dict(memory=3, output=3),
    dict(output=2**31 - 1),
    dict(memory=MAX_MEMORY + 1),
    dict(num_requests=-1),
    dict(num_requests=41),
]


def faulty(instance):
    """One fault in each lane; the last two lanes stay as they are."""
    fields = {name: leaf.copy() for name, leaf in vars(instance).items()}
    for lane, fault in enumerate(FAULTS):
        for name, value in fault.items():
            fields[name][(lane,) if fields[name].ndim == 1 else (lane, 0)] = value
    return js.Instance(**fields)


@pytest.mark.parametrize("engine", ENGINES)
def test_wrong_values_inside_jit_leave_the_other_lanes_right(engine, in_jit, instance, found):
    assert len(FAULTS) == LANES - 2
    result = in_jit[engine](jax.tree.map(jnp.asarray, faulty(instance)))
    assert result.status[:-2].tolist() == [js.Status.INVALID] * len(FAULTS)
    assert (result.completion[:-2] == -1).all() and (result.first_token[:-2] == -1).all()
    assert (result.total_latency[:-2] == 0).all() and (result.peak_memory[:-2] == 0).all()
    right = slice(LANES - 2, None)
    expect_same(take(result, right), take(found, right))


@pytest.mark.parametrize("engine", ENGINES)
def test_with_64_bits_switched_on_no_value_wraps_into_a_right_one(engine, instance, found):
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.int64), instance)
        prompt = wide.prompt.at[0, 0].add(2**32)
        arrival = wide.arrival.at[1, 0].add(2**32)
        memory = wide.memory.at[2].add(2**32)
        wide = wide.replace(prompt=prompt, arrival=arrival, memory=memory)
        result = jax.jit(lambda one: simulate(one, engine))(wide)
    assert result.status[:3].tolist() == [js.Status.INVALID] * 3
    expect_same(take(result, slice(3, None)), take(found, slice(3, None)))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_missing_point_prediction(engine, instance, nothing_runs):
    text = r"point: missing; this policy needs a point prediction of shape \[\.\.\., n\]"
    for run in (simulate, jax.jit(simulate, static_argnames=("engine", "policy"))):
        with pytest.raises(ValueError, match=text):
            run(instance.replace(point=None), engine=engine, policy=js.mc_sf())


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (dict(max_rounds=0), ValueError, "max_rounds is 0; expected 1 to 1073741823"),
        (dict(max_rounds=2**30), ValueError, "max_rounds is 1073741824; expected 1 to 1073741823"),
        (dict(max_rounds=1e3), TypeError, "max_rounds is 1000.0; expected an integer"),
        (dict(max_rounds=True), TypeError, "max_rounds is True; expected an integer"),
        (dict(max_rounds=None), TypeError, "max_rounds is None; expected an integer"),
        (dict(max_batch=0), ValueError, "max_batch is 0; expected 1 to"),
        (dict(max_batch=2.0), TypeError, "max_batch is 2.0; expected an integer"),
        (dict(engine="numba"), ValueError,
         "engine is 'numba'; expected one of auto, jax, native"),
        (dict(engine=None), ValueError, "engine is None; expected one of auto, jax, native"),
        (dict(engine="jax", plan={"lanes": 3}), ValueError, "plan has 'lanes'; expected some of"),
        (dict(engine="jax", plan="pool"), TypeError, "plan is 'pool'; expected names and sizes"),
        (dict(engine="native", plan={"pool": 3}), ValueError, "plan: only engine=\"jax\" has one"),
        (dict(policy="a_min"), TypeError,
         "policy is 'a_min'; expected a Policy such as jaxsched.a_min()"),
        (dict(policy=js.a_min), TypeError, "expected a Policy such as jaxsched.a_min()"),
        (dict(policy=upper_first(), engine="native"), ValueError,
         "engine \"native\" cannot compile the policy 'own': estimate computes in float"),
    ],
)  # fmt: skip
def test_wrong_arguments(options, error, text, instance, nothing_runs):
    with pytest.raises(error) as caught:
        simulate(instance, **options)
    assert text in str(caught.value)


def test_the_arguments_in_the_wrong_order(instance, nothing_runs):
    with pytest.raises(TypeError, match="instance is Policy.*; expected an Instance"):
        js.simulate(POLICY, instance)


@needs_native
def test_a_changed_policy_is_not_mistaken_for_the_shipped_one(instance):
    """The same name is not enough."""
    changed = dataclasses.replace(js.a_min(), estimate=js.a_max().estimate)
    expect_same(simulate(instance, "native", changed), simulate(instance, "native", js.a_max()))


@needs_native
def test_auto_says_once_why_it_takes_the_jax_engine(instance):
    text = "policy 'own' runs on the JAX engine: estimate computes in float"
    with pytest.warns(UserWarning, match=text) as told:
        one, other = (simulate(instance, "auto", upper_first()) for _ in range(2))
    assert len([each for each in told if "JAX engine" in str(each.message)]) == 1
    assert isinstance(one.completion, jax.Array)
    expect_same(one, other)


def test_results_are_values():
    fields = {field.name for field in dataclasses.fields(js.Result)}
    assert fields >= {"completion", "evictions", "peak_memory", "rounds", "status"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        js.Instance(prompt=1, output=1, lower=1, upper=1, memory=2).memory = 3


@needs_native
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux's affinity")
def test_the_native_engine_under_jit_does_not_wait_for_itself_on_one_core() -> None:
    # Arguments of more than 100 KiB are copied by XLA's own threads.
    program = """if True:
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        import jax, numpy as np, jaxsched as js
        fives = np.full((64, 2000), 5)
        instance = js.Instance(prompt=fives, output=fives, lower=fives, upper=fives, memory=16_492)
        total = jax.jit(lambda instance: js.simulate(instance, js.h_sf()).rounds)
        for _ in range(10):
            jax.block_until_ready(total(instance))
    """
    environment = {name: v for name, v in os.environ.items() if name != "PJRT_NPROC"}
    subprocess.run([sys.executable, "-c", program], env=environment, timeout=120, check=True)
