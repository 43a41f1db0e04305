"""Engines under a serving clock, against the reference: rounds and picoseconds."""

from __future__ import annotations

import dataclasses
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsched as js
from jaxsched.clocks import ticks
from jaxsched.engines import reference
from jaxsched.instance import MAX_ROUND
from jaxsched.machine.optional import can_import
from jaxsched.testing import KINDS, as_arrays, check_result, random_requests, requests_of
from tests import oracle

WIDTH, LANES = 24, 28

ENGINES = ["jax", *(["native"] if can_import("jaxsched.engines.cpu") else [])]

POLICIES = {
    "h_sf": js.h_sf(),
    "a_min": js.a_min(),
    "every_round": js.a_min("every_round"),
    "mc_sf": js.mc_sf(),
    "fcfs": js.fcfs(),
    "watermark": js.fcfs(watermark=0.1),
    "svf": js.svf("lower"),
    "family": js.a_min_family(js.FamilyParams(admit_prompt=0.3, run_growth=0.5, evict_growth=0.2)),
}


def random_clock(rng: random.Random) -> js.Clock:
    """From rounds of a few picoseconds to seconds; coefficients may be 0."""
    unit = 10.0 ** rng.choice((-12, -9, -6, -4, -3, -1))
    few = lambda: rng.choice((0, 1, rng.randint(0, 50), rng.uniform(0, 9))) * unit  # noqa: E731
    return js.Clock(
        fixed=few() + unit, per_prompt_token=few() / 10, per_request=few() / 10,
        per_cache_token=few() / 30, per_token_beyond=few() / 5, free_tokens=rng.randint(0, 30),
    )  # fmt: skip


