"""Sorted-F and GSA-Spec: by hand, against independent orders, and against the reference."""

from __future__ import annotations

import importlib.util
import itertools
import random
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxsched as js
from jaxsched.clocks import Clock
from jaxsched.engines import reference
from jaxsched.engines.reference import Request
from jaxsched.instance import MAX_ROUND
from jaxsched.testing import check_policy, check_result, contract
from jaxsched.testing.contract import TRIALS
from tests import oracle
from tests.oracle import EXTENDED

LANES = 60
ENGINES = ["jax", *(["native"] if importlib.util.find_spec("numba") else [])]


def backlog(*requests: tuple[int, int]) -> list[Request]:
    """Requests of a prompt and an output, rightly predicted."""
    return [Request(s, o, o, o, point=o) for s, o in requests]


# ---- against the reference


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", EXTENDED)
def test_the_contract(name, engine):
    check_policy(js.policy(name), EXTENDED[name], engine=engine, seed=1, instances=LANES)


@pytest.mark.parametrize("patience", [1, 2, 5])
def test_the_contract_for_other_numbers(patience):
    for engine in ENGINES:
        policy, rule = js.gsa_spec(patience), oracle.gsa_spec(patience)
        check_policy(policy, rule, engine=engine, seed=patience, instances=LANES)


def test_numbers_run_as_lanes():
    instance = contract.draw(TRIALS[1], random.Random(3), LANES)
    found = jax.vmap(lambda p: js.simulate(instance, js.gsa_spec(p)))(jnp.asarray([1, 3, 64]))
    for i, patience in enumerate([1, 3, 64]):
        alone = js.simulate(instance, js.gsa_spec(patience))
        np.testing.assert_array_equal(found.completion[i], alone.completion)
        np.testing.assert_array_equal(found.wasted_tokens[i], alone.wasted_tokens)


def test_under_a_clock_and_a_cap():
    instance = contract.draw(TRIALS[1], random.Random(8), LANES)
    instance = instance.replace(arrival=instance.arrival * 1e-3)
    clock = Clock(fixed=1e-3, per_prompt_token=1e-4, per_cache_token=1e-6)
    for patience, limits in (
        (1, dict(max_rounds=MAX_ROUND, max_batch=3)),
        (2, dict(max_rounds=30, max_batch=40)),
        (64, dict(max_rounds=MAX_ROUND, max_batch=40)),
    ):
        policy = js.gsa_spec(patience)
        for engine in ENGINES:
            result = js.simulate(instance, policy, clock=clock, engine=engine, **limits)
            check_result(instance, result, oracle.gsa_spec(patience), clock=clock, **limits)


# ---- GSA-Spec


def test_every_slice_is_enforced_without_patience():
    """1, then 2, then 4 tokens, of which 3 are needed; and by hand with two requests."""
    runs = reference.simulate(backlog((1, 3)), 10, oracle.gsa_spec(1)).runs
    assert runs == [[(0, 1, "evicted"), (1, 3, "evicted"), (3, 6, "completed")]]
    # Both slices of 1 fit, 2 + 3. The next two, of 2 tokens, would end together with 3 + 4; one
    # round later the second fits, 3 + 3.
    runs = reference.simulate(backlog((1, 2), (2, 2)), 6, oracle.gsa_spec(1)).runs
    assert runs == [
        [(0, 1, "evicted"), (1, 3, "completed")],
        [(0, 1, "evicted"), (2, 4, "completed")],
    ]


def test_patience_is_counted_in_slices():
    for patience, runs in {
        2: [(0, 2, "evicted"), (2, 10, "evicted"), (10, 19, "completed")],
        4: [(0, 4, "evicted"), (4, 13, "completed")],
        9: [(0, 9, "completed")],
    }.items():
        assert reference.simulate(backlog((1, 9)), 50, oracle.gsa_spec(patience)).runs == [runs]


def test_the_shortest_slice_leaves_when_memory_runs_out():
    """Both run on in memory that nobody reserved, until two times 1 + 4 do not fit."""
    runs = reference.simulate(backlog((1, 4), (1, 4)), 9, oracle.gsa_spec()).runs
    # The first returns at once with a slice of 4: the other is expected to run one round more.
    assert runs == [[(0, 3, "evicted"), (3, 7, "completed")], [(0, 4, "completed")]]


@pytest.mark.parametrize("patience", [1, 3, 64])
def test_no_run_is_longer_than_its_slices(patience):
    """Slices are powers of two; each is longer than what the run before generated."""
    rng = random.Random(patience)
    for _ in range(20):
        requests = backlog(*((rng.randint(1, 9), rng.randint(1, 40)) for _ in range(12)))
        out = reference.simulate(requests, 60, oracle.gsa_spec(patience))
        assert out.status == reference.FINISHED
        for request, own in zip(requests, out.runs, strict=True):
            slice_ = 1
            for run in own[:-1]:
                tokens = run.ended - run.admitted
                assert tokens <= min(patience * slice_, request.output - 1)
                while slice_ <= tokens:
                    slice_ *= 2
            assert request.output <= patience * slice_


def test_predictions_are_not_read():
    instance = contract.draw(TRIALS[1], random.Random(5), LANES)
    ones = np.ones_like(instance.prompt)
    other = instance.replace(lower=ones, upper=ones * (2**31 - 2))
    one, two = (js.simulate(i, js.gsa_spec()) for i in (instance, other))
    np.testing.assert_array_equal(one.completion, two.completion)


