"""Serving metrics against a client that writes down the time of every token it sees."""

from __future__ import annotations

import dataclasses
import itertools
import random
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxsched as js
from jaxsched import metrics
from jaxsched.engines import reference
from jaxsched.engines.reference import Request
from jaxsched.metrics import registry, samples
from jaxsched.testing.instances import random_requests
from tests import oracle

CLOCKS = {
    "hinge": js.Clock(fixed=0.06, per_cache_token=1e-6, per_token_beyond=3e-4, free_tokens=5),
    "affine": js.Clock(fixed=0.05, per_prompt_token=3e-4, per_request=2e-4, per_cache_token=1e-7),
    "per token": js.Clock(per_cache_token=1e-3),
}
JOULES = js.Energy(fixed=34.0, per_prompt_token=0.3, per_request=0.07, per_cache_token=4e-5)
POLICIES = ("h_sf", "a_max", "a_min", "a_min:every_round", "mc_sf", "fcfs")
NAMES = ("mean", "p50", "p90", "p95", "p99")


def live(seed: int, lanes: int = 6) -> tuple[js.Instance, list[tuple[list[Request], int]]]:
    """Lanes of different lengths that arrive over some seconds, in bursts and after silences."""
    rng = random.Random(seed)
    drawn = []
    for kind in rng.sample(("wrong_intervals", "tight_memory", "ties", "tiny_memory"), 2) * lanes:
        requests, memory = random_requests(rng, kind)
        times = [rng.choice((0, 3, 3.25, 40)) + rng.random() * rng.choice((0, 2)) for _ in requests]
        requests = [
            dataclasses.replace(request, arrival=int(np.rint(time * 1e12)))
            for request, time in zip(requests, times, strict=True)
        ]
        drawn.append((requests, memory))
    drawn = drawn[:lanes]
    return js.stack([instance_of(*one) for one in drawn]), drawn


def instance_of(requests: list[Request], memory: int) -> js.Instance:
    columns = {
        name: np.asarray([getattr(request, name) for request in requests], np.int32)
        for name in ("prompt", "output", "lower", "upper", "point")
    }
    arrival = np.asarray([request.arrival for request in requests]) / 1e12
    return js.Instance(**columns, memory=np.asarray(memory), arrival=arrival)


def outcome_of(
    requests: list[Request], memory: int, clock: js.Clock, policy: str
) -> reference.Outcome:
    name = js.policy(policy).name
    ticks = reference.Clock(*(int(value) for value in js.clocks.ticks(clock)))
    return reference.simulate(requests, memory, oracle.RULES[name], clock=ticks)


def result_of(outcomes: list[reference.Outcome], n: int) -> js.Result:
    """What `simulate` would return, from the reference, so that only metrics are tested here."""

    def padded(rows: list[list[Any]], fill: Any, dtype: Any = np.int32) -> np.ndarray:
        return np.asarray([[*row, *[fill] * (n - len(row))] for row in rows], dtype)

    def each(name: str) -> np.ndarray:
        return np.asarray([getattr(outcome, name) for outcome in outcomes])

    times = ("admission_time", "first_token_time", "completion_time")
    ticks = [padded([getattr(o, name) for o in outcomes], -1, np.int64) for name in times]
    evicted = [
        sorted(
            ((i, run.admitted, run.ended) for i, runs in enumerate(o.runs) for run in runs[:-1]),
            key=lambda run: run[2],
        )
        for o in outcomes
    ]
    history = np.full((len(outcomes), max(1, *map(len, evicted)), 3), -1, np.int32)
    for lane, runs in enumerate(evicted):
        history[lane, : len(runs)] = np.reshape(runs, (-1, 3))
    totals = [np.zeros(len(outcomes), np.int64), each("wasted_tokens"), each("memory_time")]
    return js.Result(
        completion=padded([o.completion for o in outcomes], -1),
        first_token=padded([o.first_token for o in outcomes], -1),
        preemptions=padded([[len(runs) - 1 for runs in o.runs] for o in outcomes], 0),
        evictions=each("evictions"),
        peak_memory=each("peak_memory"),
        rounds=each("rounds"),
        status=np.full(len(outcomes), js.Status.FINISHED, np.int32),
        totals=np.stack(totals, axis=-1),
        num_requests=np.asarray([len(o.completion) for o in outcomes], np.int32),
        times=np.stack(ticks, axis=-1),
        history=history,
    )


