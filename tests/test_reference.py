"""The reference against hand-made cases, and against an audit that recomputes its figures."""

import dataclasses
import doctest
import itertools
import random
from collections import Counter

import numpy as np
import pytest

from jaxsched.engines import reference
from jaxsched.engines.reference import Outcome, Request, simulate
from jaxsched.policies import View
from jaxsched.testing import KINDS, as_arrays, random_requests
from tests.oracle import RULES, a_max, a_min, fcfs, h_sf, mc_sf

EXAMPLE = [
    Request(2, 4, 2, 5, point=4),
    Request(1, 6, 1, 8, point=4),
    Request(3, 2, 1, 4, point=4),
    Request(1, 3, 3, 3, point=4),
]
# rule: completion times, total latency, evictions, wasted tokens, rounds
EXAMPLE_OUTCOMES = {
    "h_sf": ([6, 10, 2, 3], 21, 0, 0, 10),
    "a_max": ([7, 13, 3, 3], 26, 0, 0, 13),
    "a_min:on_eviction": ([4, 10, 2, 5], 21, 2, 2, 10),
    "a_min:every_round": ([4, 10, 2, 5], 21, 2, 2, 10),
    "mc_sf": ([4, 13, 7, 11], 35, 1, 4, 13),
    "fcfs": ([4, 9, 6, 11], 30, 4, 7, 11),
}


def exact(prompt: int, output: int, arrival: int = 0) -> Request:
    return Request(prompt, output, output, output, arrival, output)


def instances(seed: int, per_kind: int, kinds=KINDS):
    for kind in kinds:
        rng = random.Random(f"{seed} {kind}")
        for _ in range(per_kind):
            yield random_requests(rng, kind)


# ---- by hand


def test_doctest():
    assert doctest.testmod(reference.model).failed == 0


@pytest.mark.parametrize("name", EXAMPLE_OUTCOMES)
def test_worked_example(name):
    out = simulate(EXAMPLE, 9, RULES[name])
    figures = (out.completion, out.total_latency, out.evictions, out.wasted_tokens, out.rounds)
    assert figures == EXAMPLE_OUTCOMES[name]
    assert out.status == reference.FINISHED


@pytest.mark.parametrize("refine", ["on_eviction", "every_round"])
def test_worked_example_of_a_min_step_by_step(refine):
    out = simulate(EXAMPLE, 9, a_min(refine))
    # Request 1 goes in at 0 and is out at 1 with one token lost; request 2 completes at 2.
    assert out.runs[1][0] == (0, 1, reference.EVICTED)
    assert out.runs[2] == [(0, 2, reference.COMPLETED)]
    assert out.runs[0] == [(0, 4, reference.COMPLETED)]
    assert out.admissions[1] == [run.admitted for run in out.runs[1]]
    assert out.peak_memory == 9
    assert out.first_token[:3] == [1, 1, 1]


def test_one_request():
    out = simulate([Request(3, 2, 1, 1, arrival=10, point=1)], 5, mc_sf())
    assert (out.completion, out.first_token, out.total_latency) == ([12], [11], 2)
    assert (out.peak_memory, out.memory_time, out.rounds) == (5, 4 + 5, 12)


def test_no_requests():
    out = simulate([], 5, h_sf())
    assert (out.completion, out.total_latency, out.rounds) == ([], 0, 0)
    assert out.status == reference.FINISHED


def test_memory_is_free_in_the_round_after_the_last_token():
    out = simulate([exact(1, 3), exact(1, 3)], 4, h_sf())
    assert out.completion == [3, 6]


def test_admission_stops_at_the_first_that_fails():
    # At 0 request 1 does not fit beside 0 (6 + 6 at 2); request 2 would (6 + 3), but stays behind
    # 1. It joins 1 at 4: 7 + 2 at 5. One round earlier it would be 7 + 3.
    requests = [exact(4, 2), exact(4, 3), exact(1, 4)]
    assert simulate(requests, 9, h_sf()).admissions == [[0], [2], [4]]