# ---- Sorted-F


WIDTH = 33


@jax.jit
def rank_of(columns: dict[str, jax.Array], memory: jax.Array, count: jax.Array) -> jax.Array:
    view = js.View(**columns, memory=memory, estimate=columns["output"])
    return js.sorted_f().rank(view, jnp.arange(WIDTH) < count)


def order_of(requests: list[Request], memory: int) -> list[int]:
    """Indices in the order of the engine's ranks, with padding behind them."""
    n = len(requests)
    columns = {
        name: np.asarray([getattr(r, name) for r in requests] + [7] * (WIDTH - n), np.int64)
        for name in ("prompt", "output", "lower", "upper", "point", "arrival")
    }
    with jax.enable_x64(True):
        rank = np.asarray(rank_of(columns, np.int64(memory), np.int64(n)))
    assert sorted(rank) == list(range(WIDTH)) and (rank[:n] < n).all()
    return np.argsort(rank[:n]).tolist()


def order_by_fractions(requests: list[Request], memory: int) -> list[int]:
    """The same from exact quotients: the batch of least sum / size^2, of equals the smaller."""
    rest = sorted(
        range(len(requests)),
        key=lambda i: sum(requests[i].prompt + k for k in range(1, requests[i].output + 1)),
    )
    order = []
    while rest:
        costs = []
        for size in range(1, len(rest) + 1):
            batch = [requests[i] for i in rest[:size]]
            if sum(r.prompt + r.output for r in batch) <= memory:
                costs.append((Fraction(sum(r.output for r in batch), size**2), size))
        size = min(costs)[1]
        order += sorted(rest[:size], key=lambda i: (requests[i].output, i))
        rest = rest[size:]
    return order


def test_an_order_by_hand():
    """Of 20 tokens, the third request alone takes 11: memory-times are 5, 11, 63, 9 and 9."""
    requests = backlog((4, 1), (2, 3), (10, 5), (8, 1), (3, 2))
    # In order of memory-time: 0 (peak 5), 3 (9), 4 (5), 1 (5), 2 (15). Costs of the batches from
    # the front: 1, 2/4, 4/9 with peaks of 19; the fourth does not fit. Then 1 and 2: 3, or 8/4.
    assert order_of(requests, 20) == [0, 3, 4, 1, 2] == order_by_fractions(requests, 20)


def test_a_large_batch_of_short_ones_beats_the_shortest():
    """The case against shortest first: one long prompt with a short output blocks the others."""
    requests = backlog((90, 1), *[(1, 2)] * 30)
    assert order_of(requests, 100) == [*range(1, 31), 0]
    total = {
        name: reference.simulate(requests, 100, rule).total_latency
        for name, rule in oracle.ALL.items()
    }
    assert total["sorted_f:output"] == total["svf:output"] < total["h_sf"]


@given(
    pairs=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12),
    spare=st.integers(0, 30),
)
def test_the_order_is_that_of_exact_quotients(pairs, spare):
    requests = backlog(*pairs)
    memory = max(r.prompt + r.output for r in requests) + spare
    expected = order_by_fractions(requests, memory)
    assert order_of(requests, memory) == expected == order_by_hand(requests, memory)


def test_the_first_batch_is_no_cheaper_than_the_cheapest_of_all():
    """Against all subsets; docs/schedulers.md has how often it is the cheapest."""
    rng, found = random.Random(0), []
    for _ in range(40):
        requests = backlog(*((rng.randint(1, 12), rng.randint(1, 12)) for _ in range(9)))
        order, memory = order_by_fractions(requests, 40), 40
        cost = {
            batch: Fraction(sum(requests[i].output for i in batch), len(batch) ** 2)
            for size in range(1, 10)
            for batch in itertools.combinations(range(9), size)
            if sum(requests[i].prompt + requests[i].output for i in batch) <= memory
        }
        greedy = min(cost.get(tuple(sorted(order[:k])), Fraction(99)) for k in range(1, 10))
        found.append(float(greedy / min(cost.values())))
    assert min(found) == 1 and found.count(1) == 36 and max(found) == 1.1875


def test_orders_of_the_largest_requests_do_not_overflow():
    memory = 2**28
    requests = backlog((2**27, 2**27), (2**28 - 1, 1), (1, 2**28 - 1), (3, 5), (2**27 - 9, 2**26))
    assert order_of(requests, memory) == order_by_hand(requests, memory)


def order_by_hand(requests: list[Request], memory: int) -> list[int]:
    names = ("prompt", "output", "lower", "upper", "point", "arrival")
    columns = {name: [getattr(r, name) for r in requests] for name in names}
    places = oracle.sorted_f().rank(js.View(**columns, memory=memory), None)
    return np.argsort(places).tolist()


def test_a_stream_is_refused():
    instance = js.Instance(
        prompt=[1, 1], output=[2, 2], lower=[2, 2], upper=[2, 2], memory=9, arrival=[0, 1]
    )
    with pytest.raises(ValueError, match="'sorted_f:lower' orders a whole backlog; expected an in"):
        js.simulate(instance, js.sorted_f("lower"))
    with pytest.raises(ValueError, match="request 1: arrival is 1; expected 0, sorted_f:lower or"):
        requests = [Request(1, 1, 1, 1), Request(1, 1, 1, 1, arrival=1)]
        reference.simulate(requests, 9, EXTENDED["sorted_f:lower"])