@dataclasses.dataclass
class Client:
    """What the clients of one lane wrote down, in picoseconds."""

    ttft: list[int]
    tpot: list[float]
    itl: list[int]
    e2el: list[int]
    queueing: list[int]
    good: int
    makespan: int
    joules: float
    used: list[int]


def watch(
    requests: list[Request],
    outcome: reference.Outcome,
    clock: js.Clock,
    ttft: float,
    tpot: float,
    e2el: float,
) -> Client:
    """Replays the runs token by token; a client writes a token down when it first sees it."""
    seen = [watch_one(runs, outcome, clock, requests) for runs in outcome.runs]
    first = [tokens[0] - r.arrival for tokens, r in zip(seen, requests, strict=True)]
    each = [
        (tokens[-1] - tokens[0]) / (len(tokens) - 1) if len(tokens) > 1 else 0 for tokens in seen
    ]
    whole = [tokens[-1] - r.arrival for tokens, r in zip(seen, requests, strict=True)]
    limits = zip(first, each, whole, strict=True)
    busy = range(len(outcome.starts))
    held = [in_round(t, requests, outcome) for t in busy]
    return Client(
        ttft=first,
        tpot=[value for value, tokens in zip(each, seen, strict=True) if len(tokens) > 1],
        itl=[b - a for tokens in seen for a, b in itertools.pairwise(tokens)],
        e2el=[tokens[-1] - r.arrival for tokens, r in zip(seen, requests, strict=True)],
        queueing=[
            outcome.starts[runs[0].admitted] - r.arrival
            for runs, r in zip(outcome.runs, requests, strict=True)
        ],
        good=sum(a <= ttft * 1e12 and b <= tpot * 1e12 and c <= e2el * 1e12 for a, b, c in limits),
        makespan=max(tokens[-1] for tokens in seen) - min(r.arrival for r in requests),
        joules=sum(JOULES.joules(1, *held[t]) for t in busy),
        used=[tokens for _, _, tokens in held],
    )


def watch_one(
    runs: list[reference.Run],
    outcome: reference.Outcome,
    clock: js.Clock,
    requests: list[Request],
) -> list[int]:
    tokens: list[int] = []
    for run in runs:
        for k, t in enumerate(range(run.admitted, run.ended)):
            if k == len(tokens):
                tokens.append(outcome.starts[t] + lasts(t, outcome, clock, requests))
    return tokens


def lasts(t: int, outcome: reference.Outcome, clock: js.Clock, requests: list[Request]) -> int:
    prompt, active, used = in_round(t, requests, outcome)
    return reference.Clock(*map(int, js.clocks.ticks(clock))).lasts(prompt, active, used)


def in_round(t: int, requests: list[Request], outcome: reference.Outcome) -> tuple[int, int, int]:
    """Prompt tokens admitted in a round, active requests, and tokens of cache."""
    prompt = active = used = 0
    for request, runs in zip(requests, outcome.runs, strict=True):
        for run in runs:
            if run.admitted <= t < run.ended:
                prompt += request.prompt if run.admitted == t else 0
                active += 1
                used += request.prompt + t - run.admitted + 1
    return prompt, active, used