def test_look_ahead_counts_on_those_that_end_earlier():
    # Peaks 2 + 1 and 1 + 5 add up to 9, but never in the same round: 3 + 2, then 6.
    assert simulate([exact(2, 1), exact(1, 5)], 6, h_sf()).admissions == [[0], [0]]


def test_overdue_request_counts_for_the_next_round_only():
    # At 2 request 0 has outrun its reserve of 1: it counts 1 + 3 for the next round, then nothing.
    # So 1 may enter (4 + 3, then 4 alone), and in round 3 there are 5 + 4 in place of 4.
    requests = [Request(1, 4, 1, 9), Request(2, 2, 2, 9, arrival=2)]
    assert simulate(requests, 6, a_min()).runs == [[(0, 4, "completed")], [(4, 6, "completed")]]
    evicted = [[(0, 3, "evicted"), (3, 7, "completed")], [(2, 4, "completed")]]
    assert simulate(requests, 7, a_min()).runs == evicted
    assert simulate(requests, 9, a_min()).runs == [[(0, 4, "completed")], [(2, 4, "completed")]]


def test_evicted_request_may_return_in_the_same_round():
    # In round 1 two running need 3 + 3 > 5; the later one is evicted, and fits again from zero.
    requests = [Request(1, 2, 1, 1), Request(1, 2, 1, 1)]
    out = simulate(requests, 5, fcfs())
    assert out.runs[1] == [(0, 1, "evicted"), (1, 3, "completed")]
    assert out.first_token == [1, 1]


def test_fcfs_evicts_the_highest_index_of_the_latest_and_serves_it_before_later_arrivals():
    # Round 1 would take 3 + 3 + 3: index 3 leaves, and takes the place left, 2, from zero; round 2
    # would take 4 + 4 + 3. Request 0 arrived after 3 and waits behind it.
    requests = [exact(1, 1, arrival=1), exact(1, 3), exact(1, 3), exact(1, 3)]
    out = simulate(requests, 8, fcfs())
    assert out.runs[3] == [(0, 1, "evicted"), (1, 2, "evicted"), (3, 6, "completed")]
    assert out.completion == [4, 3, 3, 6]


def test_fcfs_evicts_by_admission_before_index():
    # Round 2 would take 4 + 3 > 6, round 3 would take 5 + 3: the later one, index 0, leaves.
    out = simulate([exact(1, 4, arrival=1), exact(1, 4)], 6, fcfs())
    assert out.runs[0] == [(1, 2, "evicted"), (2, 3, "evicted"), (4, 8, "completed")]
    assert out.runs[1] == [(0, 4, "completed")]


def test_a_min_readings_differ_on_the_one_that_has_run_long():
    # Round 6 would take 8 + 4 > 10. The estimates as of the last eviction are 1 and 3; with the
    # tokens seen they are 6 and 3.
    requests = [Request(1, 8, 1, 9), Request(1, 4, 3, 9, arrival=4)]
    literal = simulate(requests, 10, a_min("on_eviction"))
    assert literal.runs == [[(0, 6, "evicted"), (6, 14, "completed")], [(4, 8, "completed")]]
    running = simulate(requests, 10, a_min("every_round"))
    assert running.runs == [
        [(0, 8, "completed")],
        [(4, 6, "evicted"), (6, 7, "evicted"), (8, 12, "completed")],
    ]


def test_evicted_request_comes_back_with_the_refined_estimate():
    # Request 0 leaves at 6 with 6 tokens seen, so request 2 of estimate 2 enters before it (4 + 6
    # in round 6) and it waits. Had its estimate stayed 1, it would return at once and 2 would wait.
    # In round 7, 5 + 7 does not fit: 2 leaves, and returns when 1 is done, with 0 behind it.
    requests = [Request(1, 8, 1, 9), Request(1, 4, 3, 9, arrival=4), Request(5, 2, 2, 9, arrival=6)]
    assert simulate(requests, 10, a_min()).runs == [
        [(0, 6, "evicted"), (8, 16, "completed")],
        [(4, 8, "completed")],
        [(6, 7, "evicted"), (8, 10, "completed")],
    ]


