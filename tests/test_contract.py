"""The contract test of policies: it passes what is right, and says what is wrong."""

from __future__ import annotations

import dataclasses
import importlib.util
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsched as js
from jaxsched.arrays import unpaired
from jaxsched.engines import reference
from jaxsched.policies import Policy
from jaxsched.policies.arithmetic import most
from jaxsched.policies.family import NUMBERS
from jaxsched.testing import (
    as_arrays,
    check_policy,
    check_result,
    contract,
    random_requests,
    requests_of,
)
from jaxsched.testing.choices import check_choices
from tests import oracle
from tests.oracle import RULES

NATIVE = importlib.util.find_spec("numba") is not None
needs_native = pytest.mark.skipif(not NATIVE, reason="numba is not installed")
LANES = 149  # as in test_engine, which compiles for this shape


@pytest.mark.parametrize("name", [name for name in RULES if name not in ("svf:upper", "svf:point")])
def test_shipped_policies_keep_it(name):
    check_policy(js.policy(name), RULES[name], engine="jax", seed=1, instances=LANES)


def random_numbers(rng):
    """Numbers of the family from all over their ranges, and often plain ones; they finish."""

    def draw(name):
        number = NUMBERS[name]
        x = rng.choice((0.0, 1.0, rng.uniform(-1, 2), rng.uniform(number.low, number.high)))
        return abs(x) if name in ("evict_progress", "evict_estimate") else x

    return js.FamilyParams(**{name: draw(name) for name in NUMBERS})


def numbered_policies():
    rng = random.Random(4)
    return [js.a_min_family(), *(js.a_min_family(random_numbers(rng)) for _ in range(5)),
            js.fcfs(watermark=0.05), js.fcfs(watermark=1.0)]  # fmt: skip


@pytest.mark.parametrize("i", range(8))
def test_policies_with_numbers_keep_it(i):
    """Programs are shared: numbers are traced."""
    policy = numbered_policies()[i]
    check_policy(policy, oracle.rule_for(policy), engine="jax", seed=3, instances=LANES)


@needs_native
@pytest.mark.parametrize("i", range(8))
def test_policies_with_numbers_keep_it_on_the_native_engine(i):
    policy = numbered_policies()[i]
    check_policy(policy, oracle.rule_for(policy), engine="native", seed=3, instances=LANES)


def a_tenth(r):
    return r.memory // 10