def assert_distribution(found: Any, samples: list[float], lane: Any = ()) -> None:
    """Equal to numpy's percentiles of the samples in seconds."""
    assert found.count[lane] == len(samples)
    assert found.valid[lane] == (len(samples) > 0)
    seconds = np.asarray(samples) / 1e12
    expected = [0.0] * 5
    if len(samples):
        expected = [np.mean(seconds), *np.percentile(seconds, metrics.PERCENTILES)]
    got = [getattr(found, name)[lane] for name in NAMES]
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("policy", POLICIES)
def test_every_metric_is_what_clients_saw(policy: str, clock: str) -> None:
    limits = {"ttft_limit": 1.0, "tpot_limit": 0.1, "e2el_limit": 5.0}
    instance, drawn = live(POLICIES.index(policy) * 10 + list(CLOCKS).index(clock))
    clock = CLOCKS[clock]
    outcomes = [outcome_of(*one, clock, policy) for one in drawn]
    result = result_of(outcomes, instance.n)
    found = metrics.serving(instance, result, clock, energy=JOULES, **limits)
    clients = []
    for lane, ((requests, memory), outcome) in enumerate(zip(drawn, outcomes, strict=True)):
        client = watch(requests, outcome, clock, *limits.values())
        clients.append(client)
        for name in ("ttft", "tpot", "itl", "e2el", "queueing"):
            assert_distribution(getattr(found, name), getattr(client, name), lane)
        tokens, seconds = sum(r.output for r in requests), client.makespan / 1e12
        expected = {
            "makespan": seconds,
            "request_throughput": len(requests) / seconds,
            "output_throughput": tokens / seconds,
            "goodput": client.good / seconds,
            "attainment": 100 * client.good / len(requests),
            "kv_mean": np.mean(client.used) / memory,
            "kv_peak": np.max(client.used) / memory,
            "energy": client.joules,
            "energy_per_token": client.joules / tokens,
        }
        for name, value in expected.items():
            metric = getattr(found, name)
            assert metric.valid[lane] and metric.value[lane] == pytest.approx(value, rel=1e-12)
        assert found.preemptions[lane] == outcome.evictions
        assert found.wasted_tokens[lane] == outcome.wasted_tokens
        assert (found.completed[lane], found.unfinished[lane]) == (len(requests), 0)
    pooled = metrics.serving(instance, result, clock, energy=JOULES, pooled=True, **limits)
    for name in ("ttft", "tpot", "itl", "e2el", "queueing"):
        together = [value for client in clients for value in getattr(client, name)]
        assert_distribution(getattr(pooled, name), together)
    total = sum(client.makespan for client in clients) / 1e12
    good = sum(client.good for client in clients)
    assert pooled.goodput.value == pytest.approx(good / total, rel=1e-12)
    assert pooled.kv_peak.value == max(found.kv_peak.value)


EVICTED_TWICE = """
A request of 5 tokens that is evicted after 2 tokens and, admitted again, after 1, beside one that
keeps the rounds going:  runs [0, 2), [3, 4), [5, 10) and [0, 10), a second each.
"""


def by_hand(**changes: Any) -> tuple[js.Instance, js.Result, js.Clock]:
    """See `EVICTED_TWICE`."""
    instance = js.Instance(
        prompt=np.asarray([1, 1]), output=np.asarray([5, 10]), lower=np.asarray([1, 1]),
        upper=np.asarray([9, 9]), memory=np.asarray(100), arrival=np.asarray([0.0, 0.0]),
    )  # fmt: skip
    ticks = np.asarray([[0, 1, 10], [0, 1, 10]]) * 10**12
    values = {
        "completion": np.asarray([10, 10]),
        "first_token": np.asarray([1, 1]),
        "preemptions": np.asarray([2, 0]),
        "evictions": np.asarray(2),
        "peak_memory": np.asarray(17),
        "rounds": np.asarray(10),
        "status": np.asarray(js.Status.FINISHED),
        "totals": np.asarray([0, 3, 90]),
        "num_requests": np.asarray(2),
        "times": ticks,
        "history": np.asarray([[0, 0, 2], [0, 3, 4], [-1, -1, -1]]),
    }
    return instance, js.Result(**{**values, **changes}), js.Clock(fixed=1.0)


