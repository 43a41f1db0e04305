"""The numbers of a policy in the native engine: the A_min family, headroom, whom to evict."""

from __future__ import annotations

import random

import numpy as np
import pytest

from jaxsched.testing import KINDS as INSTANCES
from tests.native_oracle import NUMBERS, draw, expect_equal, large, native

MEMBERS = {
    "a_min:on_eviction": (0, 0, 0, 1024, 1, 1024, 0, 0, 0, 0),
    "a_min:every_round": (0, 0, 0, 1024, 1, 1024, 0, 0, 1024, 0),
}
ALL_AT_ONCE = (300, 200, 300, 1100, 3, 1024, -512, 30, 700, 100)

# Units of 1/1024, the floor in tokens.
LEAST = (0, -(2**16), -(2**20), 0, 0, -(2**16), -(2**16), -(2**16), 0, 0)
MOST = (2**10, 2**16, 2**20, 2**16, 2**20, 2**16, 2**16, 2**16, 2**16, 2**16)
USUAL_LEAST = (0, -2000, -2000, 0, 0, -3000, -3000, -3000, 0, 0)
USUAL_MOST = (1024, 2000, 2000, 3000, 30, 3000, 3000, 3000, 3000, 3000)


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
    params = [random_params(rng) for _ in batch]
    expect_equal("a_min_family", batch, params=params, max_rounds=400)


@pytest.mark.parametrize("kind", native.KINDS)
def test_equals_the_reference_with_headroom(kind):
    for instances in ("wrong_intervals", "scattered_arrivals", "exact_intervals", "tiny_memory"):
        batch = draw(kind + instances, instances, 20)
        rng = random.Random(kind + instances)
        numbers = {"headroom": [rng.randint(0, memory + 5) for _, memory in batch]}
        if kind in NUMBERS:
            numbers["params"] = [NUMBERS[kind] for _ in batch]
        if kind == "a_min_family":
            numbers["params"] = [random_params(rng) for _ in batch]
        expect_equal(kind, batch, **numbers, max_rounds=[rng.randint(50, 400) for _ in batch])


def test_headroom_that_is_all_of_the_memory_serves_one_after_the_other():
    batch = large(n=200, lanes=2)
    got = native.run("h_sf", **batch, headroom=2**31 - 1)
    assert (got.rounds == batch["output"].sum(1)).all()
    assert (native.run("h_sf", **batch, headroom=0).rounds < got.rounds).all()


@pytest.mark.parametrize("kind", MEMBERS)
@pytest.mark.parametrize("span", [0, 3_000])
def test_both_readings_of_a_min_are_members(kind, span):
    batch = large(span=span)
    member = native.run("a_min_family", **batch, params=[MEMBERS[kind]] * 3)
    for one, other in zip(member[:-2], native.run(kind, **batch)[:-2], strict=True):
        assert (one == other).all()
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
    expected = native.run("a_min_family", **narrow, params=[params] * 2)
    got = native.run("a_min_family", **wide, params=[params] * 2)
    assert (expected.evictions > 20).all() and (got.evictions == expected.evictions).all()
    assert (got.completion[:, :-1] == expected.completion).all()


def test_every_lane_has_its_own_numbers():
    batch = large(n=300, lanes=1)
    rows = {name: np.repeat(value, 3, axis=0) for name, value in batch.items() if name != "memory"}
    params = [*MEMBERS.values(), ALL_AT_ONCE]
    memory = np.array([16_000, 8_000, 4_000])
    got = native.run("a_min_family", **rows, memory=memory, params=params, headroom=[0, 9, 99])
    for lane, (own, tokens, headroom) in enumerate(zip(params, memory, (0, 9, 99), strict=True)):
        one = native.run(
            "a_min_family", **batch | {"memory": tokens}, params=[own], headroom=headroom
        )
        assert (got.completion[lane] == one.completion[0]).all()


@pytest.mark.parametrize("column", range(10))
def test_numbers_out_of_range_mark_the_lane(column):
    params = np.array([MEMBERS["a_min:on_eviction"]] * 4)
    params[:2, column] = LEAST[column], MOST[column]
    params[2:, column] = LEAST[column] - 1, MOST[column] + 1
    one = np.ones((4, 1), np.int32)
    got = native.run("a_min_family", prompt=one, output=one, lower=1, upper=1, memory=9,
                     params=params)  # fmt: skip
    assert got.status.tolist() == [0, 0, 2, 2]


def test_the_upper_bound_is_read_only_where_the_estimate_starts_above_the_lower():
    one = np.ones((2, 1), np.int32)
    fields = dict(prompt=one, output=one, lower=2 * one, memory=9)
    params = np.array([MEMBERS["a_min:on_eviction"]] * 2)
    assert native.run("a_min_family", **fields, params=params).status.tolist() == [0, 0]
    params[1, 0] = 1
    with pytest.raises(ValueError, match="upper: missing"):
        native.run("a_min_family", **fields, params=params)
    got = native.run("a_min_family", **fields, upper=one, params=params)
    assert got.status.tolist() == [0, 2]  # an interval that ends before it begins


def test_refuses_numbers_of_the_wrong_shape():
    one = np.ones((1, 1), np.int32)
    with pytest.raises(ValueError, match=r"params: missing; expected integers of shape \[1, 10\]"):
        native.run("a_min_family", prompt=one, output=one, lower=1, memory=2)
    with pytest.raises(ValueError, match=r"params: got shape \[10\]; expected \[1, 10\]"):
        native.run("a_min_family", prompt=one, output=one, lower=1, memory=2, params=[0] * 10)
    with pytest.raises(TypeError, match="params: got dtype float64; expected integers"):
        native.run("a_min_family", prompt=one, output=one, lower=1, memory=2, params=0.5)
    with pytest.raises(ValueError, match="headroom is -1; expected 0 to"):
        native.run("h_sf", prompt=one, output=one, memory=2, headroom=-1)
