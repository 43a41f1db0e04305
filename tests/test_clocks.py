"""Clocks: the formula, exact picoseconds, what is refused, and the presets against their source."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsched import Clock, Energy, clocks
from jaxsched.clocks import presets

# The calibration: milliseconds of a round, for P prompt tokens, D requests and K tokens of cache.
MILLISECONDS = {
    "llama2_70b_2xa100": lambda p, d, k: 59.79 + 0.3401 * max(0, p + d - 56) + 1.27e-4 * k,
    "llama2_70b_2xa100_affine": lambda p, d, k: 53.58 + 0.3168 * p + 0.1726 * d + 9.60e-5 * k,
    "llama2_70b_2xa100_decode": lambda p, d, k: 58.26 + 0.1214 * d + 6.12e-5 * k,
    "llama2_70b_4xa100": lambda p, d, k: 39.36 + 0.1862 * max(0, p + d - 64) + 6.54e-5 * k,
    "llama2_7b_a100": lambda p, d, k: 9.81 + 0.0640 * max(0, p + d - 48) + 2.85e-4 * k,
    "llama31_8b_h100": lambda p, d, k: 6.67 + 0.0758 * d,
    "llama31_70b_4xh100": lambda p, d, k: 16.42 + 0.0914 * d,
}
JOULES = {
    "llama2_70b_2xa100": lambda p, d, k: 34.3 + 0.0714 * d + 3.6e-5 * k + 0.30 * p,
    "llama31_8b_h100": lambda p, d, k: 3.32 + 0.0654 * d,
    "llama31_70b_4xh100": lambda p, d, k: 26.73 + 0.3716 * d,
}
ROUNDS = [(0, 1, 1), (0, 40, 16_000), (512, 1, 513), (30, 25, 700), (30, 26, 700), (9, 48, 16_492)]


@pytest.mark.parametrize("name", MILLISECONDS)
def test_presets_are_the_calibration(name: str) -> None:
    clock = clocks.clock(name)
    clocks.check_clock(clock, memory=2**28)
    for round_ in ROUNDS:
        assert clock.seconds(*round_) * 1e3 == pytest.approx(MILLISECONDS[name](*round_), rel=1e-12)
    assert set(clocks.PRESETS) >= set(MILLISECONDS)


@pytest.mark.parametrize("name", JOULES)
def test_energy_is_the_calibration(name: str) -> None:
    energy = clocks.energy(name)
    assert energy is not None
    for p, d, k in ROUNDS:
        assert energy.joules(1, p, d, k) == pytest.approx(JOULES[name](p, d, k), rel=1e-12)
    together = energy.joules(len(ROUNDS), *np.sum(ROUNDS, axis=0))
    assert together == pytest.approx(sum(energy.joules(1, *r) for r in ROUNDS), rel=1e-12)


def test_energy_goes_with_the_hardware() -> None:
    assert clocks.energy("llama2_70b_2xa100_decode") == clocks.energy("llama2_70b_2xa100")
    assert clocks.energy("llama2_7b_a100") is None


def test_wrong_names_are_answered_with_the_right_ones() -> None:
    with pytest.raises(ValueError, match="unknown clock 'a100'.*; expected one of: llama2_70b_2xa"):
        clocks.clock("a100")
    with pytest.raises(ValueError, match="unknown clock 'a100'"):
        clocks.energy("a100")


@pytest.mark.parametrize("name", MILLISECONDS)
def test_presets_are_whole_picoseconds(name: str) -> None:
    clock = clocks.clock(name)
    for field, tick in clocks.ticks(clock)._asdict().items():
        scale = 1 if field == "free_tokens" else 10**12
        # The decimal number as it is written, not the nearest float.
        assert int(tick) == Fraction(repr(getattr(clock, field))) * scale


def test_ticks_round_to_the_nearest() -> None:
    ticks = clocks.ticks(Clock(fixed=1.4e-12, per_prompt_token=1.6e-12, per_request=1e-13))
    assert tuple(ticks[:3]) == (1, 2, 0)


def test_times_round_to_the_nearest_picosecond() -> None:
    seconds = np.asarray([0.0, 1e-12, 0.25, 86_400.000000000001, 4e6])
    assert clocks.to_ticks(seconds).tolist() == [round(Fraction(s) * 10**12) for s in seconds]
    with jax.enable_x64(True):
        inside = jax.jit(clocks.to_ticks)(jnp.asarray(seconds))
    assert np.asarray(inside).tolist() == clocks.to_ticks(seconds).tolist()


@pytest.mark.parametrize("name", ["llama2_70b_2xa100", "llama2_70b_2xa100_affine"])
def test_traced_coefficients(name: str) -> None:
    clock = clocks.clock(name)
    exact = clocks.ticks(clock)
    with jax.enable_x64(True):
        double = jax.jit(clocks.ticks)(clock)
    assert tuple(map(int, double)) == tuple(map(int, exact))
    assert all(leaf.dtype == np.int64 for leaf in double)
    # Without it an argument of jit is float32; a constant inside stays exact.
    single = jax.jit(clocks.ticks)(clock)
    np.testing.assert_allclose([int(x) for x in single], [int(x) for x in exact], rtol=2**-24)
    inside: list[clocks.Ticks] = []
    jax.jit(lambda x: (inside.append(clocks.ticks(clocks.clock(name))), x)[1])(1)
    assert inside == [exact]


BAD: dict[str, tuple[Any, str]] = {
    "nothing": (Clock(), "fixed + per_request + per_cache_token is 0"),
    "prompts only": (Clock(per_prompt_token=1.0), "fixed + per_request + per_cache_token is 0"),
    "negative": (Clock(fixed=1.0, per_request=-1e-3), "per_request is -0.001; expected a finite"),
    "nan": (Clock(fixed=math.nan), "fixed is nan; expected a finite"),
    "infinite": (Clock(fixed=1.0, per_cache_token=math.inf), "per_cache_token is inf"),
    "half a token": (Clock(fixed=1.0, free_tokens=0.5), "free_tokens is 0.5; expected a whole"),
    "slow": (Clock(fixed=1.0, per_cache_token=1e5), "a round at memory = 100 could last 1e+07 s"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_clocks(name: str) -> None:
    clock, message = BAD[name]
    with pytest.raises(ValueError, match="clock: ") as caught:
        clocks.check_clock(clock, memory=100)
    assert message in str(caught.value)
    valid = jax.jit(clocks.valid_clock)
    memory = jnp.asarray([100, 50], jnp.int32)
    assert valid(clock, memory).tolist() == [False, False]
    assert valid(clocks.llama2_70b_2xa100(), memory).tolist() == [True, True]


def test_the_longest_round_depends_on_the_memory() -> None:
    clock = Clock(fixed=1.0, per_request=2e4)
    clocks.check_clock(clock, memory=100)
    with pytest.raises(ValueError, match="a round at memory = 1000 could last"):
        clocks.check_clock(clock, memory=1000)
    memory = jnp.asarray([100, 1000], jnp.int32)
    assert jax.jit(clocks.valid_clock)(clock, memory).tolist() == [True, False]


def test_what_is_no_number() -> None:
    with pytest.raises(TypeError, match="fixed is 'x'; expected a number"):
        clocks.check_clock(Clock(fixed="x"), 100)
    with pytest.raises(TypeError, match="clock is 0.06; expected a Clock such as"):
        clocks.check_clock(0.06, 100)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"fixed has shape \[2\]; expected one number"):
        clocks.check_clock(Clock(fixed=np.ones(2)), 100)


@pytest.mark.parametrize("kind", [Clock, Energy])
def test_pytrees(kind: Any) -> None:
    value = kind(fixed=1.0, per_request=2.0)
    leaves, structure = jax.tree.flatten(value)
    assert structure.unflatten(leaves) == value and hash(value) == hash(kind(1.0, 0.0, 2.0))


def test_the_documentation_has_every_preset() -> None:
    page = (Path(__file__).parent.parent / "docs" / "serving.md").read_text()
    for row in (*presets.clock_rows(), *presets.energy_rows()):
        assert f"| {' | '.join(row)} |" in page, "./scripts/check --fix puts it there"


def test_a_clock_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = clocks.Preset("Mine.", Clock(fixed=0.5), fit="R² 1", source="me")
    monkeypatch.setitem(clocks.PRESETS, "mine", mine)
    assert clocks.clock("mine") is clocks.mine() is mine.clock and "mine" in dir(clocks)
    assert clocks.energy("mine") is None and ("`mine`", "500", "R² 1", "me") in presets.clock_rows()
    with pytest.raises(ValueError, match="expected one of: .*, mine"):
        clocks.clock("other")
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        clocks.other  # noqa: B018


@pytest.mark.parametrize("name", MILLISECONDS)
def test_one_formula_for_all_kinds_of_integers(name: str) -> None:
    exact = clocks.ticks(clocks.clock(name))
    plain = clocks.Ticks(*(int(x) for x in exact))
    rounds = np.asarray(ROUNDS, np.int64).T
    expected = [clocks.round_ticks(plain, *round_) for round_ in ROUNDS]
    assert all(type(ticks) is int for ticks in expected)
    found = clocks.round_ticks(exact, *rounds)
    assert found.dtype == np.int64 and found.tolist() == expected
    with jax.enable_x64(True):
        inside = jax.jit(jax.vmap(clocks.round_ticks, in_axes=(None, 0, 0, 0)))(exact, *rounds)
    assert inside.dtype == np.int64 and inside.tolist() == expected
