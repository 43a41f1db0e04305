"""`best:hindsight`, the two-sided gap in tables, and `jaxsched worst-case`."""

from __future__ import annotations

import itertools
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

import jaxsched as js
from jaxsched import cli
from jaxsched.report import study_tables
from jaxsched.studies import adversary
from jaxsched.studies.backlog import BacklogConfig
from jaxsched.studies.config import LengthsConfig
from tests.test_optimum import draw, instance, replayed

BEST = js.policy("best:hindsight")


@pytest.mark.parametrize("last", [0, 12])
def test_it_runs_a_schedule_that_no_policy_beats(last: int) -> None:
    rng = np.random.default_rng(last)
    several = [draw(rng, n, 30, 20, last) for n in (14, 9, 14)]
    batch = js.stack([instance(requests, 30) for requests in several])
    found = js.simulate(batch, BEST)
    assert np.all(found.evictions == 0)
    for i, requests in enumerate(several):
        completion = found.completion[i, : len(requests)]
        assert replayed(requests, 30, completion) == found.total_latency[i]
        assert found.rounds[i] == completion.max()
    assert np.all(js.lower_bound(batch) <= found.total_latency)
    for policy in (js.h_sf(), js.a_max(), js.fcfs(), js.svf("output")):
        assert np.all(found.total_latency <= js.simulate(batch, policy).total_latency)
    assert np.any(found.total_latency < js.simulate(batch, js.h_sf()).total_latency)


def test_what_no_schedule_is_made_for_is_refused() -> None:
    given = instance([(1, 2, 0), (1, 3, 0)], 9)
    with pytest.raises(ValueError, match="plans whole rounds; expected no max_batch"):
        js.simulate(given, BEST, max_batch=1)
    with pytest.raises(ValueError, match="expected no clock"):
        seconds = given.replace(arrival=[0.0, 1.0])
        js.simulate(seconds, BEST, clock=js.clocks.llama2_70b_2xa100())
    with pytest.raises(ValueError, match="expected no jit or vmap"):
        jax.jit(lambda lanes: js.simulate(lanes, BEST).completion)(given)


def test_tables_have_both_sides(tmp_path: Path) -> None:
    config = BacklogConfig(
        lanes=2, memory=300, num_requests=(12,), policies=("a_max", "best:hindsight", "h_sf"),
        predictions=("relative:0.5",), lengths=LengthsConfig(max_total=250),
    )  # fmt: skip
    (table,) = config.work().run(tmp_path)
    best = table[table["policy"] == "best:hindsight"]
    assert (best["ratio_to_best"] == 1).all() and (best["ratio_to_bound"] >= 1).all()
    assert (table["ratio_to_best"] <= table["ratio_to_bound"]).all()
    assert (table[table["policy"] == "a_max"]["ratio_to_best"] > 1).all()
    answer = study_tables.backlog_job(table)
    headings = answer.tables[0].headings
    place = headings.index("/ best")
    assert headings[place - 1 : place + 2] == ("/ h_sf", "/ best", "/ bound")
    assert any("above the optimum" in note for note in answer.notes)


def test_evolution_finds_worse_than_by_hand() -> None:
    game = adversary.Game(js.policy("a_min:every_round"), "h_sf", 64, 24, 16, 63)
    seen = list(adversary.evolve(game, 64, 6))
    ratios = [one.ratio for one in seen]
    assert ratios == sorted(ratios) and ratios[-1] > 1.05 * ratios[0]
    worst = seen[-1].output
    assert worst.min() >= 16 and worst.max() <= 63
    total, evictions = game.replay(worst)
    base = sum(js.simulate(game.instance(worst), js.h_sf()).completion.tolist())
    assert total / base == pytest.approx(ratios[-1]) and evictions > 0
    least, most = adversary.proved_ratio(game, worst)
    assert total / base <= least <= most


def test_a_local_worst_has_no_worse_neighbour() -> None:
    game = adversary.Game(js.policy("a_max"), "h_sf", 12, 5, 3, 6)
    start = game.by_hand()["1 long last"]
    seen = list(adversary.worsen(game, start))
    ratios = [around.ratio for around in seen]
    assert len(seen) > 1 and ratios == sorted(set(ratios))
    assert ratios[1] >= seen[0].worst_ratio > ratios[0] == game.ratio(start)
    # The neighbours, made otherwise.
    worst, place = seen[-1].output, np.arange(5)
    ends = np.cumsum([len(list(run)) for _, run in itertools.groupby(worst)])
    stretches = [(i, i + 1) for i in place] + list(itertools.pairwise((0, *ends)))
    around = {
        tuple(np.where((i <= place) & (place < j), length, worst))
        for i, j in stretches for length in range(3, 7)
    }  # fmt: skip
    around |= {tuple(np.insert(np.delete(worst, i), j, worst[i])) for i in place for j in place}
    around.remove(tuple(worst))
    assert len(around) <= seen[-1].number < len(around) + 5  # to swap two is to move either
    assert not len(seen[-1].worse)
    assert game.ratio(np.array(list(around))).max() <= ratios[-1]


@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_a_max_is_between_what_is_proved_of_it_and_the_worst_of_two_lengths(alpha: float) -> None:
    memory, prompt, upper = 200, 3, 60
    lower = round(alpha * upper)
    game = adversary.Game(js.policy("a_max"), "h_sf", memory, 300, lower, upper, prompt)
    cases = np.stack(list(game.by_hand().values()))
    slots = memory // (prompt + upper)  # so many it always runs
    found = js.simulate(game.instance(cases), game.policy)
    before = np.cumsum(cases, axis=1) - cases
    assert (found.completion <= before // slots + cases).all()
    most = 1 + memory / (slots * lower) * (1 + np.sqrt(1 + 2 * np.log(upper / lower)))
    ratios = dict(zip(game.by_hand(), found.total_latency / game_bound(game, cases), strict=True))
    assert 1 < max(ratios.values()) <= most
    mixed = max(ratio for name, ratio in ratios.items() if name.startswith("longest first"))
    assert mixed > max(ratio for name, ratio in ratios.items() if name.endswith("long first"))


def game_bound(game: adversary.Game, cases: np.ndarray) -> np.ndarray:
    return js.mean_busy_time_bound(game.prompt * np.ones_like(cases), cases, game.memory)


def test_worst_case_writes_what_simulate_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--memory", "32", "--requests", "10", "--lanes", "24", "--generations", "1", "--check"]
    out = tmp_path / "worst"
    assert cli.main(["worst-case", *asked, "--against", "optimal", "--out", str(out)]) == 0
    command = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("jaxsched sim"))
    assert (out / "worst_case.png").exists()
    assert len(pd.read_csv(out / "worst_case.csv")) == 10
    assert cli.main(command.split()[1:]) == 0
    assert cli.main(["report", str(out), "--csv"]) == 0
    header, row = capsys.readouterr().out.splitlines()[-2:]
    assert header.startswith("policy,against,memory,n,") and row.startswith("a_min:on_eviction,op")
    text = (out / "report.html").read_text()
    assert "worst case made by hand" in text and "--against optimal" in text and "<figure>" in text
    assert "single changes, none worse" in text and "--check<" in text
    assert cli.main(["worst-case", "--alpha", "2"]) == 1
    assert "alpha is 2.0; expected more than 0 and at most 1" in capsys.readouterr().err
