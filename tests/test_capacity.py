"""Capacity against a scan of rates with the reference, and clocks fitted to rounds made by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import jaxsched as js
from jaxsched import cli, clocks
from jaxsched.clocks import fit
from jaxsched.engines import reference
from jaxsched.studies import capacity
from tests import oracle

CLOCK = "fixed=0.05,per_prompt_token=1e-3,per_cache_token=1e-4"
MEMORY, LIMIT, AT = 120, 8.0, 90


@pytest.fixture(scope="module")
def requests() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    gaps = rng.exponential(1.0, 40)
    return pd.DataFrame(
        {
            "arrived_at": np.cumsum(gaps).round(3) + 7,
            "num_prefill_tokens": rng.integers(1, 40, 40),
            "num_decode_tokens": rng.integers(1, 60, 40),
        }
    )


def attained(requests: pd.DataFrame, policy: str, rate: float) -> float:
    """Percent of the requests that end within the limit, by the reference."""
    arrival = requests["arrived_at"] - requests["arrived_at"].min()
    arrival = arrival * (len(arrival) - 1) / arrival.max() / rate
    listed = [
        reference.Request(s, o, o, o, int(np.rint(a * 1e12)), o)
        for s, o, a in zip(
            requests["num_prefill_tokens"], requests["num_decode_tokens"], arrival, strict=True
        )
    ]
    ticks = reference.Clock(*map(int, clocks.ticks(clocks.clock(CLOCK))))
    outcome = reference.simulate(listed, MEMORY, oracle.RULES[policy], clock=ticks)
    took = [c - r.arrival for c, r in zip(outcome.completion_time, listed, strict=True)]
    return 100 * np.mean([t <= LIMIT * 1e12 for t in took])


def test_capacity(requests: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    trace, out = tmp_path / "trace.csv", tmp_path / "out"
    requests.to_csv(trace, index=False)
    command = [
        "capacity", str(trace), "--memory", str(MEMORY), "--clock", CLOCK, "--policies",
        "fcfs,h_sf", "--slo", f"e2e={LIMIT:g}", "--at", str(AT), "--out", str(out), "--json",
    ]  # fmt: skip
    assert cli.main(command) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    volume = (
        requests["num_prefill_tokens"] * requests["num_decode_tokens"]
        + requests["num_decode_tokens"] * (requests["num_decode_tokens"] + 1) / 2
    ).sum()
    busy = (
        0.05 * np.ceil(volume / MEMORY)
        + 1e-3 * requests["num_prefill_tokens"].sum()
        + 1e-4 * volume
    )
    tried = pd.read_parquet(out / "results.parquet")
    assert [row["policy"] for row in rows] == ["fcfs", "h_sf"]
    for row in rows:
        own = tried[tried["policy"] == row["policy"]]
        assert row["ceiling"] == pytest.approx(40 / busy)
        assert attained(requests, row["policy"], row["rate"]) == row["attainment"] >= AT
        above = own[own["rate"] > row["rate"]].iloc[0]
        assert above["rate"] <= 1.005 * row["rate"] and above["attainment"] < AT
        assert attained(requests, row["policy"], above["rate"]) == above["attainment"]
        assert (own[own["rate"] < row["rate"]]["attainment"] >= AT).all()
    assert cli.main(["report", str(out)]) == 0
    assert "Capacity: out" in (out / "report.html").read_text()


def test_the_bracket_of_a_level() -> None:
    assert capacity.rate_bracket([3, 1, 2], [50, 99, 98], 90) == (2, 3)
    assert capacity.rate_bracket([1, 2, 3], [99, 50, 99], 90) == (1, 2)
    assert capacity.rate_bracket([1, 2], [np.nan, 99], 90) == (0, 1)
    assert capacity.rate_bracket([1, 2], [99, 99], 90) == (2, np.inf)


@pytest.mark.parametrize(
    ("slo", "text"),
    [("ttft=0", "slo: got 'ttft=0'"), ("ttft=1,ttft=2", "each once"), ("itl=1", "'itl=1'")],
)
def test_levels_that_are_none(slo: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        capacity.CapacityConfig(
            path="x", memory=9, policies=("fcfs",), clock=CLOCK, arrivals="trace", slo=slo
        )


@pytest.mark.parametrize(
    "law",
    [
        js.Clock(0.05, per_prompt_token=3e-4, per_request=2e-4, per_cache_token=1e-7),
        js.Clock(0.06, per_cache_token=1e-6, per_token_beyond=3e-4, free_tokens=57),
    ],
    ids=["affine", "hinge"],
)
def test_a_clock_is_found_again(
    law: js.Clock, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    active = rng.integers(1, 120, 300)
    prompts = np.where(rng.random(300) < 0.3, rng.integers(1, 900, 300), 0)
    prompts[:40] = np.maximum(0, 57 - active[:40])  # rounds at the knee
    cache = active * rng.integers(50, 400, 300)
    beyond = np.maximum(0, prompts + active - law.free_tokens)
    seconds = law.fixed + law.per_prompt_token * prompts + law.per_request * active
    seconds = seconds + law.per_cache_token * cache + law.per_token_beyond * beyond
    table = pd.DataFrame(
        {"prompt_tokens": prompts, "active": active, "cache_tokens": cache, "seconds": seconds}
    )
    path = tmp_path / "rounds.csv"
    table.to_csv(path, index=False)
    assert cli.main(["clock", "fit", str(path)]) == 0
    assert "R² 1.0000" in capsys.readouterr().out
    found = clocks.clock(str(tmp_path / "rounds.toml"))
    again = dataclasses.asdict(found)
    for name, value in dataclasses.asdict(law).items():
        assert again[name] == pytest.approx(value, rel=2e-2, abs=1e-9), name
    (tmp_path / "rounds.toml").write_text("lanes = 2\n")  # no clock, so it stays
    assert cli.main(["clock", "fit", str(path)]) == 1
    assert "rounds.toml: coefficient: unknown value" in capsys.readouterr().err
    assert (tmp_path / "rounds.toml").read_text() == "lanes = 2\n"
    path.write_text(path.read_text().replace("seconds", "second"))
    with pytest.raises(ValueError, match="line 1: no column seconds"):
        fit.read_measurements(path)
    path.write_text("prompt_tokens,active,cache_tokens,seconds\n1,1,1,1\n1,-1,1,1\n")
    with pytest.raises(ValueError, match="line 3: active: expected a number of at least 0"):
        fit.read_measurements(path)


def test_clocks_by_their_coefficients() -> None:
    assert clocks.clock("fixed=0.02, per_request=1e-4") == js.Clock(0.02, per_request=1e-4)
    assert clocks.energy("fixed=0.02") is None
    for text, said in (
        ("fixd=1", "did you mean fixed"), ("fixed=x", "'x' is not a number"),
        ("fixed=1,fixed=2", "twice"), ("fixed=-1", "at least 0"),
        ("llama2_7b", "did you mean llama2_7b_a100"), ("per_prompt_token=1", "stand still"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            clocks.clock(text)
