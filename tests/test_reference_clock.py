"""The reference under a serving clock: by hand, and against an audit that adds rounds up again."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from jaxsched.engines.reference import LAST_TICK, Clock, Request, simulate
from jaxsched.testing import KINDS, random_requests
from tests.oracle import RULES, a_min, a_min_family

CLOCK = Clock(
    fixed=100, per_prompt_token=10, per_request=5, per_cache_token=1, per_token_beyond=7,
    free_tokens=3,
)  # fmt: skip


def test_by_hand():
    """Two requests that overlap, silence, and one more; memory 20."""
    requests = [Request(2, 3, 3, 3, 0), Request(4, 1, 1, 1, 50), Request(1, 1, 1, 1, 1_000)]
    out = simulate(requests, 20, RULES["h_sf"], clock=CLOCK)
    # Round 0: P 2, D 1, K 3: 100 + 20 + 5 + 3 + 0 = 128. Round 1: P 4, D 2, K 4 + 5:
    # 100 + 40 + 10 + 9 + 7 * 3 = 180. Round 2: P 0, D 1, K 5: 110. The clock then waits at 1,000.
    # Round 3: P 1, D 1, K 2: 100 + 10 + 5 + 2 = 117.
    assert out.starts == [0, 128, 308, 1_000]
    assert out.completion == [3, 2, 4]
    assert out.completion_time == [418, 308, 1_117]
    assert out.first_token_time == [128, 308, 1_117]
    assert out.admission_time == [0, 128, 1_000]
    assert out.total_latency == 418 + (308 - 50) + 117


def test_an_arrival_at_the_start_of_a_round_is_known_in_it():
    requests = [Request(1, 2, 2, 2, 0), Request(1, 1, 1, 1, 10), Request(1, 1, 1, 1, 11)]
    out = simulate(requests, 50, RULES["fcfs"], clock=Clock(10))
    assert out.admission_time == [0, 10, 20]


def test_no_round_starts_when_the_clock_has_ended():
    requests = [Request(1, 3, 3, 3, 0), Request(1, 1, 1, 1, LAST_TICK)]
    out = simulate(requests, 50, RULES["fcfs"], clock=Clock(LAST_TICK // 2))
    assert out.status == "round_limit"
    assert out.starts == [0, LAST_TICK // 2]
    assert out.completion == [-1, -1]
    out = simulate(requests[1:], 50, RULES["fcfs"], clock=Clock(1))
    assert out.starts == []


def live(rng, kind):
    """A random instance with arrivals in ticks, and a random clock."""
    requests, memory = random_requests(rng, kind)
    longest = rng.choice((1, 40, 3_000, 10**9))
    clock = Clock(*(rng.randint(0, longest) for _ in range(5)), rng.randint(0, 30))
    clock = replace(clock, fixed=clock.fixed + 1)
    ticks = clock.lasts(5, 2, 30)
    arrive = lambda r: r.arrival * ticks // 2 + rng.choice((0, 0, 1, ticks // 3))  # noqa: E731
    return [replace(r, arrival=arrive(r)) for r in requests], memory, clock


@pytest.mark.parametrize("kind", KINDS)
def test_an_audit_of_every_round(kind):
    """Rounds are contiguous but for silence; what runs in each says how long it lasts."""
    rng = random.Random(kind)
    for rule in RULES.values():
        requests, memory, clock = live(rng, kind)
        out = simulate(requests, memory, rule, clock=clock)
        end = 0
        for t, start in enumerate(out.starts):
            there = [
                (r, run.admitted)
                for r, own in zip(requests, out.runs, strict=True)
                for run in own
                if run.admitted <= t < run.ended
            ]
            assert there
            new = [r for r, admitted in there if admitted == t]
            assert all(r.arrival <= start for r in new)
            if start != end:  # nobody was there, and the first to arrive ended the silence
                assert start == min(r.arrival for r in new) > end and len(there) == len(new)
            used = sum(r.prompt + t - admitted + 1 for r, admitted in there)
            prompts = sum(r.prompt for r in new)
            end = start + clock.fixed + clock.per_prompt_token * prompts
            end += clock.per_request * len(there) + clock.per_cache_token * used
            end += clock.per_token_beyond * max(0, prompts + len(there) - clock.free_tokens)
            for i, c in enumerate(out.completion):
                assert c != t + 1 or out.completion_time[i] == end
        assert out.status == "finished"


def test_a_clock_changes_no_backlog():
    rng = random.Random(1)
    for rule in RULES.values():
        requests, memory = random_requests(rng, "wrong_intervals")
        requests = [replace(r, arrival=0) for r in requests]
        plain = simulate(requests, memory, rule)
        timed = simulate(requests, memory, rule, clock=CLOCK)
        assert (plain.runs, plain.memory_time) == (timed.runs, timed.memory_time)


def test_rounds_of_one_tick_are_the_unit_clock():
    rng = random.Random(2)
    for rule in RULES.values():
        requests, memory = random_requests(rng, "scattered_arrivals")
        plain = simulate(requests, memory, rule)
        timed = simulate(requests, memory, rule, clock=Clock(1))
        assert plain.completion == timed.completion_time
        assert plain.total_latency == timed.total_latency


@pytest.mark.parametrize("reading", ["on_eviction", "every_round"])
def test_both_readings_are_members_of_the_family(reading):
    running = 1024 if reading == "every_round" else 0
    member = a_min_family(0, 0, 0, 1024, 1, 1024, 0, 0, running, 0)
    rng = random.Random(reading)
    for kind in KINDS:
        for _ in range(10):
            requests, memory = random_requests(rng, kind)
            right = simulate(requests, memory, a_min(reading))
            assert simulate(requests, memory, member) == right


def test_a_watermark_keeps_memory_free_but_never_blocks_an_idle_worker():
    requests = [Request(40, 1, 1, 9), Request(40, 1, 1, 9), Request(15, 1, 1, 9)]
    watermark = replace(RULES["fcfs"], headroom=lambda r: 20)
    out = simulate(requests, 100, watermark)
    assert [own[0].admitted for own in out.runs] == [0, 1, 1]
    assert simulate(requests, 100, RULES["fcfs"]).admissions == [[0], [0], [0]]


@pytest.mark.parametrize(
    ("clock", "message"),
    [(Clock(0), "may last 0 ticks"), (Clock(-1), "fixed is -1"), (Clock(1.5), "fixed is 1.5")],
)
def test_clocks_that_are_refused(clock, message):
    with pytest.raises((TypeError, ValueError), match=message):
        simulate([Request(1, 1, 1, 1)], 5, RULES["h_sf"], clock=clock)