def live(rng: random.Random, clock: js.Clock) -> js.Instance:
    """Random instances of every kind, with arrivals at, before and after the starts of rounds."""
    kinds, drawn = list(KINDS), []
    while len(drawn) < LANES:
        requests, memory = random_requests(rng, kinds[len(drawn) % len(kinds)])
        if len(requests) <= WIDTH:
            drawn.append((requests, memory))
    arrays = as_arrays(drawn)
    spare = WIDTH - arrays["prompt"].shape[1]
    wide = {k: np.pad(v, ((0, 0), (0, spare))) if v.ndim == 2 else v for k, v in arrays.items()}
    round_ = int(ticks(clock).fixed) + 5 * int(ticks(clock).per_request)
    jitter = np.array([rng.choice((0, 0, 1, round_ // 3)) for _ in range(WIDTH)])
    due = wide["arrival"] * (rng.choice((0.5, 1.0)) * round_)
    wide["arrival"] = np.minimum(np.rint(due) + jitter, 4e18) / 1e12
    return js.Instance(**wide)


# On JAX a policy is two programs to compile: the family stands for those without arrivals.
@pytest.mark.parametrize(
    ("name", "engine"),
    [(name, engine) for engine in ENGINES for name in POLICIES
     if engine == "native" or name in ("a_min", "watermark", "family")],
)  # fmt: skip
def test_equals_the_reference(name: str, engine: str) -> None:
    policy, rng = POLICIES[name], random.Random(name)
    for i in range(6):
        clock = random_clock(rng)
        options = dict(max_rounds=rng.choice((MAX_ROUND, 30)), max_batch=rng.choice((2, 5, 40)))
        instance = live(rng, clock)
        result = js.simulate(instance, policy, clock=clock, engine=engine, **options)
        check_result(instance, result, oracle.rule_for(policy), clock=clock, **options)
        if i == 0 and (engine == "native" or name == "family"):
            backlog = instance.replace(arrival=None)
            result = js.simulate(backlog, policy, clock=clock, engine=engine, **options)
            check_result(backlog, result, oracle.rule_for(policy), clock=clock, **options)


@pytest.mark.parametrize("engine", ENGINES)
def test_history_lists_every_evicted_run(engine: str) -> None:
    rng, policy = random.Random(3), js.a_min()
    clock = random_clock(rng)
    instance = live(rng, clock)
    result = js.simulate(instance, policy, clock=clock, history=True, engine=engine)
    assert (np.asarray(result.history)[..., 0] >= 0).sum() == np.asarray(result.evictions).sum() > 9
    check_result(instance, result, oracle.rule_for(policy), clock=clock)


def test_a_million_rounds_do_not_drift() -> None:
    """10 ms a round, the case in which a float32 sum is off by 1.3e-2; rounds grow."""
    clock = js.Clock(fixed=0.01, per_request=1e-6, per_cache_token=1.7e-10)
    instance = js.Instance(
        prompt=np.ones((1, WIDTH), int), output=np.array([[1_000_000, 3] + [1] * (WIDTH - 2)]),
        lower=np.array([[1_000_000] + [3] * (WIDTH - 1)]), upper=np.full((1, WIDTH), 10**6),
        memory=2_000_000, arrival=np.zeros((1, WIDTH)), num_requests=np.array([2]),
        point=np.full((1, WIDTH), 10**6),
    )  # fmt: skip
    instance.arrival[0, 1] = 9_999.123_456_789_012
    results = [js.simulate(instance, js.a_min(), clock=clock, engine=name) for name in ENGINES]
    exact = reference.Clock(*(int(tick) for tick in ticks(clock)))
    outcome = reference.simulate(*requests_of(instance, 0), js_rule("a_min"), clock=exact)
    for result in results:
        assert result.ticks[0, :2, 0].tolist() == outcome.admission_time
        assert result.ticks[0, :2, 1].tolist() == outcome.first_token_time
        assert result.ticks[0, :2, 2].tolist() == outcome.completion_time
        end = outcome.completion_time[0] / 1e12
        assert abs(result.completion_seconds[0, 0] / end - 1) < 1e-15


def js_rule(name: str) -> js.Policy:
    return oracle.rule_for(POLICIES[name])


def test_arrivals_may_be_lists() -> None:
    lists = js.Instance(prompt=[2, 1], output=[4, 6], lower=[2, 1], upper=[9, 9], memory=9,
                        arrival=[0.5, 1.5])  # fmt: skip
    for engine in ENGINES:
        result = js.simulate(lists, js.fcfs(), clock=js.Clock(fixed=1.0), engine=engine)
        assert result.completion_seconds.tolist() == [4.5, 9.5]  # evicted at 3.5


@pytest.mark.parametrize("engine", ENGINES)
def test_the_clock_ends(engine: str) -> None:
    """Rounds of 12 days: the fifth starts after 46 days, and none after 53."""
    clock = js.Clock(fixed=10.0**6)
    instance = live(random.Random(5), js.Clock(fixed=10.0**6))
    result = js.simulate(instance, js.a_min(), clock=clock, engine=engine)
    assert (np.asarray(result.status) == js.Status.ROUND_LIMIT).any()
    check_result(instance, result, oracle.RULES["a_min:on_eviction"], clock=clock)


def test_traced_clocks_and_arrivals_run_as_lanes() -> None:
    rng = random.Random(9)
    instance = live(rng, js.Clock(fixed=0.5))
    exact = instance.replace(arrival=np.float32(instance.arrival))
    fixed = np.float32([0.25, 0.5, 2.0])
    run = lambda seconds: js.simulate(exact, js.a_min(), clock=js.Clock(fixed=seconds))  # noqa: E731
    many = jax.jit(jax.vmap(run))(jnp.asarray(fixed))
    for i, seconds in enumerate(fixed):
        alone = run(float(seconds))
        assert (many.ticks[i] == alone.ticks).all()
    traced = jax.jit(lambda instance: js.simulate(instance, js.a_min(), clock=js.Clock(0.5)))(exact)
    assert (traced.ticks == many.ticks[1]).all()
    assert traced.completion_seconds.dtype == np.float64


def test_bad_clocks_and_arrivals_inside_jit_mark_their_lanes() -> None:
    instance = live(random.Random(9), js.Clock(fixed=0.5))
    arrival = np.float32(instance.arrival)
    arrival[1, 0], arrival[2, 0], arrival[3, 0] = -1, np.nan, 1e9
    bad = jax.jit(lambda arrival: js.simulate(
        instance.replace(arrival=arrival), js.fcfs(), clock=js.Clock(0.5)
    ))(arrival)  # fmt: skip
    assert np.flatnonzero(bad.status == js.Status.INVALID).tolist() == [1, 2, 3]
    run = lambda fixed: js.simulate(instance, js.fcfs(), clock=js.Clock(fixed)).status  # noqa: E731
    assert (jax.jit(run)(-1.0) == js.Status.INVALID).all()
    assert (jax.jit(run)(1.0) == js.Status.FINISHED).all()


def test_refusals() -> None:
    instance = live(random.Random(9), js.Clock(fixed=0.5))
    whole = instance.replace(arrival=np.zeros((LANES, WIDTH), int))
    with pytest.raises(TypeError, match="arrival: got dtype int64; expected seconds"):
        js.simulate(whole, js.fcfs(), clock=js.Clock(1.0))
    with pytest.raises(TypeError, match="arrival: got dtype float64.*expected integers"):
        js.simulate(instance, js.fcfs())
    late = instance.replace(arrival=np.full((LANES, WIDTH), 5e6))
    with pytest.raises(ValueError, match=r"lane 0, request 0: arrival is 5000000.0; expected 0 to"):
        js.simulate(late, js.fcfs(), clock=js.Clock(1.0))
    with pytest.raises(ValueError, match="time would stand still"):
        js.simulate(instance, js.fcfs(), clock=js.Clock(0.0))
    with pytest.raises(TypeError, match="clock is 3; expected a Clock"):
        js.simulate(instance, js.fcfs(), clock=3)
    result = js.simulate(instance, js.fcfs(), clock=js.Clock(1.0))
    with pytest.raises(ValueError, match="total_latency: there is none under a clock"):
        result.total_latency  # noqa: B018
    with pytest.raises(ValueError, match="history: not inside jit"):
        jax.jit(lambda a: js.simulate(
            instance.replace(arrival=a), js.fcfs(), clock=js.Clock(1.0), history=True
        ))(instance.arrival)  # fmt: skip


def test_a_batch_of_one_coefficient_leaves_the_others_alone() -> None:
    rng = random.Random(11)
    instance = live(rng, js.Clock(fixed=0.5)).replace(arrival=None)
    run = lambda clock: js.simulate(instance, js.fcfs(), clock=clock).completion_seconds  # noqa: E731
    for base in (js.Clock(free_tokens=3), js.Clock(per_request=np.float32(0.25), free_tokens=1)):
        fixed = np.float32([0.25, 0.5, 2.0])
        batch = dataclasses.replace(base, fixed=jnp.asarray(fixed))
        alone = [run(dataclasses.replace(base, fixed=float(seconds))) for seconds in fixed]
        mapped = [js.Clock(0, *[None] * 5), js.Clock(*[0] * 6)]
        for in_axes in (0, *((axes,) for axes in mapped)):
            together = jax.vmap(run, in_axes=in_axes)(batch)
            assert np.array_equal(together, np.float32(alone))
        assert np.array_equal(jax.jit(jax.vmap(run))(batch), np.float32(alone))
    leaves, structure = jax.tree.flatten(batch)
    again = structure.unflatten(leaves)
    assert again.per_request == 0.25 and again.fixed is batch.fixed
    assert [np.shape(leaf) for leaf in leaves] == [(3,)] * 6
