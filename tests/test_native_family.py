"""The numbers of a policy in the native engine: the A_min family, headroom, whom to evict."""

from __future__ import annotations

import random

import numpy as np
import pytest

import jaxsched as js
from jaxsched.policies.simplify import simplified
from jaxsched.testing import KINDS as INSTANCES
from tests.native_oracle import KINDS, NUMBERS, draw, expect_equal, large, run, same

MEMBERS = {
    "a_min:on_eviction": (0, 0, 0, 1024, 1, 1024, 0, 0, 0, 0, 1024, 0, 0, 0),
    "a_min:every_round": (0, 0, 0, 1024, 1, 1024, 0, 0, 1024, 0, 1024, 0, 0, 0),
}
ALL_AT_ONCE = (300, 200, 300, 1100, 3, 1024, -512, 30, 700, 100, 900, 600, 5000, 40)

# Units of 1/1024, the floor in tokens.
LEAST = (0, -(2**16), -(2**20), 0, 0, -(2**16), -(2**16), -(2**16), 0, 0, 0, 0, 0, -(2**16))
MOST = (
    2**10,
    2**16,
    2**20,
    2**16,
    2**20,
    2**16,
    2**16,
    2**16,
    2**16,
    2**16,
    2**16,
    2**10,
    2**20,
    2**16,
)
USUAL_LEAST = (0, -2000, -2000, 0, 0, -3000, -3000, -3000, 0, 0, 0, 0, 0, -300)
USUAL_MOST = (1024, 2000, 2000, 3000, 30, 3000, 3000, 3000, 3000, 3000, 2000, 1024, 90_000, 300)


def random_params(rng):
    """Numbers from the whole range, from its ends, or from where good rules are; some are 0."""
    draws = (
        lambda: [rng.randint(a, b) for a, b in zip(LEAST, MOST, strict=True)],
        lambda: [rng.choice((a, b, 0)) for a, b in zip(LEAST, MOST, strict=True)],
        lambda: [rng.randint(a, b) for a, b in zip(USUAL_LEAST, USUAL_MOST, strict=True)],
        lambda: [
            rng.choice((0, rng.randint(a, b))) for a, b in zip(USUAL_LEAST, USUAL_MOST, strict=True)
        ],
    )
    return rng.choice(draws)()


@pytest.mark.parametrize("instances", INSTANCES)
def test_equals_the_reference_whatever_the_numbers(instances):
    """Some rules never finish: requests evict each other for ever. Hence a limit."""
    batch = draw(instances + "family", instances, 5 if instances == "long_outputs" else 60)
    rng = random.Random(instances)
    params = np.array([random_params(rng) for _ in batch])
    half = len(batch) // 2
    params[half:, rng.sample(range(len(LEAST)), rng.randint(6, 12))] = 0  # for those, nobody's
    for part in (slice(half), slice(half, None)):
        expect_equal("a_min_family", batch[part], params=params[part], max_rounds=400)


def test_what_numbers_of_0_leave_out_is_not_read():
    choices = js.a_min_family().choices
    refined, every_round = (np.array([MEMBERS[kind]] * 2) for kind in MEMBERS)
    found = simplified(choices, refined)
    assert found.reads == js.a_min("on_eviction").reads and not found.keys_move
    moving = simplified(choices, every_round)
    assert moving.keys_move and "arrival" not in moving.reads
    assert simplified(choices, refined[:1]) is found
    assert simplified(choices, np.array([MEMBERS["a_min:on_eviction"], ALL_AT_ONCE])) is choices


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_reference_with_headroom(kind):
    for instances in ("wrong_intervals", "scattered_arrivals", "exact_intervals", "tiny_memory"):
        batch = draw(kind + instances, instances, 20)
        rng = random.Random(kind + instances)
        numbers = {"headroom": [rng.randint(0, memory + 5) for _, memory in batch]}
        if kind in NUMBERS:
            numbers["params"] = [NUMBERS[kind] for _ in batch]
        if kind == "a_min_family":
            numbers["params"] = [random_params(rng) for _ in batch]
        for i in range(4):
            part = {name: value[i::4] for name, value in numbers.items()}
            expect_equal(kind, batch[i::4], **part, max_rounds=rng.randint(50, 400))


def test_headroom_that_is_all_of_the_memory_serves_one_after_the_other():
    batch = large(n=200, lanes=2)
    got = run("h_sf", **batch, headroom=2**31 - 2)
    assert (got.rounds == batch["output"].sum(1)).all()
    assert (run("h_sf", **batch, headroom=0).rounds < got.rounds).all()


@pytest.mark.parametrize("kind", MEMBERS)
@pytest.mark.parametrize("span", [0, 3_000])
def test_both_readings_of_a_min_are_members(kind, span):
    batch = large(span=span)
    member = run("a_min_family", **batch, params=[MEMBERS[kind]] * 3)
    assert same(member, run(kind, **batch))
    assert (member.evictions > 0).any() or span > 0


@pytest.mark.parametrize("params", [*MEMBERS.values(), ALL_AT_ONCE], ids=[*MEMBERS, "all at once"])
def test_keys_of_32_and_of_64_bits_agree(params):
    """A request far off with a huge estimate makes the engine compute all keys in 64 bits."""
    narrow = large(n=1_000, lanes=2, span=100)
    wide = {name: value for name, value in narrow.items() if name != "memory"}
    last = dict(prompt=1, output=1, lower=2**31 - 2, upper=2**31 - 2, point=1, arrival=10**8)
    wide = {
        name: np.concatenate([value, np.full((2, 1), last[name])], axis=1)
        for name, value in wide.items()
    }
    wide["memory"] = narrow["memory"]
    expected = run("a_min_family", **narrow, params=[params] * 2)
    got = run("a_min_family", **wide, params=[params] * 2)
    assert (expected.evictions > 20).all() and (got.evictions == expected.evictions).all()
    assert (got.completion[:, :-1] == expected.completion).all()


def test_every_lane_has_its_own_numbers():
    batch = large(n=300, lanes=1)
    rows = {name: np.repeat(value, 3, axis=0) for name, value in batch.items() if name != "memory"}
    params = [*MEMBERS.values(), ALL_AT_ONCE]
    memory = np.array([16_000, 8_000, 4_000])
    got = run("a_min_family", **rows, memory=memory, params=params, headroom=[0, 9, 99])
    for lane, (own, tokens, headroom) in enumerate(zip(params, memory, (0, 9, 99), strict=True)):
        one = run("a_min_family", **batch | {"memory": tokens}, params=[own], headroom=headroom)
        assert (got.completion[lane] == one.completion[0]).all()
