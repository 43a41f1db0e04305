"""The relaxation: its derivatives against differences, its limit, and its exact path."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsched as js
from jaxsched import workloads
from jaxsched.engines.soft import (
    SoftResult,
    Timeline,
    event_timeline,
    exact_timeline,
    soft_simulate,
    uniform_timeline,
)
from jaxsched.engines.soft.order import descending
from jaxsched.engines.soft.simulate import _side_by_side
from jaxsched.engines.soft.threshold import BEYOND, bracket, cumulative, implicit, root, share
from jaxsched.machine.optional import can_import
from jaxsched.policies import Policy
from jaxsched.policies.arithmetic import log2, most
from jaxsched.policies.family import NUMBERS

INSIDE = js.FamilyParams(
    start=0.2, admit_prompt=0.2, admit_area=0.2, reserve_factor=1.2, reserve_floor=20.0,
    evict_estimate=0.5, evict_progress=0.3, evict_prompt=0.1, run_growth=0.8, evict_growth=0.2,
    progress=0.3,
)  # fmt: skip
"""At no kink of the family, with evictions."""

FIELDS = [name for name in NUMBERS if name not in ("age", "progress")]
"""Numbers to differentiate by: an age of 0 is a kink, another order from there on; and on the
papers' worker who waits has no progress."""

LANES, N, STEPS = 3, 20, 24

needs_sorting = pytest.mark.skipif(
    not can_import("jaxsched.engines.soft.sorting") or jax.default_backend() != "cpu",
    reason="numba sorts, on a CPU",
)


def backlogs(n: int = N, memory: int = 500, lanes: int = LANES) -> js.Instance:
    """With all fields given, so that every case is of one structure."""
    drawn = workloads.make(
        jax.random.key(1),
        lengths=workloads.lengths.independent((1, 60), (1, 120)),
        intervals=workloads.intervals.relative(0.5),
        n=n,
        memory=np.full(lanes, memory),
        lanes=lanes,
    )
    return drawn.replace(arrival=np.zeros((lanes, n), np.int32), num_requests=np.full(lanes, n))


def awkward() -> js.Instance:
    """Arrivals, padding, and outputs outside their intervals on both sides."""
    instance, rng = backlogs(), np.random.default_rng(2)
    lower = rng.integers(1, 90, (LANES, N), dtype=np.int32)
    return instance.replace(
        arrival=np.sort(rng.integers(0, 150, (LANES, N), dtype=np.int32)),
        num_requests=np.array([N, N - 4, 1]),
        lower=lower,
        upper=lower + rng.integers(0, 40, (LANES, N), dtype=np.int32),
    )


def certain() -> js.Instance:
    """Intervals of a point, and room for everybody: no number has any influence."""
    instance = backlogs(memory=100_000)
    return instance.replace(lower=instance.output, upper=instance.output)


CASES = {"backlogs": backlogs, "arrivals, padding, wrong intervals": awkward, "certain": certain}


def exact(instance: js.Instance, params: js.FamilyParams = INSIDE, **options: Any) -> js.Result:
    return js.simulate(instance, js.a_min_family(params), **options)


def mean_latency(
    params: js.FamilyParams,
    instance: js.Instance,
    temperature: jax.Array,
    timeline: Timeline,
    exact_gradient: bool = False,
) -> tuple[jax.Array, SoftResult]:
    """Sum of it over the lanes, and the whole result."""
    soft = soft_simulate(instance, params, temperature, timeline, exact_gradient=exact_gradient)
    return jnp.sum(soft.mean_latency), soft


FAST = {"xla_backend_optimization_level": 0}
"""Compiling takes longer than running."""

with_gradient = jax.jit(
    jax.value_and_grad(mean_latency, has_aux=True),
    static_argnames="exact_gradient",
    compiler_options=FAST,
)
forward = jax.jit(mean_latency, compiler_options=FAST)