def test_a_token_is_not_seen_twice() -> None:
    instance, result, clock = by_hand()
    found = metrics.serving(instance, result, clock)
    # Tokens of request 0 are seen at 1, 2 (first run), 8, 9 and 10 (third): gaps 1, 6, 1, 1.
    assert found.itl is not None and found.itl.count == 4 + 9
    assert found.itl.mean == (1 + 6 + 1 + 1 + 9) / 13 and found.itl.p50 == 1.0
    assert found.itl.p99 == np.percentile([6.0, *[1.0] * 12], 99)
    assert found.tpot.mean == ((10 - 1) / 4 + (10 - 1) / 9) / 2
    rounds = metrics.timeline(instance, result, clock)
    assert rounds.requests.tolist() == [2, 2, 1, 2, 1, 2, 2, 2, 2, 2]
    assert rounds.prompt_tokens.tolist() == [2, 0, 0, 1, 0, 1, 0, 0, 0, 0]
    assert rounds.cache_tokens.tolist() == [4, 6, 4, 7, 6, 9, 11, 13, 15, 17]
    assert rounds.seconds.tolist() == [1.0] * 10


def test_without_a_history_there_is_no_itl() -> None:
    instance, result, clock = by_hand(history=None)
    assert metrics.serving(instance, result, clock).itl is None
    with pytest.raises(ValueError, match="history: the result has none; expected simulate"):
        metrics.timeline(instance, result, clock)


def test_without_evictions_the_rounds_need_no_history() -> None:
    instance, result, clock = by_hand(
        history=None, evictions=np.asarray(0), completion=np.asarray([5, 10]),
        times=np.asarray([[0, 1, 5], [0, 1, 10]]) * 10**12,
    )  # fmt: skip
    rounds = metrics.timeline(instance, result, clock)
    assert rounds.requests.tolist() == [2] * 5 + [1] * 5 and rounds.seconds.tolist() == [1.0] * 10


def test_the_wrong_clock_is_noticed() -> None:
    instance, result, _ = by_hand()
    with pytest.raises(ValueError, match="clock: the rounds it gives do not end where"):
        metrics.serving(instance, result, js.Clock(fixed=2.0))


def test_a_lane_that_did_not_finish() -> None:
    instance, result, clock = by_hand(
        completion=np.asarray([10, -1]),
        status=np.asarray(js.Status.ROUND_LIMIT),
        times=np.asarray([[0, 10**12, 10 * 10**12], [0, 10**12, -1]]),
    )
    found = metrics.serving(instance, result, clock, energy=JOULES, ttft_limit=1.0)
    assert (found.completed, found.unfinished) == (1, 1)
    assert found.ttft.valid and found.ttft.count == 1 and found.e2el.mean == 10.0
    assert found.itl is not None and not found.itl.valid and found.itl.p50 == 0.0
    for name in ("makespan", "output_throughput", "goodput", "kv_mean", "energy"):
        metric = getattr(found, name)
        assert not metric.valid and metric.value == 0.0
    with pytest.raises(ValueError, match="did not finish"):
        metrics.timeline(instance, result, clock)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_bad_limits(limit: float) -> None:
    with pytest.raises(ValueError, match="ttft_limit is .*; expected more than 0 seconds"):
        metrics.serving(*by_hand(), ttft_limit=limit)


def test_a_result_in_rounds_has_no_metrics() -> None:
    with pytest.raises(ValueError, match="times: the result has none; expected simulate"):
        metrics.serving(*by_hand(times=None))


def test_only_outside_jit() -> None:
    instance, result, clock = by_hand()

    def inside(memory: jax.Array) -> jax.Array:
        metrics.serving(instance.replace(memory=memory), result, clock)
        return memory

    with pytest.raises(TypeError, match="expected concrete ones, outside jit"):
        jax.jit(inside)(100)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 101, 2000])
