"""Pages of results: every command's folder has one, it needs nothing else, and its curves are
those of the simulation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import jaxsched as js
from jaxsched import clocks, metrics, toml
from jaxsched.cli import main
from jaxsched.report import figures, plots, reports, study_tables
from jaxsched.studies import curves, store
from jaxsched.tuning.config import TuneConfig
from tests.small_tuning import TRACE

RUN = """
lanes = 2
memory = 300
num_requests = [8]
policies = ["h_sf", "a_max", "fcfs"]
predictions = ["relative:0.5"]
lengths = {source = "sharegpt", max_total = 300}
"""
SERVING = """
job = "serving"
lanes = 2
memory = 4000
num_requests = 8
clock = "llama31_8b_h100"
rates = [0.5, 1.0]
policies = ["fcfs", "a_max"]
predictions = ["relative:0.5"]
lengths = {source = "sharegpt", max_total = 4000}
"""
OWN = """
import jaxsched as js
mine = js.Policy("mine", estimate=lambda r: r.upper)
"""
MARKUP = "$\\frac$<b>[red].py"
"""The name of a file, and so of a policy, that is a formula and markup."""


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "requests.csv"
    path.write_text("".join(TRACE.splitlines(keepends=True)[:61]))
    return path


def simulate(trace: Path, *more: str) -> list[str]:
    return ["simulate", str(trace), "--memory", "250", "--interval", "relative:0.5", *more]


def page_of(folder: Path, capsys: Any) -> str:
    """The page of a folder, which is one file on its own."""
    capsys.readouterr()
    assert main(["report", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert str(folder / "report.html") in printed
    text = (folder / "report.html").read_text()
    sources = re.findall(r'(?:src|href|url)[=(]"?([^"]{0,30})', text)
    assert sources and all(s.startswith("data:image/svg+xml;base64,") for s in sources)
    assert text.count("<figure>") == len(list((folder / "figures").glob("*.png")))
    for part in ("Which policy", "What was assumed", "How to reproduce", "KV cache"):
        assert part in text
    return text


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (RUN, ["Backlogs: out", "a_max has the shortest", "jaxsched run config.toml"]),
        (SERVING, ["Serving: out", "requests/s", "Llama-3.1-8B on one H100", "P99"]),
    ],
    ids=["backlog", "serving"],
)
def test_the_page_of_a_run(config: str, parts: list[str], tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "job.toml").write_text(config)
    assert main(["run", str(tmp_path / "job.toml"), "--out", str(tmp_path / "out"), "--csv"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("prediction,policy,") and "results:" in printed.err
    text = page_of(tmp_path / "out", capsys)
    assert all(part in text for part in parts)


def test_the_page_of_a_tuning(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "tune.toml").write_text('memory = 500\nnum_requests = 60\npredictions = ["exact"]\n'
                                        '[lengths]\nsource = "sharegpt"\n')  # fmt: skip
    config = toml.load(tmp_path / "tune.toml", TuneConfig)
    kept = store.open_store(tmp_path / "out", toml.to_toml(config))
    methods = {"method": ["descent", "as written"], "label": ["adam", "as written"],
               "work": [1e6, np.nan], "seconds": [2.0, np.nan]}  # fmt: skip
    tests = {"method": np.repeat(methods["method"], 2), "prediction": "exact", "lane": [0, 1] * 2,
             "mean_latency": 4.0, "ratio_to_h_sf": [0.5, 0.7, 0.75, 0.85]}  # fmt: skip
    curve = {"method": "descent", "label": "adam", "work": [1, 10], "best": [2.0, 1.0]}
    for name, table in (("methods", methods), ("results", tests), ("curves", curve)):
        kept.finish(pd.DataFrame(table), name)
    text = page_of(tmp_path / "out", capsys)
    assert "the rule takes 80.0% ± 63.5% of the mean latency of h_sf" in text
    assert "jaxsched tune config.toml" in text and "lengths like sharegpt" in text


def test_the_page_of_a_trace(trace: Path, tmp_path: Path, capsys: Any) -> None:
    out, page = tmp_path / "out", tmp_path / "page <1>.html"
    (tmp_path / MARKUP).write_text(OWN)
    names = f"h_sf,a_min,fcfs,{tmp_path / MARKUP}:mine"
    more = ["--clock", "llama2_70b_2xa100", "--arrivals", "trace:4", "--ttft-limit", "5"]
    command = simulate(trace, "--policies", names, *more, "--out", str(out), "--report", str(page))
    assert main([*command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["policy"] for row in rows][:3] == ["h_sf", "a_min:on_eviction", "fcfs"]
    text = page.read_text()
    for part in ("TTFT, s", "TPOT, s", "ITL, s", "E2EL, s", "TTFT ≤ 5 s", "KV cache, queue and",
                 "How long requests took", "as they are told the true lengths: h_sf", "--arrivals",
                 "Llama2-70B on two A100", "$\\frac$&lt;b&gt;[red].py:mine"):  # fmt: skip
        assert part in text
    assert "<b>" not in text
    # A page of the folder is the same but for its name.
    assert page_of(out, capsys).replace("Replay: out", f"Replay: {trace.name}") == text
    # What an earlier version wrote has no curves.
    for name in reports.CURVES:
        (out / f"{name}.parquet").unlink()
    assert main(["report", str(out)]) == 0
    assert "There are no curves in this folder" in (out / "report.html").read_text()


SWEEP = """
lanes = 2
memory = [300]
num_requests = [8]
policies = ["a_max", "fcfs"]
predictions = ["relative:0.5"]
workloads = ["sharegpt,max_total:300"]
"""
TUNE = """
memory = 500
num_requests = 20
predictions = ["relative:0.5"]
lanes = 2
validation_lanes = 2
test_lanes = 2
methods = ["random"]
trace = {path = "requests.csv"}
descent = {steps = 1, starts = 1, pairs = 1, chains = 1}
"""
CLOCK = ["--clock", "llama2_70b_2xa100", "--slo", "e2e=60"]
ALL = {
    "run": (["run", "config.toml"], RUN),
    "serving": (["run", "config.toml"], SERVING),
    "sweep": (["sweep", "config.toml"], SWEEP),
    "tune": (["tune", "config.toml"], TUNE),
    "simulate": ([*simulate(Path("requests.csv")), "--policies", "a_max"], ""),
    "capacity": (["capacity", *simulate(Path("requests.csv"))[1:], *CLOCK], ""),
}


@pytest.mark.parametrize("command", ALL)
def test_tails_stand_beside_means_and_intervals_that_miss_are_told(
    command: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plots, "save", lambda figure, stem: stem)
    monkeypatch.setattr(figures.Figure, "draw_without_rendering", lambda figure: None)
    (tmp_path / "requests.csv").write_text(TRACE)
    words, config = ALL[command]
    (tmp_path / "config.toml").write_text(config.replace("relative:0.5", "one:1:3"))
    assert main([*(w.replace("relative:0.5", "one:1:3") for w in words), "--out", "out"]) == 0
    told = " miss the true length: is that prediction right?"
    assert told in " ".join(capsys.readouterr().out.split())
    answer = reports.of_folder(Path("out")).answer
    assert any(told in note for note in answer.notes)
    names = [
        *answer.tables[0].headings,
        *(row[0] for _, rows in answer.tables[0].sections for row in rows),
    ]
    longest = {"serving": "longest", "capacity": "TTFT max", "simulate": "longest wait"}
    assert longest.get(command, "wait") in names
    assert any("P99" in str(name) for name in names)


def test_most_intervals_are_more_than_half() -> None:
    table = pd.DataFrame(
        {"prediction": ["a", "a", "b", "b", "c"], "missed": [0.4, 0.7, 0.2, 0.7, np.nan]}
    )
    (told,) = study_tables.missed_notes(table)
    assert told.startswith("55% of the predicted intervals of a miss")
    assert study_tables.missed_notes(table.drop(columns="missed")) == []


def test_figures_go_nowhere_else(trace: Path, tmp_path: Path, capsys: Any) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    assert main(simulate(trace, "--policies", "fcfs", "--out", str(out))) == 0
    elsewhere.mkdir()
    (out / "figures").symlink_to(elsewhere)
    assert main(["report", str(out)]) == 1
    assert f"{out / 'figures'}: is a link to {elsewhere}" in capsys.readouterr().err
    assert not list(elsewhere.iterdir())


def test_a_folder_of_no_study(tmp_path: Path, capsys: Any) -> None:
    store.open_store(tmp_path / "out", "a = 1\n")
    assert main(["report", str(tmp_path / "out")]) == 1
    assert "its configuration is of no known study; expected" in capsys.readouterr().err
    store.open_store(tmp_path / "run", RUN)
    assert main(["report", str(tmp_path / "run")]) == 1
    assert "results.parquet does not exist" in capsys.readouterr().err


def batch(clock: bool) -> js.Instance:
    rng = np.random.default_rng(5)
    n = 60
    arrival = np.sort(rng.integers(0, 90, n)) * (0.2 if clock else 1)
    # Silence in the middle: the worker is idle.
    arrival = arrival + (np.arange(n) > 40) * (400 if clock else 1500)
    output = rng.integers(1, 40, n)
    return js.Instance(prompt=rng.integers(1, 30, (1, n)), output=output[None],
                       arrival=arrival[None], lower=np.ones((1, n), int),
                       upper=output[None], memory=120)  # fmt: skip


@pytest.mark.parametrize("policy", [js.fcfs(), js.a_min()], ids=lambda policy: policy.name)
def test_the_timeline_is_that_of_the_rounds(policy: js.Policy) -> None:
    instance = batch(clock=False)
    result = js.simulate(instance, policy, history=True)
    assert result.evictions[0] > 10
    found = curves.held_over_time(instance, result)
    # By hand: what every round holds.
    first, last = int(instance.arrival.min()), int(result.completion.max())
    held, running = np.zeros(last), np.zeros(last)
    output = instance.output[0]
    final = [(i, c - output[i], c) for i, c in enumerate(result.completion[0])]
    runs = [*(run for run in result.history[0] if run[0] >= 0), *final]
    for i, start, stop in runs:
        for t in range(start, stop):
            held[t] += instance.prompt[0, i] + t - start + 1
            running[t] += 1
    alive = np.zeros(last)
    for i, (_, _, c) in enumerate(final):
        alive[instance.arrival[0, i] : c] += 1
    edges = np.linspace(first, last, len(found) + 1)
    for name, each in (("kv", held / 120), ("running", running), ("waiting", alive - running)):
        total = np.interp(edges, np.arange(last + 1), np.concatenate([[0], np.cumsum(each)]))
        np.testing.assert_allclose(found[name], np.diff(total) / np.diff(edges), atol=1e-9)
    assert found["completed"].sum() == 60
    known = found[found["completed"] > 0]
    assert np.sum(known["completed"] * known["latency"]) == pytest.approx(result.total_latency[0])


def test_the_timeline_in_seconds() -> None:
    instance, clock = batch(clock=True), clocks.llama2_70b_2xa100()
    result = js.simulate(instance, js.fcfs(), clock=clock, history=True)
    assert result.evictions[0] > 10
    found, rounds = (
        curves.held_over_time(instance, result),
        metrics.timeline(instance, result, clock, 0),
    )
    edges = np.linspace(0, rounds.end[-1] / 1e12, len(found) + 1)
    edges[0] = instance.arrival.min()
    edges = np.linspace(edges[0], edges[-1], len(found) + 1)
    knots = np.stack([rounds.start, rounds.end], -1).ravel() / 1e12
    for name, each in (("kv", rounds.cache_tokens / 120), ("running", rounds.requests)):
        area = np.stack([each * rounds.seconds, np.zeros(len(each))], -1).ravel()[:-1]
        total = np.interp(edges, knots, np.concatenate([[0], np.cumsum(area)]))
        # Rounds between two events are taken to last equally long; nothing else is rough.
        np.testing.assert_allclose(
            found[name], np.diff(total) / np.diff(edges), atol=0.02 * each.max()
        )
    # Little's law: who is there, over time, is what everybody took.
    width = edges[1] - edges[0]
    there = (found["waiting"] + found["running"]).sum() * width
    e2el = metrics.requests(instance, result).e2el.sum()
    assert there == pytest.approx(e2el, rel=1e-3)
    told = curves.distributions(instance, result)
    ttft = told[told["metric"] == "ttft"].set_index("share")["value"]
    serving = metrics.serving(instance, result, clock)
    assert ttft[0.99] == pytest.approx(serving.ttft.p99[0])
    assert set(told["metric"]) == {"ttft", "tpot", "e2el", "queueing"}


def test_a_lane_that_was_cut_off_has_no_timeline() -> None:
    instance = batch(clock=False)
    result = js.simulate(instance, js.fcfs(), history=True, max_rounds=50)
    assert curves.held_over_time(instance, result).empty
    told = curves.distributions(instance, result)
    assert told["value"].max() <= 50 and len(told) == len(curves.QUANTILES)