def vector(params: js.FamilyParams) -> np.ndarray:
    return np.array([float(getattr(params, name)) for name in FIELDS])


def point(values: np.ndarray) -> js.FamilyParams:
    return js.FamilyParams(**{name: np.float64(x) for name, x in zip(FIELDS, values, strict=True)})


@functools.cache
def gradients(case: str, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """By differentiation, and by central differences of fourth order; in float64."""
    instance, step = CASES[case](), 1e-5
    timeline = event_timeline(exact(instance), STEPS)
    with jax.enable_x64(True):
        rest = instance, jnp.float64(temperature), timeline

        def latency(values: np.ndarray) -> float:
            return float(with_gradient(point(values), *rest, exact_gradient=True)[0][0])

        found = with_gradient(point(vector(INSIDE)), *rest, exact_gradient=True)[1]
        rows = [
            [latency(vector(INSIDE) + k * step * axis) for k in (-2, -1, 1, 2)]
            for axis in np.eye(len(FIELDS))
        ]
    return vector(found), np.array(rows) @ np.array([1, -8, 8, -1]) / (12 * step)


@pytest.mark.parametrize("temperature", [0.3, 1.0])
@pytest.mark.parametrize("case", ["backlogs", "arrivals, padding, wrong intervals"])
def test_gradient_is_that_of_central_differences(case: str, temperature: float) -> None:
    found, expected = gradients(case, temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(found).max())


def test_every_number_is_differentiated_somewhere() -> None:
    found = [gradients(case, 1.0)[0] for case in ("backlogs", "arrivals, padding, wrong intervals")]
    assert np.all(np.max(np.abs(found), axis=0) > 1e-4), dict(zip(FIELDS, found, strict=False))


def test_numbers_without_influence_have_no_gradient() -> None:
    found, expected = gradients("certain", 1.0)
    assert np.all(found == 0)
    assert np.all(np.abs(expected) < 1e-8)


@pytest.mark.parametrize(
    "rule",
    [INSIDE, js.FamilyParams(run_growth=1.0), js.FamilyParams(start=1.0, admit_prompt=0.7)],
    ids=["inside", "a_min:every_round", "nearly a_max"],
)
def test_tends_to_the_exact_simulator(rule: js.FamilyParams) -> None:
    instance = backlogs()
    expected = np.asarray(exact(instance, rule).mean_latency)
    timeline = uniform_timeline(np.full(LANES, 700), 700, margin=1.0)
    errors = []
    with jax.enable_x64(True):
        for temperature in (3.0, 0.1, 1e-6):
            _, soft = forward(rule, instance, jnp.float64(temperature), timeline)
            errors.append(np.abs(np.asarray(soft.mean_latency) / expected - 1).mean())
    assert np.all(np.asarray(soft.unfinished) < 1e-3)
    assert errors[2] < 0.03 and errors[2] < errors[1] / 2 and errors[1] < errors[0], errors


@pytest.mark.parametrize("case", ["backlogs", "arrivals, padding, wrong intervals"])
def test_straight_through_is_exact(case: str) -> None:
    instance = CASES[case]()
    result = exact(instance, history=True)
    (_, soft), gradient = with_gradient(
        INSIDE, instance, jnp.float32(0.3), exact_timeline(instance, result)
    )
    real = np.arange(N) < instance.num_requests[:, None]
    latency = np.where(real, np.asarray(result.completion) - instance.arrival, 0)
    np.testing.assert_array_equal(soft.latency, latency)
    np.testing.assert_array_equal(soft.evictions, result.evictions)
    np.testing.assert_array_equal(soft.unfinished, 0)
    assert np.sum(result.evictions) > 0
    assert np.all(np.isfinite(vector(gradient))) and float(gradient.admit_prompt) != 0


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize(
    "rule",
    [INSIDE, js.FamilyParams(), js.FamilyParams(run_growth=1.0)],
    ids=["inside", "a_min:on_eviction", "a_min:every_round"],
)
def test_damped_gradients_are_finite(rule: js.FamilyParams, temperature: float) -> None:
    instance = backlogs(256, 1000, 2)
    timeline = event_timeline(exact(instance, rule), 64)
    (_, soft), gradient = with_gradient(rule, instance, jnp.float32(temperature), timeline)
    assert np.all(np.isfinite(soft.latency)) and np.all(np.isfinite(vector(gradient)))
    # Latencies are of some hundred rounds.
    assert 0 < np.linalg.norm(vector(gradient)) < 1e6


def test_lanes_by_vmap_and_together_are_the_same() -> None:
    instance = backlogs()
    timeline = event_timeline(exact(instance), STEPS)

    def gradient(scale: jax.Array, instance: js.Instance, timeline: Timeline) -> js.FamilyParams:
        rule = jax.tree.map(lambda number: scale * number, INSIDE)
        latency = functools.partial(mean_latency, exact_gradient=True)
        return jax.grad(latency, has_aux=True)(rule, instance, scale, timeline)[0]

    lanes = jax.vmap(gradient, (None, 0, 0))
    both = jax.jit(jax.vmap(lanes, (0, None, None)), compiler_options=FAST)
    with jax.enable_x64(True):
        found = jax.tree.map(np.asarray, both(jnp.array([0.5, 1.0]), instance, timeline))
    together = gradients("backlogs", 1.0)[0]
    for name, expected in zip(FIELDS, together, strict=True):
        lane_by_lane = getattr(found, name)
        assert lane_by_lane.shape == (2, LANES)
        np.testing.assert_allclose(lane_by_lane[1].sum(), expected, rtol=1e-6, err_msg=name)
        if name != "evict_arrival":  # in a backlog all arrive alike
            assert abs(lane_by_lane[0].sum() / expected - 1) > 1e-3, name


@pytest.mark.parametrize("lanes", [(), (3,), (2, 12), (10,), (13,)])
def test_lanes_in_groups_are_in_their_order(lanes: tuple[int, ...]) -> None:
    left, right = np.arange(2 * np.prod(lanes, dtype=int) * 4).reshape(2, *lanes, 4)
    found = _side_by_side(lambda a, b: {"sum": jnp.sum(a * b)}, lanes, left, right)
    np.testing.assert_array_equal(found["sum"], np.sum(left * right, axis=-1))


def test_requests_alone() -> None:
    """One that finds the worker empty has its output as latency; padding has none."""
    instance = js.Instance(
        prompt=np.array([3, 3, 1]), output=np.array([5, 7, 1]), lower=np.array([5, 7, 1]),
        upper=np.array([5, 7, 1]), arrival=np.array([0, 10, 0]), memory=20, num_requests=2,
    )  # fmt: skip
    temperature = jnp.float32(0.1)
    timeline, short = (uniform_timeline(rounds, 20, margin=1.0) for rounds in (20, 12))
    _, soft = forward(js.FamilyParams(), instance, temperature, timeline)
    np.testing.assert_allclose(soft.latency, [5, 7, 0], atol=1e-3)
    np.testing.assert_allclose(soft.mean_latency, 6, atol=1e-3)
    np.testing.assert_allclose(soft.unfinished, 0, atol=1e-3)
    _, cut = forward(js.FamilyParams(), instance, temperature, short)
    np.testing.assert_allclose((cut.unfinished, cut.latency[1]), (1, 2), atol=1e-3)


def test_other_policies() -> None:
    """A policy with numbers is the family's if its choices are; only those given are looked at."""
    # Keys in sixteenths of a token, as the family's, for ties are settled below a step of them.
    policy = Policy(
        name="weighted",
        params=None,
        estimate=lambda r: r.lower,
        admission_key=lambda r: 16 * (r.estimate + r.params["prompt"] * r.prompt),
        reserve=lambda r: r.estimate,
        eviction_key=lambda r: 16 * r.estimate,
        refine=lambda r: most(r.estimate, r.generated),
    )
    instance = backlogs()
    timeline = event_timeline(exact(instance), STEPS)
    run = jax.jit(functools.partial(soft_simulate, policy=policy), compiler_options=FAST)
    found = run(instance, {"prompt": 0.5}, 1.0, timeline).latency
    rule = js.FamilyParams(admit_prompt=0.5)
    _, same = forward(rule, instance, jnp.float32(1.0), timeline)
    np.testing.assert_allclose(found, same.latency, rtol=1e-4)


@pytest.mark.parametrize("temperature", [1e-5, 0.01, 1.0])
def test_root_has_the_derivative_of_an_implicit_function(temperature: float) -> None:
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        key, weight = rng.standard_normal(50), rng.uniform(1, 9, 50)
        ends = bracket(key, weight, temperature)

        def z(amount: Any, guess: float = 0.0) -> jax.Array:
            fixed = key, weight, amount, temperature
            return implicit(root(*map(jax.lax.stop_gradient, fixed), ends, guess), *fixed)

        found = [z(100.0, guess) for guess in (0.0, 3.0, BEYOND)]
        for each in found:  # from wherever it begins
            share = jax.nn.sigmoid((each - key) / temperature)
            np.testing.assert_allclose(np.sum(weight * share), 100.0, rtol=1e-9)
        slope = jnp.sum(weight * share * (1 - share)) / temperature
        np.testing.assert_allclose(jax.grad(z)(100.0), 1 / slope, rtol=1e-6)
        for amount, beyond in ((-1.0, -BEYOND), (0.0, -BEYOND), (float(weight.sum()), BEYOND)):
            assert z(amount) == beyond and jax.grad(z)(amount) == 0


def test_steps_follow_the_events() -> None:
    """As many events in each step; none of length 0 for what starts at once, or for padding."""
    instance = backlogs(4, memory=100_000, lanes=2).replace(
        output=np.array([[10, 20, 30, 40], [10, 20, 99, 99]]), num_requests=np.array([4, 2])
    )
    timeline = event_timeline(exact(instance, js.FamilyParams()), 5, margin=2.0)
    np.testing.assert_array_equal(timeline.start, [[0, 10, 20, 30, 40], [0, 5, 10, 15, 20]])
    np.testing.assert_array_equal(timeline.length, [[10] * 4 + [40], [5] * 4 + [20]])


def test_one_request_at_the_threshold_waits_and_many_go_in_part() -> None:
    temperature = jnp.float32(1e-4)
    distance = jnp.full(200, -2 * temperature)
    one, many = (share(distance, jnp.ones(200) * mass, temperature) for mass in (1 / 200, 1))
    part = jax.nn.sigmoid(jnp.float32(-2))
    assert np.all(one < part**5)
    np.testing.assert_allclose(many, part, rtol=0.1)
    warm = jnp.float32(0.1)
    np.testing.assert_allclose(share(jnp.zeros(3), jnp.ones(3), warm), 0.5, rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.004, 0.3])  # sharpened, and not
