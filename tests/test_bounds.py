"""The lower bounds: by hand, below every policy, and below the optimum of tiny instances."""

import math
import random

import numpy as np
import pytest

from jaxsched.bounds import latency_bound, mean_busy_time_bound, rounds_bound, volume
from jaxsched.engines.reference import Request, simulate
from jaxsched.instance import MAX_MEMORY
from jaxsched.testing import KINDS, as_arrays, random_requests
from tests.oracle import RULES


def literal_bound(prompt: list[int], output: list[int], memory: int) -> float:
    """The formula term by term, for one instance."""
    pairs = list(zip(prompt, output, strict=True))
    volumes = sorted(sum(s + k for k in range(1, o + 1)) for s, o in pairs)
    total, running = 0.0, 0
    for v in volumes:
        running += v
        total += (running - v / 2) / memory
    for s, o in pairs:
        v = sum(s + k for k in range(1, o + 1))
        total += o - sum((k - 0.5) * (s + k) for k in range(1, o + 1)) / v
    return total


def optimum(requests: list[Request], memory: int) -> int:
    """Least total latency of a backlog over all start times, by exhaustion; nothing is evicted."""
    horizon = sum(r.output for r in requests)  # one after another always fits
    free = [memory] * horizon
    best = horizon * len(requests)

    def place(i: int, latency: int) -> None:
        nonlocal best
        # Each request left takes at least its own output.
        if latency + sum(r.output for r in requests[i:]) >= best:
            return
        if i == len(requests):
            best = latency
            return
        s, o = requests[i].prompt, requests[i].output
        for start in range(horizon - o + 1):
            if all(free[start + k - 1] >= s + k for k in range(1, o + 1)):
                for k in range(1, o + 1):
                    free[start + k - 1] -= s + k
                place(i + 1, latency + start + o)
                for k in range(1, o + 1):
                    free[start + k - 1] += s + k

    place(0, 0)
    return best


def lengths(requests: list[Request]) -> tuple[list[int], list[int]]:
    return [r.prompt for r in requests], [r.output for r in requests]


def backlogs(seed: int, per_kind: int):
    for kind in KINDS:
        rng = random.Random(f"{seed} {kind}")
        for _ in range(per_kind):
            requests, memory = random_requests(rng, kind)
            if all(r.arrival == 0 for r in requests):
                yield requests, memory


def test_volume():
    assert volume(2, 3) == 3 + 4 + 5
    np.testing.assert_array_equal(volume([[1, 4]], [[1], [2]]), [[2, 5], [5, 11]])


def test_one_request_that_fills_the_memory():
    # v = 3, M = 3: half a round to the mean time, half a round from there to the end.
    assert mean_busy_time_bound([2], [1], 3) == pytest.approx(1.0, rel=1e-15)
    assert rounds_bound([2], [1], 3) == 1


def test_the_bound_is_met_by_full_rounds_of_single_tokens():
    # Ten requests of one token that fill a round each end at 1, 2, ..., 10.
    assert mean_busy_time_bound([4] * 10, [1] * 10, 5) == pytest.approx(55.0, rel=1e-15)
    assert rounds_bound([4] * 10, [1] * 10, 5) == 10


def test_worked_example():
    prompt, output = [2, 1, 3, 1], [4, 6, 2, 3]
    expected = literal_bound(prompt, output, 9)
    assert mean_busy_time_bound(prompt, output, 9) == pytest.approx(expected, rel=1e-14)
    assert expected <= 21
    assert rounds_bound(prompt, output, 9) == math.ceil((18 + 27 + 9 + 9) / 9)