@pytest.mark.parametrize("name", [name for name in RULES if name not in ("fcfs", "priority")])
def test_estimates_never_shrink(name):
    for estimate, generated in ((5, 3), (3, 5)):
        view = View(1, 1, 1, 1, 1, 0, 9, estimate=estimate, generated=generated)
        assert RULES[name].refine(view) == 5


def test_max_batch_caps_the_running_requests():
    requests = [exact(1, 3), exact(1, 1), exact(1, 2)]
    assert simulate(requests, 100, h_sf(), max_batch=1).completion == [6, 1, 3]
    assert simulate(requests, 100, h_sf(), max_batch=2).completion == [4, 1, 2]
    assert simulate(requests, 100, h_sf(), max_batch=3).completion == [3, 1, 2]


def test_round_limit():
    requests = [exact(1, 2), exact(1, 4), exact(1, 1, arrival=50)]
    out = simulate(requests, 100, h_sf(), max_rounds=2)
    assert out.completion == [2, -1, -1]
    assert out.runs == [[(0, 2, "completed")], [(0, 2, "cut")], []]
    assert out.first_token == [1, 1, -1]
    assert (out.total_latency, out.rounds, out.wasted_tokens, out.evictions) == (2, 2, 0, 0)
    assert (out.memory_time, out.status) == (2 + 2 + 3 + 3, reference.ROUND_LIMIT)
    assert simulate(requests, 100, h_sf(), max_rounds=50).completion == [2, 4, -1]
    assert simulate(requests, 100, h_sf(), max_rounds=51).status == reference.FINISHED
    assert simulate(requests, 100, h_sf(), max_rounds=0).completion == [-1, -1, -1]


def test_a_rule_of_ones_own():
    def volume(request: Request) -> int:
        return request.prompt * request.output + request.output * (request.output + 1) // 2

    by_volume = dataclasses.replace(h_sf(), name="svf", admission_key=volume)
    requests = [exact(50, 2), exact(1, 3)]
    assert simulate(requests, 52, h_sf()).completion == [2, 5]
    assert simulate(requests, 52, by_volume).completion == [5, 3]


# ---- what is refused


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"prompt": 0}, ValueError, "request 1: prompt is 0; expected an int >= 1"),
        ({"output": -2}, ValueError, "request 1: output is -2"),
        ({"lower": 0}, ValueError, "request 1: lower is 0"),
        ({"lower": 6}, ValueError, "request 1: lower is 6; expected <= upper = 5"),
        ({"arrival": -1}, ValueError, "request 1: arrival is -1; expected an int >= 0"),
        ({"point": 0}, ValueError, "request 1: point is 0"),
        ({"point": None}, ValueError, "request 1: point is None"),
        ({"output": 8}, ValueError, "request 1: prompt \\+ output is 2 \\+ 8; expected <= memory"),
        ({"output": 4.0}, TypeError, "request 1: output is 4.0 \\(float\\); expected a plain int"),
        ({"prompt": True}, TypeError, "request 1: prompt is True \\(bool\\)"),
        ({"arrival": np.int64(3)}, TypeError, "request 1: arrival is .*int64"),
        ({"upper": None}, TypeError, "request 1: upper is None"),
    ],
)
def test_bad_requests_are_named(change, error, text):
    bad = dataclasses.replace(EXAMPLE[0], **change)
    with pytest.raises(error, match=text):
        simulate([EXAMPLE[0], bad], 9, mc_sf())


def test_point_may_be_missing_where_no_rule_reads_it():
    assert simulate([Request(2, 4, 2, 5)], 9, h_sf()).completion == [4]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"memory": 0}, ValueError),
        ({"memory": 9.0}, TypeError),
        ({"max_rounds": -1}, ValueError),
        ({"max_batch": 0}, ValueError),
    ],
)
def test_bad_options_are_named(options, error):
    with pytest.raises(error, match=next(iter(options))):
        simulate(EXAMPLE, **({"memory": 9, "policy": h_sf()} | options))


def test_bad_rules_are_named():
    wrong = dataclasses.replace(h_sf(), reserve=lambda r: r.estimate / 2)
    with pytest.raises(TypeError, match="request 2: h_sf gives 1.0; expected an int"):
        simulate(EXAMPLE, 9, wrong)


