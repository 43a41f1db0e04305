"""Live serving: streams, the job, its tables and figures, and the command with a clock."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import tomllib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest

import jaxsched as js
from experiments import fidelity, latency_against_rate
from jaxsched import metrics, toml
from jaxsched.cli import main
from jaxsched.engines import reference
from jaxsched.engines.reference import Request
from jaxsched.report import figures, plots, study_tables
from jaxsched.studies import frames, store
from jaxsched.studies.draw import Drawn
from jaxsched.studies.run import Point
from jaxsched.studies.serving import ServingConfig
from jaxsched.studies.trace import TraceConfig
from jaxsched.testing.instances import random_requests
from jaxsched.workloads import arrivals
from jaxsched.workloads.texts import read_prediction
from tests import oracle

CLOCK = "llama2_70b_2xa100"
SMALL = {
    "job": "serving",
    "lanes": 3,
    "num_requests": 40,
    "memory": 16_492,
    "clock": CLOCK,
    "rates": (0.5, 3.0),
    "policies": ("fcfs", "h_sf", "a_max"),
    "predictions": ("real", "exact"),
    "ttft_limit": 10.0,
}
TRACE = "arrived_at,num_prefill_tokens,num_decode_tokens\n" + "".join(
    f"{10 + 0.5 * i + 3 * (i // 10)},{10 + 7 * i % 50},{1 + 13 * i % 90}\n" for i in range(60)
)


def small(**changes: Any) -> ServingConfig:
    return toml.from_table(ServingConfig, {**SMALL, **changes})


def streams(chosen: ServingConfig, prediction: str, *rates: float) -> js.Instance:
    """The streams of a study at these rates, of lane shape [rates · lanes]."""
    chosen = dataclasses.replace(chosen, predictions=(prediction,), rates=rates or (1.0,))
    (simulator,) = chosen.work().simulators
    simulator.check()
    (call, *_) = simulator.plan.calls(0, simulator.plan.total)
    shape = (*simulator.plan.inner, call.tile.count)
    places = np.stack(np.unravel_index(np.arange(np.prod(shape)), shape))
    drawn = Drawn(simulator.plan, call.tile)
    return drawn.gather(simulator.plan.cell(call), places, True)[0]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(TRACE)
    return path


# Arrivals in seconds.


def test_poisson_in_seconds_is_poisson_in_rounds_before_rounding() -> None:
    key = jax.random.key(3)
    seconds = arrivals.poisson_seconds(0.25)(key, (2, 500))
    assert seconds.dtype == np.float64 and np.all(np.diff(seconds, axis=-1) > 0)
    rounds = arrivals.poisson(0.25)(key, (2, 500))
    np.testing.assert_array_equal(rounds, np.floor(seconds))
    assert np.diff(seconds, axis=-1).mean() == pytest.approx(4.0, rel=0.1)
    np.testing.assert_allclose(arrivals.poisson_seconds(1.0)(key, (2, 500)) * 4, seconds)


def test_a_trace_in_seconds() -> None:
    times, key = np.asarray([5.0, 5.5, 9.0, 9.0]), jax.random.key(0)
    assert arrivals.trace_seconds(times)(key, (4,)).tolist() == [0.0, 0.5, 4.0, 4.0]
    assert arrivals.trace_seconds(times, 2.0)(key, (3,)).tolist() == [0.0, 0.25, 2.0]
    with pytest.raises(ValueError, match="speed is 0; expected a finite number of more than 0"):
        arrivals.trace_seconds(times, 0)


def test_a_trace_as_one_live_instance(trace: Path) -> None:
    read = js.workloads.read_trace(trace)
    exact = js.workloads.intervals.relative(0.0)
    instance = read.instance(1000, intervals=exact, speed=2.0)
    np.testing.assert_array_equal(instance.arrival, (read.arrival_seconds - 10.0) / 2)
    with pytest.raises(ValueError, match="speed: expected no rounds_per_second= with it"):
        read.instance(1000, intervals=exact, speed=2.0, rounds_per_second=1.0)
    bare = dataclasses.replace(read, arrival_seconds=None)
    with pytest.raises(ValueError, match="has no arrivals; expected no speed="):
        bare.instance(1000, intervals=exact, speed=2.0)


# The bound on the throughput.


@pytest.mark.parametrize("name", js.clocks.PRESETS)
def test_no_policy_is_busy_for_less_than_the_bound(name: str) -> None:
    clock, rng = js.clocks.clock(name), random.Random(name)
    exact = reference.Clock(*map(int, js.clocks.ticks(clock)))
    closest = 0.0
    for kind in ("wrong_intervals", "ties", "wide_memory", "long_outputs") * 4:
        requests, memory = random_requests(rng, kind, n=8)
        cap = rng.choice((None, 2, 5))
        rule = rng.choice(list(oracle.RULES.values()))
        if rule.name.startswith("sorted_f"):
            continue  # for backlogs only
        live = [dataclasses.replace(r, arrival=rng.randint(0, 10**13)) for r in requests]
        outcome = reference.simulate(live, memory, rule, max_batch=cap, clock=exact)
        bound = float(bound_of(requests, memory, clock, cap))
        busy = busy_seconds(live, outcome, exact)
        assert bound <= busy * (1 + 1e-12)
        closest = max(closest, bound / busy)
    assert closest > 0.5


def bound_of(requests: list[Request], memory: int, clock: js.Clock, cap: int | None) -> Any:
    columns = [np.asarray([getattr(r, name) for r in requests]) for name in ("prompt", "output")]
    return js.busy_seconds_bound(*columns, np.asarray(memory), clock, max_batch=cap)


def busy_seconds(
    requests: list[Request], outcome: reference.Outcome, clock: reference.Clock
) -> float:
    """Added up round by round from the runs."""
    total = 0
    for t in range(len(outcome.starts)):
        here = [
            (request, run)
            for request, runs in zip(requests, outcome.runs, strict=True)
            for run in runs
            if run.admitted <= t < run.ended
        ]
        prompts = sum(request.prompt for request, run in here if run.admitted == t)
        total += clock.lasts(
            prompts, len(here), sum(r.prompt + t - run.admitted + 1 for r, run in here)
        )
    return total / 1e12


def test_the_bound_by_hand() -> None:
    # Two requests of 1 + 2 tokens, volume 1 * 2 + 3 = 5 each; M = 5: two rounds at least.
    clock = js.Clock(fixed=1.0, per_token_beyond=0.5, free_tokens=2, per_cache_token=0.1)
    two = np.asarray([1, 1]), np.asarray([2, 2]), np.asarray(5)
    # W = 6 tokens, 4 of them free in two rounds; 10 token-rounds of cache.
    assert js.busy_seconds_bound(*two, clock) == pytest.approx(2 * 1.0 + 2 * 0.5 + 10 * 0.1)
    # One at a time: four rounds, 8 free tokens.
    assert js.busy_seconds_bound(*two, clock, max_batch=1) == pytest.approx(4 * 1.0 + 1.0)
    # Rounds that cost less than what they take off the hinge: at the knee, three of them.
    cheap = dataclasses.replace(clock, fixed=0.1)
    assert js.busy_seconds_bound(*two, cheap) == pytest.approx(3 * 0.1 + 1.0)
    padded = [np.asarray([*row, 9]) for row in two[:2]]
    assert js.busy_seconds_bound(*padded, two[2], clock, num_requests=2) == pytest.approx(4.0)


# Streams and the job.


def test_streams_differ_in_nothing_but_the_rate_and_the_prediction() -> None:
    chosen = small()
    real, exact = (streams(chosen, text) for text in chosen.predictions)
    for name in ("prompt", "output", "arrival"):
        np.testing.assert_array_equal(getattr(real, name), getattr(exact, name))
    assert np.any(real.lower != exact.lower)
    both = streams(chosen, "real", 0.5, 3.0)
    assert both.lanes == (6,)
    np.testing.assert_array_equal(both.output[:3], both.output[3:])
    np.testing.assert_allclose(both.arrival[:3], real.arrival * 2)
    np.testing.assert_allclose(both.arrival[3:] * 3, real.arrival)


def test_streams_of_a_trace_are_requests_in_a_row(trace: Path) -> None:
    section = TraceConfig(str(trace), skip_too_large=True)
    chosen = small(trace=section, num_requests=20, predictions=("relative:0.5",), memory=100)
    read = js.workloads.read_trace(trace)
    fits = read.prompt + read.output <= 100
    kept = read.select(fits)
    unit = streams(chosen, "relative:0.5")
    mean_rate = (len(kept) - 1) / (kept.arrival_seconds[-1] - kept.arrival_seconds[0])
    starts = set()
    for lane in range(3):
        rows = [
            start
            for start in range(len(kept) - 19)
            if np.array_equal(kept.output[start : start + 20], unit.output[lane])
            and np.array_equal(kept.prompt[start : start + 20], unit.prompt[lane])
        ]
        starts.update(rows[:1])
        times = kept.arrival_seconds[rows[0] : rows[0] + 20]
        np.testing.assert_allclose(unit.arrival[lane], (times - times[0]) * mean_rate)
    assert len(starts) > 1 and not fits.all()
    with pytest.raises(ValueError, match="num_requests is 60; expected at most"):
        streams(dataclasses.replace(chosen, num_requests=60), "relative:0.5")
    with pytest.raises(ValueError, match=r"prompt \+ output is"):
        streams(dataclasses.replace(chosen, trace=TraceConfig(str(trace))), "relative:0.5")


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "job": ({"job": "servng"}, "job: unknown value 'servng' (did you mean serving?)"),
    "clock": ({"clock": "a100"}, "clock: unknown clock 'a100'; expected one of"),
    "rate": ({"rates": (1.0, 0.0)}, "rates: got 0.0; expected more than 0 requests per second"),
    "rates": ({"rates": ()}, "rates: got an empty list"),
    "limit": ({"tpot_limit": 0.0}, "tpot_limit: got 0.0; expected more than 0 seconds"),
    "columns": ({"predictions": ("columns",)}, '"columns" needs a trace'),
    "policies": ({"policies": ("fcfs", "fcfs")}, "policies: 'fcfs' is there twice"),
    "batch": ({"max_batch": 0}, "max_batch: got 0; expected at least 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_configurations(name: str) -> None:
    changes, message = BAD[name]
    with pytest.raises(ValueError) as caught:
        small(**changes)
    assert message in str(caught.value)


def test_configurations_survive_a_file() -> None:
    chosen = small(max_batch=8, trace=TraceConfig("trace.csv", skip_too_large=True, sha256="0"))
    for text in (toml.to_toml(chosen), chosen.text()):
        assert toml.from_table(ServingConfig, tomllib.loads(text)) == chosen
    # What is kept of sections that say no more than they once could is what it was then.
    assert 'trace = "trace.csv"\nskip_too_large = true\nsha256 = "0"\nseed = 0\n' in chosen.text()
    assert 'skip_too_large = false\nsha256 = ""\nseed = 0\n' in small().text()
    assert toml.from_table(ServingConfig, tomllib.loads(small().text())) == small()
    wide = dataclasses.replace(chosen, trace=dataclasses.replace(chosen.trace, window="1:2"))
    assert toml.from_table(ServingConfig, tomllib.loads(wide.text())) == wide


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `jaxsched run` has finished a small job."""
    folder = tmp_path_factory.mktemp("serving")
    (folder / "small.toml").write_text(toml.to_toml(small()))
    with open(folder / "printed.txt", "w") as printed, contextlib.redirect_stdout(printed):
        assert main(["run", str(folder / "small.toml"), "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_the_job_is_what_simulate_and_metrics_say(finished: Path) -> None:
    table, chosen = store.read_results(finished), small()
    assert len(table) == 2 * 3 * (1 + 1 + 2)
    assert set(table["prediction"][table["policy"] == "a_max"]) == {"real", "exact"}
    assert set(table["prediction"][table["policy"] != "a_max"]) == {"any"}
    clock = js.clocks.clock(CLOCK)
    instance = js.workloads.make(
        jax.random.key(chosen.seed), lengths=js.workloads.embedded.lmsys_tokens(),
        intervals=read_prediction("real").source(chosen.memory),
        arrivals=arrivals.poisson_seconds(3.0), n=40, lanes=3, memory=chosen.memory,
    )  # fmt: skip
    result = js.simulate(instance, js.a_max(), clock=clock)
    energy = js.clocks.energy(CLOCK)
    found = metrics.serving(instance, result, clock, energy=energy, ttft_limit=10.0)
    rows = table[(table["policy"] == "a_max") & (table["prediction"] == "real")]
    rows = rows[rows["rate"] == 3.0]
    assert rows["lane"].tolist() == [0, 1, 2]
    for name, value, valid in metrics.figures(found):
        assert valid.all() and rows[name].tolist() == value.tolist(), name
    np.testing.assert_allclose(rows["offered_rate"], 39 / np.ptp(instance.arrival, axis=-1))
    busy = js.busy_seconds_bound(instance.prompt, instance.output, instance.memory, clock)
    np.testing.assert_allclose(rows["rate_bound"], 40 / busy)


def test_an_interrupted_job_goes_on(finished: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, bool]] = []

    def stop(point: Point, done: bool) -> None:
        seen.append((point.name, done))
        if len(seen) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small().work().run(tmp_path / "out", stop)
    assert seen[4] == ("a_max-real", False)
    again: list[tuple[str, bool]] = []

    def note(point: Point, done: bool) -> None:
        again.append((point.name, done))

    (table,) = small().work().run(tmp_path / "out", note)
    assert [event for event in again if not event[1]] == [
        ("a_max-real", False), ("a_max-exact", False),
    ]  # fmt: skip
    pd.testing.assert_frame_equal(table, store.read_results(finished))
    with pytest.raises(ValueError, match="another configuration"):
        small(seed=1).work().run(tmp_path / "out")


def test_figures_and_experiments(finished: Path, capsys: Any) -> None:
    names = {path.name for path in (finished / "figures").iterdir()}
    for stem in ("latency_against_rate-real", "latency_against_rate-exact", "gain_from_prediction"):
        assert {f"{stem}.png", f"{stem}.pdf"} <= names
    latency_against_rate.main(str(finished))
    with pytest.raises(FileNotFoundError, match="has `jaxsched run` finished there"):
        latency_against_rate.main(str(finished / "nowhere"))
    for path in capsys.readouterr().out.split():
        assert Path(path).stat().st_size > 10_000


def test_a_metric_is_shown_because_it_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    stalls = metrics.Metric("stalls", "", "", lambda lanes: 7, heading="stalled")
    monkeypatch.setitem(metrics.METRICS, "stalls", stalls)
    row = {"policy": "fcfs", "n": 4, "memory": 9, "clock": CLOCK, "offered_rate": 2.0}
    measured = {"goodput": 0.5, "stalls": 7, "completed": 4, "unfinished": 0}
    answer = study_tables.replay(pd.DataFrame([row | measured]))
    assert "2 req/s arrive" in answer.title
    assert answer.tables[1].headings == ("good/s", "stalled")


@pytest.mark.parametrize("names", [("fcfs",), ("h_sf", "a_max")])
def test_a_job_without_gains_to_tell(names: tuple[str, ...], tmp_path: Path) -> None:
    chosen = small(policies=names, rates=(0.5,), max_batch=4, clock="llama31_8b_h100")
    (table,) = chosen.work().run(tmp_path / "out")
    answer = study_tables.serving_job(table)
    assert "0.5 requests/s, llama31_8b_h100" in answer.title
    assert "/s is the most, for long" in answer.notes[1]
    written = plots.save_all(figures.of_serving(table), tmp_path / "figures")
    # Without fcfs there is nothing to gain on, and without predictions one figure for all.
    assert len(written) == (1 if names == ("fcfs",) else 2)


def test_gains_where_fcfs_sustains_no_rate(finished: Path) -> None:
    table = store.read_results(finished)
    slow = table["policy"] == "fcfs"
    table.loc[slow, "makespan"] *= 1000
    *_, gain = figures.of_serving(table)
    assert gain.figure is None and gain.caption == "fcfs sustains none of the rates"
    with pytest.raises(ValueError, match="fcfs sustains none"):
        figures.gain_from_prediction(table)


def test_what_is_sustained() -> None:
    def row(policy: str, rate: float, lane: int, makespan: float, status: str) -> dict[str, Any]:
        return {
            "prediction": "any", "policy": policy, "rate": rate, "lane": lane, "n": 101,
            "offered_rate": rate, "makespan": makespan, "drain": 10.0, "status": status,
            "mean_e2el": 2.0 if policy == "fcfs" else 1.0, "rate_bound": 9.0,
        }  # fmt: skip

    span = {1.0: 100.0, 2.0: 50.0, 4.0: 25.0}
    # 20 % too long at rate 2: what is kept up with above that does not count.
    longer = {"fcfs": {1.0: 1.05, 2.0: 1.05, 4.0: 1.05}, "slow": {1.0: 1.0, 2.0: 1.2, 4.0: 1.0}}
    rows = [
        row(policy, rate, lane, factor * span[rate] + 10, "FINISHED")
        for policy, factors in longer.items()
        for rate, factor in factors.items()
        for lane in (0, 1)
    ]
    for rate, arriving in span.items():
        rows.append(row("stuck", rate, 0, arriving, "FINISHED"))
        rows.append(row("stuck", rate, 1, arriving, "ROUND_LIMIT"))
    table = frames.summarize_serving(pd.DataFrame(rows))
    found = table.set_index(["policy", "rate"])["sustained"].to_dict()
    assert [found["fcfs", r] for r in span] == [True, True, True]
    assert [found["slow", r] for r in span] == [True, False, False]
    assert [found["stuck", r] for r in span] == [False, False, False]
    assert table.set_index("policy")["gain"]["slow"].tolist() == [2.0, 2.0, 2.0]
    largest = frames.saturation(table).set_index("policy")["rate"]
    assert largest["fcfs"] == 4.0 and largest["slow"] == 1.0 and np.isnan(largest["stuck"])
    assert study_tables.told_rate(table) == 4.0


# The command.

REPLAY = ["--memory", "150", "--interval", "exact", "--clock", CLOCK]


def output_of(capsys: Any, command: list[str]) -> str:
    assert main(command) == 0
    return capsys.readouterr().out


def error_of(capsys: Any, command: list[str]) -> str:
    assert main(command) == 1
    return capsys.readouterr().err


def test_run_prints_the_gain_beside_the_pressure(finished: Path) -> None:
    printed = (finished.parent / "printed.txt").read_text()
    for text in ("no prediction", "real predicted classes", "true length", "gain", "KV", "sustains",
                 "preempted", "/s is the most, for long", "3 streams of 40 requests"):  # fmt: skip
        assert text in printed


def test_an_unknown_job(capsys: Any, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text('job = "servng"\n')
    error = error_of(capsys, ["run", str(path)])
    assert "wrong.toml: job: unknown value 'servng' (did you mean serving?)" in error


def test_simulate_in_seconds(capsys: Any, trace: Path, tmp_path: Path) -> None:
    names = "h_sf,a_max,a_min,a_min:every_round,mc_sf,fcfs"
    out = ["--out", str(tmp_path / "out"), "--per-request", "--ttft-limit", "5"]
    command = ["simulate", str(trace), *REPLAY, "--policies", names, "--arrivals", "trace:3", *out]
    printed = output_of(capsys, [*command, "--max-batch", "4"])
    for text in ("TTFT, s", "TPOT, s", "ITL, s", "E2EL, s", "queueing, s", "good/s", "J/tok",
                 "60 requests, M = 150 tokens, llama2_70b_2xa100"):  # fmt: skip
        assert text in printed
    table = store.read_results(tmp_path / "out").set_index("policy")
    requests = pd.read_parquet(tmp_path / "out" / "requests.parquet")
    read = js.workloads.read_trace(trace)
    exact = js.workloads.intervals.relative(0.0)
    clock = js.clocks.clock(CLOCK)
    instance = read.instance(150, intervals=exact, speed=3.0)
    for name in names.split(","):
        policy = js.policy(name)
        result = js.simulate(instance, policy, clock=clock, max_batch=4, history=True)
        own = requests[requests["policy"] == policy.name]
        assert own["completion"].tolist() == result.completion_seconds.tolist()
        assert own["first_token"].tolist() == result.first_token_seconds.tolist()
        np.testing.assert_allclose(own["ttft"], own["first_token"] - own["arrival"], atol=1e-12)
        found = metrics.serving(instance, result, clock, ttft_limit=5.0)
        for figure, value, _ in metrics.figures(found):
            assert table.loc[policy.name, figure] == value, figure
    assert table["mean_itl"].notna().all() and table["status"].eq("FINISHED").all()


def test_simulate_poisson_arrivals(capsys: Any, trace: Path, tmp_path: Path) -> None:
    rates = []
    for rate in ("poisson:1", "poisson:4"):
        out = ["--out", str(tmp_path / rate[-1]), "--policies", "fcfs", "--arrivals", rate]
        output_of(capsys, ["simulate", str(trace), *REPLAY, *out])
        rates.append(store.read_results(tmp_path / rate[-1])["offered_rate"].item())
    assert rates[1] == pytest.approx(4 * rates[0]) and 0.6 < rates[0] < 1.6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arrivals", "trace"], "arrivals: 'trace' is in seconds; expected a --clock"),
        (["--arrivals", "poisson:2"], "arrivals: 'poisson:2' is in seconds; expected a --clock"),
        (["--ttft-limit", "2"], "ttft_limit: 2.0 is in seconds; expected a --clock"),
        (["--clock", "a100"], "clock: unknown clock 'a100'; expected one of: llama2_70b_2xa100"),
        (["--clock", CLOCK, "--arrivals", "rounds:1"], "expected trace, poisson:RATE or backlog"),
        (["--clock", CLOCK, "--tpot-limit", "0"], "tpot_limit: got 0.0; expected more than 0"),
        (["--clock", CLOCK, "--arrivals", "trace:fast"], "arrivals: 'trace:fast'; expected one of"),
        (["--max-batch", "0"], "max_batch: got 0; expected at least 1"),
    ],
)
def test_wrong_options(capsys: Any, trace: Path, options: list[str], message: str) -> None:
    command = ["simulate", str(trace), "--memory", "150", "--interval", "exact", *options]
    assert message in error_of(capsys, command)