def test_lanes_and_padding():
    batch = list(backlogs(1, 4))
    arrays = as_arrays(batch)
    args = [arrays[k] for k in ("prompt", "output", "memory", "num_requests")]
    bound, rounds = mean_busy_time_bound(*args), rounds_bound(*args)
    assert bound.shape == rounds.shape == (len(batch),)
    assert (bound.dtype, rounds.dtype) == (np.float64, np.int64)
    for lane, (requests, memory) in enumerate(batch):
        assert bound[lane] == pytest.approx(literal_bound(*lengths(requests), memory), rel=1e-12)
        total = int(volume(*lengths(requests)).sum())
        assert rounds[lane] == -(-total // memory)


def test_scalar_memory_serves_every_lane():
    prompt, output = np.ones((2, 3, 4), np.int32), np.full((2, 3, 4), 5, np.int32)
    bound = mean_busy_time_bound(prompt, output, 9)
    assert bound.shape == (2, 3)
    np.testing.assert_allclose(bound, mean_busy_time_bound([1] * 4, [5] * 4, 9), rtol=1e-15)


def test_the_largest_memory_stays_exact():
    big = MAX_MEMORY
    n = 9
    v = (big // 2) * (big - big // 2) + (big - big // 2) * (big - big // 2 + 1) // 2
    half = [big // 2] * n, [big - big // 2] * n
    assert int(rounds_bound(*half, big)) == -(-n * v // big)
    assert math.isfinite(mean_busy_time_bound(*half, big))


def test_below_every_policy():
    for requests, memory in backlogs(2, 8):
        bound = latency_bound(*lengths(requests), memory)
        rounds = rounds_bound(*lengths(requests), memory)
        for rule in RULES.values():
            outcome = simulate(requests, memory, rule)
            assert outcome.total_latency >= bound * (1 - 1e-12)
            assert outcome.rounds >= rounds


def test_completions_are_bounded_with_arrivals_too():
    rng = random.Random(3)
    for _ in range(40):
        requests, memory = random_requests(rng, "scattered_arrivals")
        bound = mean_busy_time_bound(*lengths(requests), memory)
        for rule in RULES.values():
            outcome = simulate(requests, memory, rule)
            assert sum(outcome.completion) >= bound
            assert outcome.rounds >= rounds_bound(*lengths(requests), memory)


def test_the_best_bound_is_met_where_nobody_waits_and_by_one_request():
    assert latency_bound([[3]], [[7]], 10) == 7
    assert latency_bound([5, 1, 2], [4, 60, 9], 1000) == 73
    assert latency_bound([4] * 10, [1] * 10, 5) == 55
    padded = latency_bound([[5, 1, 2, 9]], [[4, 60, 9, 9]], [1000], [3])
    assert padded == 73


def test_below_the_optimum_and_the_optimum_below_every_policy():
    rng = random.Random(4)
    ratios = []
    for _ in range(250):
        memory = rng.randint(4, 9)
        requests = []
        for _ in range(rng.randint(1, 4)):
            prompt = rng.randint(1, memory - 1)
            output = rng.randint(1, min(4, memory - prompt))
            lower, upper = sorted(rng.randint(1, 6) for _ in range(2))
            requests.append(Request(prompt, output, lower, upper, 0, rng.randint(1, 6)))
        best = optimum(requests, memory)
        bound = mean_busy_time_bound(*lengths(requests), memory)
        assert bound <= best * (1 + 1e-12)
        tight = latency_bound(*lengths(requests), memory)
        assert max(bound, sum(r.output for r in requests)) <= tight <= best * (1 + 1e-12)
        assert all(best <= simulate(requests, memory, r).total_latency for r in RULES.values())
        ratios.append(bound / best)
    assert max(ratios) > 0.95  # a bound that is always far below would prove little


@pytest.mark.parametrize(
    ("args", "error", "text"),
    [
        (
            ([1, 2], [1, 8], 9),
            ValueError,
            "request 1: prompt \\+ output is 10; expected at most memory",
        ),
        (([[1, 0]], [[1, 1]], 9), ValueError, "lane 0, request 1: prompt is 0"),
        (([1, 1], [1, -3], 9), ValueError, "request 1: output is -3; expected 1 to"),
        (([1, 1], [1, 1], 9, 3), ValueError, "num_requests is 3; expected 0 to 2"),
        (([1.0], [1], 9), TypeError, "prompt: got dtype float64; expected integers"),
        (([1], [True], 9), TypeError, "output: got dtype bool"),
        (([1, 1], [1], 9), ValueError, r"output: got shape \[1\]; expected \[2\]"),
        (([1], [1], 2**31), ValueError, "memory is 2147483648; expected 1 to"),
        (([[1]], [[1]], [9, 9]), ValueError, r"memory: got shape \[2\]; expected \[\] or \[1\]"),
        (([1], [1], 0, 0), ValueError, "memory is 0; expected 1 to"),
        ((1, 1, 9), ValueError, r"prompt: got shape \[\]"),
    ],
)
def test_bad_arguments_are_named(args, error, text):
    with pytest.raises(error, match=text):
        mean_busy_time_bound(*args)
    with pytest.raises(error, match=text):
        rounds_bound(*args)