# ---- an audit that shares nothing with the simulator but the record of runs


def audit(requests: list[Request], memory: int, out: Outcome) -> None:
    held: Counter[int] = Counter()  # round -> tokens
    evicted_at: dict[int, list[tuple[int, int]]] = {}
    for i, (request, runs) in enumerate(zip(requests, out.runs, strict=True)):
        assert [run.how for run in runs] == ["evicted"] * (len(runs) - 1) + ["completed"]
        assert runs[0].admitted >= request.arrival
        assert all(a.ended <= b.admitted for a, b in itertools.pairwise(runs))
        assert runs[-1].ended - runs[-1].admitted == request.output
        assert out.completion[i] == runs[-1].ended
        assert out.first_token[i] == out.admissions[i][0] + 1 == runs[0].admitted + 1
        assert out.admissions[i] == [run.admitted for run in runs]
        for run in runs:
            for token, t in enumerate(range(run.admitted, run.ended), start=1):
                held[t] += request.prompt + token
            if run.how == "evicted":
                assert 1 <= run.ended - run.admitted < request.output
                evicted_at.setdefault(run.ended, []).append((i, run.admitted))
    assert max(held.values()) == out.peak_memory <= memory
    assert sum(held.values()) == out.memory_time
    assert out.evictions == sum(len(runs) - 1 for runs in out.runs)
    assert out.wasted_tokens == sum(r.ended - r.admitted for runs in out.runs for r in runs[:-1])
    assert out.total_latency == sum(out.completion) - sum(r.arrival for r in requests)
    assert out.rounds == max(out.completion)
    audit_evictions(requests, memory, out, evicted_at)
    # Never idle while a request waits: busy rounds cover [arrival, completion) of each.
    busy = sorted(held)
    for request, completion in zip(requests, out.completion, strict=True):
        assert sum(request.arrival <= t < completion for t in busy) == completion - request.arrival


def audit_evictions(requests, memory, out, evicted_at) -> None:
    """Evictions happen only when the next round does not fit, and stop as soon as it does."""
    for t, victims in evicted_at.items():
        stay = sum(
            requests[i].prompt + t - run.admitted + 1
            for i, runs in enumerate(out.runs)
            for run in runs
            if run.admitted < t < run.ended
        )
        lost = [requests[i].prompt + t - admitted + 1 for i, admitted in victims]
        assert stay <= memory
        assert stay + sum(lost) > memory
        # The last one to leave was needed: with it back, the round would not fit.
        assert stay + max(lost) > memory


@pytest.mark.parametrize("kind", KINDS)
def test_audit(kind):
    for requests, memory in instances(1, 12 if kind != "long_outputs" else 3, [kind]):
        for rule in RULES.values():
            audit(requests, memory, simulate(requests, memory, rule))


def test_audit_with_a_cap_on_running_requests():
    for requests, memory in instances(2, 3, [k for k in KINDS if k != "long_outputs"]):
        for rule in RULES.values():
            out = simulate(requests, memory, rule, max_batch=2)
            audit(requests, memory, out)
            running = Counter(
                t for runs in out.runs for run in runs for t in range(run.admitted, run.ended)
            )
            assert max(running.values()) <= 2


def test_right_upper_ends_never_evict():
    for requests, memory in instances(3, 6):
        right = [dataclasses.replace(r, upper=max(r.upper, r.output)) for r in requests]
        assert simulate(right, memory, h_sf()).evictions == 0
        assert simulate(right, memory, a_max()).evictions == 0


def test_rules_agree_when_every_prediction_is_exact():
    for requests, memory in instances(4, 6):
        right = [exact(r.prompt, r.output, r.arrival) for r in requests]
        for order in ("svf", ("h_sf", "a_m", "mc_sf")):
            rules = [rule for name, rule in RULES.items() if name.startswith(order)]
            outcomes = [simulate(right, memory, rule) for rule in rules]
            assert len(outcomes) >= 4 and all(out == outcomes[0] for out in outcomes)


