"""The comparison of all rules goes on where it stopped, and knows what it compares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import jaxsched as js
from experiments import comparison
from experiments.engine.common import SHAREGPT, VLLM, Source

pytest.importorskip("numba")


@pytest.fixture
def unit(monkeypatch: pytest.MonkeyPatch) -> comparison.Unit:
    monkeypatch.setattr(comparison, "REQUESTS", 60)
    monkeypatch.setattr(comparison, "sustained", lambda *_: 0.08)
    asked = [("none", "fcfs"), ("real", "svf:point"), ("hindsight", "h_sf")]
    monkeypatch.setattr(comparison, "questions", lambda: iter(asked))
    return comparison.Unit(Source("ShareGPT", SHAREGPT, memory=4096), "Poisson", 0.9, VLLM)


def test_it_goes_on_where_it_was_interrupted(
    unit: comparison.Unit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, asked, simulated = comparison.done(unit, tmp_path / "a", 2), [], comparison.simulated

    def until_the_third(one: Any, known: str, name: str, lanes: int) -> Any:
        asked.append(name)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return simulated(one, known, name, lanes)

    monkeypatch.setattr(comparison, "simulated", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        comparison.done(unit, tmp_path / "b", 2)
    resumed = comparison.done(unit, tmp_path / "b", 2)
    assert asked == ["fcfs", "svf:point", "h_sf", "h_sf"]
    assert comparison.done(unit, tmp_path / "b", 2).equals(resumed)
    assert len(asked) == 4
    pd.testing.assert_frame_equal(resumed.drop(columns="seconds"), whole.drop(columns="seconds"))
    table = comparison.ratios(whole).set_index("policy")
    assert (table["bound"] >= 1).all()
    assert table.loc["fcfs", "mean"] == 1


def test_whatever_is_known_the_requests_are_the_same(unit: comparison.Unit) -> None:
    perfect = unit.instance("perfect", 2)
    for known in ("none", "past", "bit", "real", "half", "hindsight"):
        other = unit.instance(known, 2)
        for name in ("prompt", "output", "arrival"):
            np.testing.assert_array_equal(getattr(other, name), getattr(perfect, name))
    past = unit.instance("past", 2)
    assert (np.sort(past.point) == np.sort(past.output)).all()
    assert (past.point != past.output).any()


def test_the_bound_of_a_stream_on_an_engine_holds(unit: comparison.Unit) -> None:
    instance = unit.instance("perfect", 4)
    bound, worker = unit.bound(instance), comparison.WORKERS[VLLM]
    for name in ("svf:output", "remaining_volume:output", "lcf"):
        result = js.simulate(instance, js.policy(name), worker=worker, engine="native")
        mean = np.mean(result.completion - instance.arrival, axis=-1)
        assert (mean >= bound).all()
        assert name != "svf:output" or (mean < 3 * bound).all()


def test_every_shipped_rule_is_asked() -> None:
    asked = {name.partition("=")[0].removesuffix(":age") for _, name in comparison.questions()}
    left_out = {"priority", "a_min", "svf:output", "remaining_volume:upper", "sorted_f:lower",
                "sorted_f:upper"}  # fmt: skip
    shipped = {*js.policies.SHIPPED, *(f"tuned:{name}" for name in comparison.files.names())}
    assert shipped - asked <= left_out