def test_derivatives_of_shares(temperature: float) -> None:
    rng, step = np.random.default_rng(4), 1e-6 * temperature
    with jax.enable_x64(True):
        at = rng.normal(0, temperature, 20), rng.uniform(0, 1, 20), np.float64(temperature)
        weight = rng.uniform(1, 2, 20)

        def total(*at: Any) -> jax.Array:
            return jnp.sum(weight * share(*at))

        found = jax.grad(total, argnums=(0, 1, 2))(*at)
        for i, (value, slope) in enumerate(zip(at, found, strict=True)):
            for axis in np.eye(value.size).reshape(-1, *value.shape):
                up, down = (total(*at[:i], value + s * step * axis, *at[i + 1 :]) for s in (1, -1))
                expected = (up - down) / (2 * step)
                np.testing.assert_allclose(np.sum(slope * axis), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", [1, 31, 32, 100])
def test_running_sums(length: int) -> None:
    values = np.random.default_rng(0).random((2, length)).astype(np.float32)
    np.testing.assert_allclose(cumulative(values), np.cumsum(values, axis=1), rtol=1e-5)


@needs_sorting
@pytest.mark.parametrize("n", [1, 2, 3, 7, 100, 257])
@pytest.mark.parametrize("rows", [0, 1, 8, 13])
def test_rows_are_sorted(n: int, rows: int) -> None:
    """Of lengths that are no power of two, and rows that do not fill a vector; with ties."""
    from jaxsched.engines.soft import sorting  # noqa: PLC0415 - needs numba

    drawn = np.random.default_rng(n).integers(-(2**31), 2**31, (rows, n), dtype=np.int32)
    drawn[:, n // 2 :] %= 5
    for values in (drawn, np.sort(drawn)[:, ::-1].copy()):
        for sort in (sorting.sort, jax.vmap(sorting.sort)):
            np.testing.assert_array_equal(jax.jit(sort)(values), np.sort(values))


@needs_sorting
def test_ends_are_ordered_alike_by_xla_and_by_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = np.random.default_rng(0).choice([1.0, 3.5, 700.25, 1000.0], (5, 66)).astype(np.float32)
    ends[0] = np.random.default_rng(1).uniform(0, 1000, 66)
    expected = np.argsort(-ends, axis=-1, kind="stable")
    run = jax.vmap(descending)
    assert "jaxsched_sort" in jax.jit(run).lower(ends).as_text()
    np.testing.assert_array_equal(run(ends), expected)
    monkeypatch.setattr("jaxsched.engines.soft.order.can_import", lambda _: False)
    np.testing.assert_array_equal(run(ends), expected)
    with jax.enable_x64():
        np.testing.assert_array_equal(run(ends.astype(np.float64)), expected)


def test_logarithms_of_floats_are_those_of_whole_numbers() -> None:
    values = [1, 2, 3, 1023, 1024, 1025, 3 << 20, 2**31 - 1]
    with jax.enable_x64(True):
        found = np.asarray(log2(jnp.array(values, float), 20))
        for value, each in zip(values, found, strict=True):
            assert 0 <= each - log2(value, 20) < 1
        slope = jax.vmap(jax.grad(lambda value: log2(value, 0)))(jnp.array(values[1:], float))
    np.testing.assert_array_equal(slope, [0.5 ** (x.bit_length() - 1) for x in values[1:]])
    np.testing.assert_allclose(log2(jnp.array(values, np.float32), 20), found, rtol=1e-6)


def test_refusals() -> None:
    instance = backlogs()
    result = exact(instance)
    timeline = event_timeline(result, STEPS)
    with pytest.raises(ValueError, match=r"timeline has lanes \(2,\); expected \(3,\)"):
        soft_simulate(instance, INSIDE, 0.3, jax.tree.map(lambda leaf: leaf[:2], timeline))
    with pytest.raises(ValueError, match="history is None"):
        exact_timeline(instance, result)
    with pytest.raises(ValueError, match="ROUND_LIMIT; expected FINISHED"):
        event_timeline(exact(instance, max_rounds=5), STEPS)
    with pytest.raises(ValueError, match="steps is 1"):
        uniform_timeline(100, 1)
    with pytest.raises(ValueError, match="margin 0.5"):
        event_timeline(result, STEPS, margin=0.5)
    with pytest.raises(ValueError, match="output"):
        soft_simulate(instance.replace(output=instance.output[:, :2]), INSIDE, 0.3, timeline)
    with pytest.raises(TypeError, match="prompt"):
        soft_simulate(instance.replace(prompt=instance.prompt * 1.0), INSIDE, 0.3, timeline)