def test_round_limit_is_a_prefix_of_the_whole():
    for requests, memory in instances(5, 3, [k for k in KINDS if k != "long_outputs"]):
        for rule in RULES.values():
            whole = simulate(requests, memory, rule)
            limit = sorted(whole.completion)[len(requests) // 2]
            cut = simulate(requests, memory, rule, max_rounds=limit)
            assert cut.completion == [c if c <= limit else -1 for c in whole.completion]
            assert cut.rounds == limit
            before = [[run.admitted for run in runs if run.admitted < limit] for runs in whole.runs]
            assert cut.admissions == before


def test_look_ahead_at_the_ends_is_look_ahead_everywhere():
    rng = random.Random(6)
    for _ in range(300):
        requests, memory = random_requests(rng, "wrong_intervals", rng.randint(2, 8))
        t = rng.randint(1, 9)
        worker = reference.model._PaperWorker(requests, memory, a_min(), None)
        worker.active = {i: rng.randint(0, t - 1) for i in range(1, len(requests))}
        ends = {
            j: max(p + min(requests[j].lower, memory - requests[j].prompt), t + 1)
            for j, p in [*worker.active.items(), (0, t)]
        }
        peak = max(
            sum(
                requests[j].prompt + then - p
                for j, p in [*worker.active.items(), (0, t)]
                if ends[j] >= then
            )
            for then in range(t + 1, max(ends.values()) + 2)
        )
        assert worker.fits(0, t) == (peak <= memory)


# ---- the random instances themselves


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_are_reproducible_and_small(kind):
    first = list(instances(7, 20, [kind]))
    assert first == list(instances(7, 20, [kind]))
    assert all(1 <= len(requests) <= 40 for requests, _ in first)
    if kind not in ("single", "odd_count"):
        assert len(random_requests(random.Random(0), kind, 4)[0]) == 4


def test_kinds_are_what_they_say():
    def of(kind):
        return instances(8, 20, [kind])

    assert all(max(r.prompt + r.output for r in rs) == m for rs, m in of("tight_memory"))
    assert all(r.lower == r.output == r.upper for rs, _ in of("exact_intervals") for r in rs)
    assert any(r.upper > 1_000 * m for rs, m in of("huge_upper") for r in rs)
    assert any(r.output > 1_000 for rs, _ in of("long_outputs") for r in rs)
    wrong = [r for rs, _ in of("wrong_intervals") for r in rs]
    assert any(r.output < r.lower for r in wrong) and any(r.output > r.upper for r in wrong)
    assert all(len(rs) & (len(rs) - 1) for rs, _ in of("odd_count"))
    assert all(len(set(rs)) == 1 for rs, _ in of("identical"))


def test_wrong_kinds_are_answered_with_the_right_ones():
    with pytest.raises(ValueError, match="kind is 'tie'; expected one of .*ties"):
        random_requests(random.Random(0), "tie")
    with pytest.raises(ValueError, match="n is 0"):
        random_requests(random.Random(0), "ties", 0)
    with pytest.raises(ValueError, match="n is 2; expected 1"):
        random_requests(random.Random(0), "single", 2)
    with pytest.raises(ValueError, match="n is 8; expected no power of two"):
        random_requests(random.Random(0), "odd_count", 8)


def test_as_arrays_pads():
    arrays = as_arrays([(EXAMPLE, 9), (EXAMPLE[1:2], 20)])
    assert all(array.dtype == np.int32 for array in arrays.values())
    np.testing.assert_array_equal(arrays["prompt"], [[2, 1, 3, 1], [1, 0, 0, 0]])
    np.testing.assert_array_equal(arrays["upper"], [[5, 8, 4, 3], [8, 0, 0, 0]])
    np.testing.assert_array_equal(arrays["memory"], [9, 20])
    np.testing.assert_array_equal(arrays["num_requests"], [4, 1])


def test_as_arrays_refuses_what_it_cannot_hold():
    with pytest.raises(ValueError, match="lane 0, request 0: point is None"):
        as_arrays([([Request(1, 1, 1, 1)], 9)])
    with pytest.raises(OverflowError):
        as_arrays([([Request(1, 1, 1, 2**31, 0, 1)], 9)])