def test_percentiles_are_numpys_to_the_last_bit(size: int) -> None:
    rng = np.random.default_rng(size)
    values = rng.exponential(size=(4, size)).round(2)
    mask = rng.random((4, size)) < [[1.0], [0.5], [0.1], [0.0]]
    found = samples.of(values, mask)
    for lane in range(4):
        drawn = values[lane, mask[lane]]
        assert found.count[lane] == len(drawn) and found.valid[lane] == (len(drawn) > 0)
        expected = np.percentile(drawn, metrics.PERCENTILES) if len(drawn) else [0.0] * 4
        assert [getattr(found, name)[lane] for name in NAMES[1:]] == list(expected)


@pytest.mark.parametrize("size", [1, 2, 50, 3000])
def test_progressions_are_repetitions(size: int) -> None:
    rng = np.random.default_rng(size)
    first = rng.choice([3, 60_000, 61_000, 5_000_000], size) + rng.integers(0, 40, size)
    step, length, weight = (rng.integers(low, 30, size) for low in (0, 1, 1))
    step[::3] = 0
    found = samples.of_progressions(samples.Progressions(first, step, length, weight), 1000)
    written = [
        first[i] + j * step[i]
        for i in range(size) for j in range(length[i]) for _ in range(weight[i])
    ]  # fmt: skip
    repeated = np.asarray(written) / 1000
    assert found.count == len(repeated) and found.mean == pytest.approx(repeated.mean())
    expected = [*np.percentile(repeated, metrics.PERCENTILES), repeated.max()]
    assert [getattr(found, name) for name in (*NAMES[1:], "max")] == expected


def test_equal_gaps_are_not_written_out() -> None:
    many = samples.Progressions(*(np.asarray([x]) for x in (5, 0, 2**40, 2)))
    found = samples.of_progressions(many, 1)
    assert found.count == 2**41 and found.p99 == found.max == 5


@pytest.mark.parametrize("policy", ["a_min", "fcfs"])
def test_metrics_of_a_simulation(policy: str) -> None:
    instance, drawn = live(seed=5, lanes=3)
    clock = CLOCKS["hinge"]
    result = js.simulate(instance, js.policy(policy), clock=clock, history=True)
    outcomes = [outcome_of(*one, clock, policy) for one in drawn]
    expected = metrics.serving(instance, result_of(outcomes, instance.n), clock, energy=JOULES)
    found = metrics.serving(instance, result, clock, energy=JOULES)
    assert found.preemptions.sum() > 0
    pairs = zip(metrics.figures(found), metrics.figures(expected), strict=True)
    for (name, *arrays), (_, *wanted) in pairs:
        assert all(map(np.array_equal, arrays, wanted)), name


def test_a_metric_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    longest = metrics.Metric(
        "longest wait", "max `A − a`", "s",
        of=lambda lanes: lanes.rate(lanes.seen.queueing.max(axis=-1)), heading="longest",
    )  # fmt: skip
    monkeypatch.setitem(metrics.METRICS, "longest_wait", longest)
    found = metrics.serving(*by_hand())
    assert found.longest_wait.value == 0
    assert "longest_wait" in [name for name, _, _ in metrics.figures(found)]
    few = metrics.serving(*by_hand(), names=["longest_wait", "kv_mean"])
    assert list(vars(few)) == ["longest_wait", "kv_mean"]
    with pytest.raises(AttributeError, match="metric 'kv' is not known; expected one of .*longest"):
        found.kv  # noqa: B018


def test_columns_and_documentation_follow_the_registry() -> None:
    assert set(metrics.SWEPT) >= {
        "p99_e2el", "mean_ttft", "p99_ttft", "mean_tpot", "p99_tpot", "request_throughput",
        "energy_per_token",
    }  # fmt: skip
    assert set(metrics.MEANS) >= {
        "mean_ttft", "p50_ttft", "p99_ttft", "mean_tpot", "p99_tpot", "mean_e2el", "p50_e2el",
        "p99_e2el", "mean_queueing", "request_throughput", "output_throughput", "goodput",
        "preemptions", "wasted_tokens", "kv_mean", "kv_peak", "energy_per_token",
    }  # fmt: skip
    page = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text()
    for row in registry.rows():
        assert f"| {' | '.join(row)} |" in page, "./scripts/check --fix puts it there"
