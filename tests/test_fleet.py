"""A stream over replicas: the router beside a plain twin, and the fleet beside its lanes."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import jax
import numpy as np
import pytest

import jaxsched as js
from jaxsched.workloads import fleet

CLOCK = js.clocks.llama2_70b_2xa100()


def drawn(seconds: bool = False, n: int = 200, lanes: int = 3) -> js.Instance:
    """Streams of different numbers of requests, not in order of arrival."""
    arrivals = js.workloads.arrivals
    made = js.workloads.make(
        jax.random.key(5), n=n, lanes=lanes, memory=4096,
        lengths=js.workloads.embedded.sharegpt().truncated(max_total=4030),
        intervals=js.workloads.intervals.relative(0.5),
        arrivals=arrivals.poisson_seconds(2.0) if seconds else arrivals.poisson(0.05),
    )  # fmt: skip
    mixed = np.random.default_rng(1).permuted(made.arrival, axis=-1)
    return made.replace(arrival=mixed, num_requests=np.arange(n - lanes + 1, n + 1))


def by_hand(stream: js.Instance, lane: int, workers: int, by: str, per_round: Any) -> list[int]:
    """Queues of memory-time, drained from one arrival to the next, in fractions."""
    left, idle_since = [Fraction(0)] * workers, [Fraction(0)] * workers
    memory, before, chosen = int(stream.memory), Fraction(0), {}
    requests = range(int(stream.num_requests[lane]))
    for i in sorted(requests, key=lambda i: (stream.arrival[lane, i], i)):
        # Seconds are whole picoseconds.
        now = Fraction(round(stream.arrival[lane, i].item() * 10**12), 10**12) / per_round
        for w in range(workers):
            if left[w] > 0 and left[w] <= (now - before) * memory:
                idle_since[w] = before + left[w] / memory
            left[w] = max(Fraction(0), left[w] - (now - before) * memory)
        w = min(range(workers), key=lambda w: (left[w], idle_since[w], w))
        s = int(stream.prompt[lane, i])
        r = min(int(getattr(stream, by)[lane, i]), memory - s)
        left[w] += sum(s + k for k in range(1, r + 1))
        before, chosen[i] = now, w
    return [chosen[i] for i in requests]


@pytest.mark.parametrize("seconds", [False, True])
@pytest.mark.parametrize("by", ["lower", "output"])
def test_the_least_outstanding_is_that_of_a_plain_twin(by: str, seconds: bool) -> None:
    stream = drawn(seconds)
    told = {"round_seconds": 0.07} if seconds else {}
    found = js.workloads.replicas(stream, 5, f"least_outstanding:{by}", **told)
    assert len(np.unique(found)) == 6  # and -1 for padding
    for lane in range(3):
        wanted = by_hand(stream, lane, 5, by, Fraction(7, 100) if seconds else 1)
        assert found[lane, : len(wanted)].tolist() == wanted
        assert (found[lane, len(wanted) :] == -1).all()


def test_the_other_routes() -> None:
    stream, many = drawn(), np.arange(200) // 4
    turns = js.workloads.replicas(stream, 4)[2]
    assert (turns[np.argsort(stream.arrival[2], kind="stable")] == np.arange(200) % 4).all()
    random = js.workloads.replicas(stream, 4, "random", key=jax.random.key(0))[2]
    assert np.bincount(random).min() > 30
    kept = js.workloads.replicas(stream, 4, "session", session=many)[2]
    assert all(len(np.unique(kept[many == each])) == 1 for each in range(50))
    assert len(np.unique(kept)) == 4


@pytest.mark.parametrize("rule", ["round_robin", "least_outstanding:point"])
def test_a_fleet_is_its_lanes_and_counts_everybody_once(rule: str) -> None:
    stream, worker = drawn(seconds=True), js.workers.vllm(block=16)
    told = {"round_seconds": 0.07} if "least" in rule else {}
    chosen = js.workloads.replicas(stream, 4, rule, **told)
    together = js.workloads.route(stream, 4, rule, **told)
    how = {"clock": CLOCK, "worker": worker, "engine": "native"}
    result = js.simulate(together, js.lcf(), **how)
    alone: list[float] = []
    for lane, w in np.ndindex(3, 4):
        some = chosen[lane] == w
        own = {
            name: getattr(stream, name)[lane, some]
            for name in ("prompt", "output", "lower", "upper", "arrival", "point")
        }
        one = js.Instance(**own, memory=4096)
        single = js.simulate(one, js.lcf(), **how)
        kept = result.completion[lane, w, : int(together.num_requests[lane, w])]
        assert single.completion.tolist() == kept.tolist()
        alone += js.metrics.requests(one, single).e2el.tolist()
    assert len(alone) == int(stream.num_requests.sum())
    pooled = js.metrics.serving(together, result, CLOCK, pooled=True, worker=worker).e2el
    assert int(pooled.count) == len(alone)
    assert pooled.p99 == np.percentile(alone, 99)
    assert pooled.max == max(alone)


@pytest.mark.parametrize(
    ("rule", "told", "text"),
    [
        ("least", {}, "round_robin, random, session"),
        ("random", {}, "key: missing"),
        ("session", {}, "session: missing"),
        ("least_outstanding:point", {}, "round_seconds: missing"),
        ("round_robin", {"round_seconds": 0.1}, "round_seconds: given"),
        ("least_outstanding:upper", {"round_seconds": -1}, "round_seconds is -1"),
    ],
)
def test_what_a_router_lacks_is_named(rule: str, told: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        fleet.route(drawn(seconds=True), 2, rule, **told)
