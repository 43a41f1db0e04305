"""Optima, bounds and schedules in hindsight, against brute force, HiGHS and the policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import jaxsched as js
from jaxsched.optimum import solve
from jaxsched.optimum.lane import problems_of
from jaxsched.optimum.solve import Search
from tests.optimum_oracle import Shape, brute_force, highs


def instance(requests: list[Shape], memory: int) -> js.Instance:
    s, o, a = (np.asarray(column) for column in zip(*requests, strict=True))
    return js.Instance(prompt=s, output=o, lower=o, upper=o, memory=memory, arrival=a)


def draw(rng: np.random.Generator, n: int, memory: int, longest: int, last: int) -> list[Shape]:
    s = rng.integers(1, min(6, memory), size=n)
    o = [int(rng.integers(1, min(longest, memory - x) + 1)) for x in s]
    return list(zip(s.tolist(), o, rng.integers(0, last + 1, size=n).tolist(), strict=True))


def replayed(requests: list[Shape], memory: int, completion: np.ndarray) -> int:
    """The total latency of a schedule, after counting its memory token by token."""
    use: dict[int, int] = {}
    for (s, o, a), c in zip(requests, completion.tolist(), strict=True):
        assert c - o >= a
        for k in range(1, o + 1):
            use[c - o + k] = use.get(c - o + k, 0) + s + k
    assert max(use.values()) <= memory
    return sum(c - a for (_, _, a), c in zip(requests, completion.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(2))
def test_against_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    delayed = 0
    for case in range(30):
        memory, n = int(rng.integers(3, 13)), int(rng.integers(1, 7))
        requests = draw(rng, n, memory, 5, int(rng.integers(0, 7)) * (case % 2))
        if case % 5 == 0:  # twins
            requests = [requests[0]] * n
        given, best = instance(requests, memory), brute_force(requests, memory)
        found, plan = js.optimal(given), js.best_schedule(given, moves=50)
        assert found.proved and found.total_latency == best
        assert found.gap == 0
        assert replayed(requests, memory, found.completion) == best
        assert js.lower_bound(given) <= best <= plan.total_latency
        assert replayed(requests, memory, plan.completion) == plan.total_latency
        delayed += int(js.simulate(given, js.h_sf()).total_latency) > best
    assert delayed > 1  # shortest first is not always best, so that there was something to find


@pytest.mark.parametrize("last", [0, 10])
def test_against_an_integer_program(last: int) -> None:
    rng = np.random.default_rng(7)
    for n in (7, 10):
        requests = draw(rng, n, 20, 9, last)
        found = js.optimal(instance(requests, 20))
        assert found.proved
        assert found.total_latency == highs(requests, 20, int(found.completion.max()) + 8)


def test_bounds_get_near_proved_optima_and_stay_below() -> None:
    rng = np.random.default_rng(3)
    ratios, plain = [], []
    for last in (0, 0, 0, 15, 15, 15):
        requests = draw(rng, 11, 30, 28, last)
        given = instance(requests, 30)
        best = int(js.optimal(given).total_latency)
        ratios.append(js.lower_bound(given) / best)
        s, o, a = map(np.asarray, zip(*requests, strict=True))
        plain.append((js.mean_busy_time_bound(s, o, 30) - a.sum()) / best)
    assert max(ratios) <= 1
    assert min(ratios) > 0.8
    assert np.mean(ratios) > np.mean(plain) + 0.1


def test_any_prices_bound_and_a_search_with_bad_ones_ends_at_the_optimum() -> None:
    """What `optimal` proves by good prices alone, the search proves when they are bad."""
    from jaxsched.optimum.lane import PathPrices, climb_paths, climb_prices, problems_of
    from jaxsched.optimum.solve import Search

    rng, nodes, removed, gone, least = np.random.default_rng(4), 0, 0, 0, []
    for case in range(120):
        memory, n = int(rng.integers(4, 13)), int(rng.integers(2, 6))
        requests = draw(rng, n, memory, 5, int(rng.integers(0, 7)) * (case % 2))
        if case % 3 == 0:  # twins
            requests[1:3] = [requests[0]] * len(requests[1:3])
        lane = next(problems_of(instance(requests, memory)))
        best, start = brute_force(requests, memory), np.cumsum(lane.output) + lane.arrival.max()
        plain = climb_prices(lane, lane.first_schedule(), 20)
        # Few rounds and large rewards: to be late may cost less than nothing.
        rounds = len(plain.memory) if case % 4 == 0 else int(rng.integers(1, 6))
        size, sign = plain.unit // int(rng.integers(2, 60)), int(rng.integers(0, 2))
        lam, nu, mu = rng.integers(-sign * size, size + 1, size=(3, rounds))
        reward = rng.integers(0, plain.unit * int(rng.integers(2, 30)), size=n)
        begin = rng.integers(-size, size + 1, size=(rounds, len(set(lane.prompt.tolist()))))
        found = PathPrices(
            lam, nu, np.abs(mu), reward, begin, plain.alpha, plain.beta, plain.unit,
            np.arange(rounds) >= lane.arrival[:, None],
        )  # fmt: skip
        least.append(found.bound(lane) / best)
        far = lane.latency(start.sum())
        packed = found.through_packings(lane, far)
        tight = packed.without_worse(lane, best + 1)
        assert found.bound(lane) <= packed.bound(lane) <= best
        for prices in (found, packed, tight):
            search = Search(lane, prices, start, far if prices is not tight else best + 1)
            while not search.done:
                search.go_on(1000)
            nodes += search.nodes
            assert lane.latency(search.start.sum()) == best
        # Good ones rule out much, and never the best schedule.
        found = climb_paths(lane, plain, best + 1, 100)
        near = found.without_worse(lane, best + 1)
        removed += int((found.allowed & ~near.allowed).sum())
        packed = climb_paths(lane, near.through_packings(lane, best + 1), best + 1, 20)
        gone += len(packed.live.end) - len(packed.without_worse(lane, best + 1).live.end)
        for prices in (near, packed, packed.without_worse(lane, best + 1)):
            assert prices.bound(lane) <= best
            search = Search(lane, prices, start, best + 1)
            search.go_on(10**6)
            assert search.done and lane.latency(search.start.sum()) == best
            # Nothing is below the best, and a search for that says so.
            search = Search(lane, prices, start, best)
            search.go_on(10**6)
            assert search.done and np.array_equal(search.start, start)
    assert max(least) <= 1
    assert nodes > 1000 and removed > 100 and gone > 100


def test_searches_below_aims_prove_the_optimum_from_bad_schedules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Nothing is improved, few nodes are tried, and prices are poor: the aims have to do it.
    rng, searches = np.random.default_rng(6), list[bool]()
    made = Search.__init__

    def watched(search: Search, *given: Any) -> None:
        made(search, *given)
        searches.append(len(given[1].moves.active) > 0)

    monkeypatch.setattr(Search, "__init__", watched)
    monkeypatch.setattr(solve, "_annealed", lambda lane, start, *_: start)
    monkeypatch.setattr(solve, "NODES_AT_A_TIME", 3)
    monkeypatch.setattr(solve, "NODES_BEFORE", (3, 3))
    monkeypatch.setattr(solve, "FIRST_CLIMB", (1, solve.QUICK))
    monkeypatch.setattr(solve, "MORE_CLIMBS", ((1, solve.QUICK),))
    monkeypatch.setattr(solve, "STEPS", 1)
    monkeypatch.setattr(solve, "AIMS", (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0))
    for case in range(100):
        # Poor prices leave an aim to the search; good ones prove it alone.
        climb = (1, solve.NEAR) if case % 4 < 2 else (100, solve.QUICK)
        monkeypatch.setattr(solve, "CLIMB_THROUGH_PACKINGS", climb)
        memory, n = int(rng.integers(4, 13)), int(rng.integers(3, 6))
        requests = draw(rng, n, memory, 8, 6 * (case % 2))
        best = brute_force(requests, memory)
        lane = next(problems_of(instance(requests, memory)))
        one_by_one = np.cumsum(lane.output[::-1])[::-1] - lane.output + lane.arrival.max()
        monkeypatch.setattr(type(lane), "first_schedule", lambda _, start=one_by_one: start)
        seen = list[tuple[int, int, int]]()
        found = solve._solve(lane, 1e9, lambda *state, seen=seen: seen.append(state))
        assert found.proved and found.total_latency == best
        assert all(lower <= best <= total for _, total, lower in seen)
    assert sum(searches) > 50


def test_rows_never_meet_in_a_feasible_pair() -> None:
    from jaxsched.optimum import prices

    rng = np.random.default_rng(5)
    bound = 0
    for _ in range(60):
        memory = int(rng.integers(8, 40))
        s = rng.integers(1, 6, size=2)
        o = rng.integers(1, memory - s + 1)
        for level in range(7):
            alpha, beta = prices.unary_row(s, o, memory, level)
            assert np.all((alpha >= 0) & (beta <= o))
            for d in range(int(o[0])):  # request 1 starts d rounds after request 0
                use = np.zeros(2 * memory, int)
                use[: o[0]] += np.arange(s[0] + 1, s[0] + o[0] + 1)
                use[d : d + o[1]] += np.arange(s[1] + 1, s[1] + o[1] + 1)
                meet = max(alpha[0], d + alpha[1]) < min(beta[0], d + beta[1])
                assert not (meet and use.max() <= memory)
                bound += meet
    assert bound > 100


def test_a_time_limit_leaves_a_gap_that_holds() -> None:
    rng = np.random.default_rng(11)
    given = instance(draw(rng, 40, 40, 38, 0), 40)
    seen: list[tuple[int, ...]] = []
    found = js.optimal(given, 1e-3, lambda *state: seen.append(state))
    assert not found.proved
    assert 0 < found.gap < 0.5
    assert found.lower_bound < found.total_latency <= js.best_schedule(given, 0).total_latency
    assert seen == [(0, int(found.nodes), int(found.total_latency), int(found.lower_bound))]


def test_paths_too_large_for_their_tables_are_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is what the tables of the search have: one state less, and nothing is searched."""
    requests = draw(np.random.default_rng(11), 12, 30, 28, 0)
    lane = next(problems_of(instance(requests, 30)))
    made: list[Search] = []
    start = Search.__init__

    def watched(search: Search, *given: Any) -> None:
        start(search, *given)
        made.append(search)

    monkeypatch.setattr(Search, "__init__", watched)
    best = js.optimal(instance(requests, 30))
    assert best.proved and best.nodes > 0
    states = lane.path_states(len(made[0].prices.memory))
    made.clear()
    monkeypatch.setattr(solve, "MOST_STATES", states)
    assert js.optimal(instance(requests, 30)).proved and made
    made.clear()
    monkeypatch.setattr(solve, "MOST_STATES", states - 1)
    found = js.optimal(instance(requests, 30))
    assert not made and found.nodes == 0 and not found.proved
    assert found.lower_bound < best.total_latency <= found.total_latency