def test_a_cap_in_rounds(capsys: Any, trace: Path, tmp_path: Path) -> None:
    command = ["simulate", str(trace), "--memory", "150", "--interval", "exact"]
    rounds = {}
    for cap in ("1", "60"):
        out = ["--policies", "h_sf", "--max-batch", cap, "--out", str(tmp_path / cap)]
        output_of(capsys, [*command, *out])
        rounds[cap] = store.read_results(tmp_path / cap)["rounds"].item()
    read = js.workloads.read_trace(trace)
    assert rounds["1"] == read.output.sum() > rounds["60"]


# The fidelity experiment, as far as it goes without its peer.


@pytest.mark.parametrize("rate", [0.5, 1.6])
def test_the_ladder_starts_at_our_fcfs(rate: float) -> None:
    stream = fidelity.draw(150, rate, seed=1)
    ours, first = fidelity.by_jaxsched(stream), fidelity.serve(stream, fidelity.Rules())
    for name, values in vars(ours).items():
        np.testing.assert_allclose(values, getattr(first, name), rtol=0, atol=1e-6)
    last = fidelity.serve(stream, list(fidelity.LADDER.values())[-1])
    table = fidelity.lines(stream, last, "of nobody")
    assert table["DynoSim of nobody"] == table[list(fidelity.LADDER)[-1]]
    assert table["jaxsched fcfs"]["preempted"] == int(ours.preemptions.sum())
