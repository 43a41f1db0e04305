"""The serving clock of the native engine, to the picosecond."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from jaxsched.engines import reference
from jaxsched.testing import KINDS as INSTANCES
from tests.native_oracle import KINDS, NUMBERS, draw, expect_equal, large, rule_of, run

END = reference.LAST_TICK
LLAMA = (59_790_000_000, 0, 0, 127_000, 340_100_000, 56)  # 59.79 ms, ..., a hinge at 56 tokens
AFFINE = (53_580_000_000, 316_800_000, 172_600_000, 96_000, 0, 0)


def random_clock(rng, memory):
    """Rounds of a tick or of days, coefficients that are 0 or huge, hinges above and below."""
    draws = (
        lambda: rng.choice(([1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0])),
        lambda: [*rng.choice((LLAMA, AFFINE))[:5], rng.randint(0, 80)],
        lambda: [rng.randint(0, 9) for _ in range(5)] + [rng.randint(0, 30)],
        lambda: [rng.choice((0, rng.randint(0, 2**45))) for _ in range(6)],
        lambda: [rng.randint(0, 2**60), *(rng.choice((0, 1, 2**44)) for _ in range(4)), 2**61],
    )
    while True:
        clock = rng.choice(draws)()
        moves = clock[0] + clock[2] + clock[3] > 0
        if moves and clock[0] + sum(clock[1:5]) * memory < 2**61:
            return clock


def live(rng, requests, memory, kind, clock):
    """The requests with arrivals around the starts of rounds, in bursts, and after silence."""
    backlog = [replace(request, arrival=0) for request in requests]
    rule = rule_of(kind, NUMBERS.get(kind))
    starts = reference.simulate(backlog, memory, rule, 300, clock=reference.Clock(*clock)).starts
    end = starts[-1]
    burst = rng.randint(0, end)
    draws = (
        lambda: rng.choice(starts) + rng.choice((-1, 0, 0, 1)),
        lambda: rng.randint(0, 3 * end),
        lambda: rng.choice((burst, burst, 9 * end + 1)),
        lambda: rng.choice((END - 1, END, burst, 2**63 - 1)),
    )
    arrive = rng.choice(draws[: rng.choice((1, 3, 4))])
    return [replace(r, arrival=max(0, min(arrive(), 2**63 - 1))) for r in backlog]


@pytest.mark.parametrize("instances", INSTANCES)
def test_equals_the_reference(instances):
    few = instances == "long_outputs"
    for kind in random.Random(instances).sample(list(KINDS), 2) if few else KINDS:
        rng = random.Random(kind + instances)
        batch = draw(kind + instances, instances, 2 if few else 8)
        clocks = [random_clock(rng, memory) for _, memory in batch]
        batch = [
            (live(rng, requests, memory, kind, clock), memory)
            for (requests, memory), clock in zip(batch, clocks, strict=True)
        ]
        numbers = {"params": [NUMBERS[kind]] * len(batch)} if kind in NUMBERS else {}
        limit = rng.choice((2_000, 400, rng.randint(0, 60)))
        cap = rng.choice((0, 0, rng.randint(1, 5)))
        expect_equal(kind, batch, max_rounds=limit, max_batch=cap, clock=clocks, **numbers)


def start_of(rounds, clock, prompt):
    """When round number `rounds` starts if one request runs from 0 on; it must be at least 1."""
    fixed, per_prompt, per_request, per_cache, beyond, free = clock
    cache = rounds * prompt + rounds * (rounds + 1) // 2
    every = fixed + per_request + beyond * max(0, 1 - free)
    first = per_prompt * prompt + beyond * (max(0, prompt + 1 - free) - max(0, 1 - free))
    return first + rounds * every + per_cache * cache


@pytest.mark.parametrize("seed", range(4))
def test_a_jump_over_millions_of_rounds_ends_at_the_very_round(seed):
    """A long request, and one that arrives before, at or after the start of a round of it."""
    rng, lanes, memory = random.Random(seed), 200, 2**28
    clocks, prompts, arrivals, expected = [], [], [], []
    for _ in range(lanes):
        clock, prompt = random_clock(rng, memory), rng.randint(1, 10**6)
        seen = rng.randint(1, 2 ** rng.randint(1, 27) - 1)
        while start_of(seen, clock, prompt) >= END and seen > 1:
            seen //= 2
        arrival = min(start_of(seen, clock, prompt), END - 1) + rng.choice((-1, 0, 0, 1))
        arrival = max(1, arrival)
        seen += arrival > start_of(seen, clock, prompt)
        while seen > 1 and start_of(seen - 1, clock, prompt) >= arrival:
            seen -= 1
        start = start_of(seen, clock, prompt)
        expected.append((seen, start) if start < END else (-1, -1))
        clocks.append(clock)
        prompts.append([prompt, 1])
        arrivals.append([0, arrival])
    got = run("fcfs", prompt=prompts, output=[[2**27, 1]] * lanes, lower=1, upper=1, memory=memory,
              arrival=np.array(arrivals), clock=clocks)  # fmt: skip
    found = zip(got.first_admission[:, 1].tolist(), got.times[:, 1, 0].tolist(), strict=True)
    assert list(found) == expected
    assert sum(seen > 1_000_000 for seen, _ in expected) > 20


def test_no_round_starts_once_the_clock_has_ended():
    clock = [[END // 4, 0, 0, 0, 0, 0]] * 4
    arrival = [[0], [END - 1], [END], [2**63 - 1]]
    got = run("h_sf", prompt=np.ones((4, 1), int), output=[[9], [1], [1], [1]], memory=99,
              lower=1, upper=1, arrival=arrival, clock=clock)  # fmt: skip
    assert got.status.tolist() == [1, 0, 1, 1]
    assert got.memory_time.tolist() == [sum(range(2, 6)), 2, 0, 0]
    assert got.times[:, 0].tolist() == [[0, END // 4, -1], [END - 1, END - 1 + END // 4] + [
        END - 1 + END // 4], [-1] * 3, [-1] * 3]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_ticks_of_one_round_are_rounds(kind):
    batch = large(n=1_000, span=5_000)
    plain = run(kind, **batch)
    timed = run(kind, **batch, clock=[[1, 0, 0, 0, 0, 0]] * 3)
    assert (timed.times[:, :, 2] == plain.completion).all()
    assert (timed.times[:, :, 0] == plain.first_admission).all()
    assert (timed.preemptions == plain.preemptions).all()


def rebuilt(batch, lane, got, clock):
    """Start, end and memory in use of every round, from nothing but the runs and the arrivals."""
    prompt, output = batch["prompt"][lane], batch["output"][lane]
    completion, evicted = got.completion[lane], got.history[lane, : got.evictions[lane]]
    final = np.stack([np.arange(len(prompt)), completion - output, completion], axis=1)
    who, start, stop = np.concatenate([evicted, final]).astype(np.int64).T
    rounds = completion.max()
    admitted, active, cache = np.zeros((3, rounds + 1), np.int64)
    np.add.at(admitted, start, prompt[who])
    np.add.at(active, start, 1)
    np.add.at(active, stop, -1)
    np.add.at(cache, start, prompt[who])
    np.add.at(cache, stop, start - stop - prompt[who])
    active = active.cumsum()
    cache = (cache + active).cumsum()
    fixed, per_prompt, per_request, per_cache, beyond, free = clock
    lasts = fixed + per_prompt * admitted + per_request * active + per_cache * cache
    lasts += beyond * np.maximum(0, admitted + active - free)
    first = np.full(rounds + 1, END)
    np.minimum.at(first, start, batch["arrival"][lane][who])
    starts, now = np.zeros(rounds, np.int64), 0
    for t in range(rounds):  # who enters an empty worker ends a silence
        starts[t] = now = max(now, first[t] if first[t] < END else 0)
        now += lasts[t]
    return starts, starts + lasts[:-1], cache


@pytest.mark.parametrize("clock", [LLAMA, AFFINE], ids=["hinge", "affine"])
@pytest.mark.parametrize("kind", KINDS)
def test_runs_and_arrivals_say_when_every_round_was(kind, clock):
    """At full size: the history is complete, and the clock is what its rounds add up to."""
    batch = large(n=1_500, lanes=2, span=4_000)
    batch["arrival"] = batch["arrival"] * 10**11 + 12_345
    numbers = dict(clock=[clock] * 2)
    most = max(1, int(run(kind, **batch, **numbers).evictions.max()))
    got = run(kind, **batch, **numbers, history=most)
    for lane in range(2):
        starts, ends, cache = rebuilt(batch, lane, got, clock)
        assert (got.times[lane, :, 0] == starts[got.first_admission[lane]]).all()
        assert (got.times[lane, :, 1] == ends[got.first_admission[lane]]).all()
        assert (got.times[lane, :, 2] == ends[got.completion[lane] - 1]).all()
        assert (got.times[lane, :, 0] >= batch["arrival"][lane]).all()
        assert cache.max() == got.peak_memory[lane] <= batch["memory"]
        assert cache.sum() == got.memory_time[lane]


def test_a_history_has_the_first_evictions():
    batch = large(n=300, lanes=2)
    whole = run("a_min:on_eviction", **batch, history=10_000)
    part = run("a_min:on_eviction", **batch, history=7)
    assert (part.history == whole.history[:, :7]).all()
    for lane, evictions in enumerate(whole.evictions):
        request, admitted, evicted = whole.history[lane, :evictions].T
        assert (np.diff(evicted) >= 0).all() and (admitted < evicted).all()
        assert (np.bincount(request, minlength=300) == whole.preemptions[lane]).all()
        assert (evicted - admitted).sum() == whole.wasted_tokens[lane]
        assert (whole.history[lane, evictions:] == -1).all()
    assert not hasattr(run("a_min:on_eviction", **batch), "history")