def test_lanes_and_padding() -> None:
    rng = np.random.default_rng(2)
    several = [instance(draw(rng, n, 15, 9, 4), 15) for n in (3, 6, 1)]
    batch = js.stack(several)
    found, plan, bound = js.optimal(batch), js.best_schedule(batch), js.lower_bound(batch)
    for i, one in enumerate(several):
        alone = js.optimal(one)
        assert found.total_latency[i] == alone.total_latency
        np.testing.assert_array_equal(found.completion[i, : one.n], alone.completion)
        assert np.all(found.completion[i, one.n :] == -1)
        assert plan.total_latency[i] == js.best_schedule(one).total_latency
        assert bound[i] == js.lower_bound(one)
    none = js.Instance(prompt=[1], output=[1], lower=[1], upper=[1], memory=9, num_requests=0)
    assert js.optimal(none).proved and js.lower_bound(none) == 0
    assert js.best_schedule(none).total_latency == 0


def test_bad_arguments_are_named() -> None:
    good = js.Instance(prompt=[1], output=[1], lower=[1], upper=[1], memory=9)
    with pytest.raises(ValueError, match="time_limit is 0; expected more than 0 seconds"):
        js.optimal(good, 0)
    with pytest.raises(ValueError, match="moves is -1; expected a whole number, at least 0"):
        js.best_schedule(good, -1)
    with pytest.raises(TypeError, match="arrival: got seconds; expected rounds"):
        js.lower_bound(good.replace(arrival=[0.5]))
    with pytest.raises(ValueError, match="prompt \\+ output is 10"):
        js.optimal(good.replace(output=[9], upper=[9]))
    long = js.Instance(prompt=[1], output=[1], lower=[1], upper=[1], memory=9, arrival=[2**29])
    with pytest.raises(ValueError, match="lane 0: may take .* rounds"):
        js.lower_bound(long)


def test_proved_optima_that_are_kept() -> None:
    """Rows of `python -m experiments.optimum`, proved once: bounds and schedules enclose them."""
    enclosed = []
    for row in pd.read_csv(Path(__file__).parent / "optima.csv").itertuples():
        columns = ([int(x) for x in text.split()] for text in (row.prompt, row.output, row.arrival))
        requests = list(zip(*columns, strict=True))
        given = instance(requests, row.memory)
        low, high = int(js.lower_bound(given)), int(js.best_schedule(given, 20_000).total_latency)
        assert low <= row.total <= high
        assert js.simulate(given, js.h_sf()).total_latency == row.mc_sf >= row.total
        enclosed.append((low / row.total, high / row.total, row.mc_sf / row.total))
        if row.draw == "poisson" and len(requests) == 12:
            assert js.optimal(given).total_latency == row.total
    low, high, mc_sf = np.mean(enclosed, axis=0)
    assert len(enclosed) == 20
    assert low > 0.85 and high < 1.02 < mc_sf