def test_headroom_with_long_reservations():
    """One that entered alone may hold what must stay free, longer than those behind it."""
    for shipped in (js.a_max(), js.a_min()):
        careful = dataclasses.replace(shipped, name="careful", headroom=a_tenth)
        right = dataclasses.replace(RULES[shipped.name], headroom=lambda r: r.memory // 10)
        check_policy(careful, right, engine="jax", instances=LANES)


def test_numbers_run_as_lanes():
    """A policy for each lane, against one at a time."""
    rng = random.Random(5)
    some = [random_numbers(rng) for _ in range(4)]
    many = jax.tree.map(lambda *leaves: jnp.asarray(leaves, jnp.float32), *some)
    instance = contract.draw(contract.TRIALS[1], rng, LANES)
    run = lambda params: js.simulate(instance, js.a_min_family(params), engine="jax")  # noqa: E731
    found = jax.vmap(run)(many)
    for i, params in enumerate(some):
        for name, value in vars(run(params)).items():
            if value is not None:
                assert (unpaired(getattr(found, name))[i] == unpaired(value)).all()


@needs_native
@pytest.mark.parametrize("name", RULES)
def test_shipped_policies_keep_it_on_the_native_engine(name):
    check_policy(js.policy(name), RULES[name], engine="native", seed=2)


def test_a_policy_read_off_its_own_functions_is_the_one_meant():
    """A policy on Python's integers does what its oracle does, on a backlog and a stream."""
    rng = random.Random(6)
    for name, rule in oracle.ALL.items():
        policy = js.policy(name)
        for kind in ("wrong_intervals", "scattered_arrivals", "ties"):
            requests, memory = random_requests(rng, kind)
            if policy.rank is not None:
                requests = [dataclasses.replace(r, arrival=0) for r in requests]
            one, other = (reference.simulate(requests, memory, p) for p in (policy, rule))
            assert one == other, name


# ---- a policy of one's own


def middle(r):
    return r.lower + (r.upper - r.lower) // 2


def shortest_prompt(r):
    return r.prompt


def newest(r):
    return r.admitted


def own():
    """Predicts the middle, admits the shortest prompt first and evicts the newest."""
    return js.Policy(
        name="own",
        estimate=middle,
        admission_key=shortest_prompt,
        reserve=js.a_max().reserve,
        eviction_key=newest,
        refine=js.a_max().refine,
        evict_largest=True,
    )


OWN = Policy(
    name="own",
    estimate=lambda r: (r.lower + r.upper) // 2,
    admission_key=lambda r: r.prompt,
    reserve=lambda r: r.estimate,
    eviction_key=lambda r: r.admitted,
    refine=lambda r: max(r.estimate, r.generated),
    evict_largest=True,
)


def test_an_own_policy():
    check_policy(own(), instances=28)
    check_policy(own(), OWN, instances=28)
    other = dataclasses.replace(OWN, reserve=lambda r: r.upper)
    with pytest.raises(AssertionError) as caught:
        check_policy(own(), other, instances=28)
    text = str(caught.value)
    assert "expected" in text and "by own" in text
    instance, result = repeat(text, own())
    with pytest.raises(AssertionError, match="by own"):
        check_result(instance, result, other)
    check_result(instance, result, OWN)


def repeat(text, policy):
    """Runs the call that a message ends with."""
    call = text[text.index("simulate(Instance(") :]
    made = []

    def simulate(instance, policy, **options):
        made.append(instance)
        return js.simulate(instance, policy, **options)

    names = {"simulate": simulate, "Instance": js.Instance, "policy": policy}
    result = eval(call, names)  # noqa: S307 - the text is ours
    return made[0], result


def evict_the_furthest(r):
    return r.generated


def test_a_policy_that_never_ends_is_found():
    """Two requests that evict each other for ever."""
    endless = dataclasses.replace(
        js.fcfs(), name="endless", eviction_key=evict_the_furthest, evict_largest=True
    )
    with pytest.raises(AssertionError, match=r"rounds were not enough.*evict for ever\?"):
        check_policy(endless, instances=4)


# ---- choices that break the contract


def floats(r):
    return r.estimate / 2


def three_numbers(r):
    return jnp.full(3, r.estimate)


def branches(r):
    return r.lower if r.lower < r.upper else r.upper


def reads_progress(r):
    return most(1, r.generated)


def reads_admitted(r):
    return r.admitted


def reads_what_is_not_there(r):
    return r.length


def overflows(r):
    return r.estimate * r.estimate * r.estimate


def nothing(r):
    return r.estimate * 0


def negative(r):
    return 5 - r.prompt


def all_first(r, real):
    return jnp.zeros_like(r.prompt)


def marked_as_empty(r, real):
    """A right order but for the first, at the mark of a place where nobody is."""
    return jnp.arange(r.prompt.shape[0]).at[0].set(2**31 - 1)


def padding_first(r, real):
    return jnp.argsort(jnp.argsort(real))


BROKEN = {
    "admission_key gives float64[]; expected one whole number": dict(admission_key=floats),
    "reserve gives int64[3]; expected one whole number": dict(reserve=three_numbers),
    "estimate branches on what it reads; expected `where`": dict(estimate=branches),
    "quantum reads generated, which is not fixed when it is asked": dict(quantum=reads_progress),
    "refine reads admitted, which is not fixed when it is asked": dict(refine=reads_admitted),
    "estimate reads 'length'; expected one of prompt, output":
        dict(estimate=reads_what_is_not_there),
    "in 64 bits for prompt=": dict(admission_key=overflows),
    "quantum gives 0 for prompt=1, ": dict(quantum=nothing),
    "headroom gives -": dict(headroom=negative),
    "rank gives 0 among the places of 256 requests; expected each of 0 to 255 once":
        dict(rank=all_first),
    "rank gives 2147483647 among the places of 256 requests": dict(rank=marked_as_empty),
    "rank gives 128 among the places of 128 requests": dict(rank=padding_first),
    "reserve is defined inside test_broken_choices_are_named; expected a function of a module":
        dict(reserve="local"),
    "cannot be hashed": dict(refine=np.ones(1)),
}  # fmt: skip


@pytest.mark.parametrize("text", BROKEN)
def test_broken_choices_are_named(text):
    def local(r):
        return r.estimate

    change = {
        name: local if isinstance(value, str) else value for name, value in BROKEN[text].items()
    }
    with pytest.raises(AssertionError) as caught:
        check_choices(dataclasses.replace(js.a_min(), name="broken", **change))
    assert text in str(caught.value) and "policy 'broken'" in str(caught.value)


# ---- the comparison finds every wrong figure


INSTANCE = js.Instance(**as_arrays([
    ([reference.Request(2, 4, 2, 5, 0, 4), reference.Request(1, 6, 1, 8, 0, 4),
      reference.Request(3, 2, 1, 4, 0, 4), reference.Request(1, 3, 3, 3, 0, 4)], 9),
    ([reference.Request(1, 2, 2, 2, 3, 2)], 4),
]))  # fmt: skip


@pytest.fixture(scope="module")
def result():
    return js.simulate(INSTANCE, js.a_min())


def test_right_results_pass(result):
    check_result(INSTANCE, result, RULES["a_min:on_eviction"])
    lanes = INSTANCE.replace(**{k: v[None] for k, v in vars(INSTANCE).items()})
    given = {k: v for k, v in vars(result).items() if v is not None}
    whole = result.replace(**{k: np.asarray(v)[None] for k, v in given.items()})
    check_result(lanes, whole, RULES["a_min:on_eviction"])
    with pytest.raises(AssertionError, match=r"status has shape \(2,\); expected \(1, 2\)"):
        check_result(lanes, result, RULES["a_min:on_eviction"])


@pytest.mark.parametrize(
    "field",
    ["completion", "first_token", "preemptions", "evictions", "peak_memory", "rounds", "status",
     "total_latency", "wasted_tokens", "memory_time"],
)  # fmt: skip
@pytest.mark.parametrize("lane", [0, 1])
def test_any_wrong_figure_is_found(field, lane, result):
    totals = ("total_latency", "wasted_tokens", "memory_time")
    name = "totals" if field in totals else field
    array = np.array(getattr(result, name))
    place = (lane, totals.index(field)) if field in totals else (lane,) + (0,) * (array.ndim - 1)
    array[place] += 1
    with pytest.raises(AssertionError, match=rf"lane {lane}: (?s:.*)prompt=\["):
        check_result(INSTANCE, result.replace(**{name: array}), RULES["a_min:on_eviction"])


def test_wrong_padding_is_found(result):
    completion = np.array(result.completion)
    completion[1, 3] = 0
    with pytest.raises(AssertionError, match="lane 1: completion is"):
        check_result(INSTANCE, result.replace(completion=completion), RULES["a_min:on_eviction"])


def test_requests_of_a_lane():
    requests, memory = requests_of(INSTANCE, 1)
    assert (requests, memory) == ([reference.Request(1, 2, 2, 2, 3, 2)], 4)
