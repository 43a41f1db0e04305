"""Sweeps: what a configuration means, and that rows do not depend on how they are cut."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest

import jaxsched as js
from jaxsched import toml
from jaxsched.engines import reference
from jaxsched.studies import rows as rows_module
from jaxsched.studies.axes import AXES
from jaxsched.studies.estimate import estimate_costs, programs
from jaxsched.studies.plan import Plan, without
from jaxsched.studies.rows import Simulator
from jaxsched.studies.sweep import RandomConfig, SweepConfig, drawn
from tests import oracle

FIELDS = ("prompt", "output", "lower", "upper", "point")

TEXT = """
lanes = 3
seeds = [0, 5]
num_requests = [9, 12]
memory = [200, 300]
workloads = ["uniform:1:60,prompt:1:20"]
arrivals = ["backlog", "poisson:0.2"]
clocks = ["rounds", "llama2_7b_a100"]
max_batch = [0, 4]
policies = ["fcfs", "h_sf", "a_min"]
predictions = ["relative:0.5", "edges:20,40"]
"""


def load(text: str = TEXT, **changes: Any) -> SweepConfig:
    return toml.from_table(SweepConfig, {**tomllib.loads(text), **changes})


@pytest.fixture(scope="module")
def whole() -> tuple[Plan, pd.DataFrame]:
    plan = Plan(load().study())
    return plan, Simulator(plan).table(0, plan.total)


def test_one_row_for_every_combination_and_instance(whole: Any) -> None:
    plan, frame = whole
    names = ["workload", "n", "seed", "lane", "policy", "max_batch", "clock", "memory", "arrivals",
             "prediction"]  # fmt: skip
    assert len(frame) == plan.total == 2 * 2 * 3 * 3 * 2 * 2 * 2 * 2 * 2
    assert not frame.duplicated(names).any()
    assert (frame["status"] == "FINISHED").all()
    timed = frame["clock"] != "rounds"
    assert (frame["total_latency"] == -1).eq(timed).all()
    assert frame["mean_ttft"].notna().eq(timed).all()
    assert frame["bound"].notna().eq((frame["arrivals"] == "backlog") & ~timed).all()
    assert frame["rate"].map(np.isinf).eq(frame["arrivals"] == "backlog").all()


@pytest.mark.parametrize("clock", ["rounds", "llama2_7b_a100"])
def test_a_row_is_that_of_make_and_simulate(whole: Any, clock: str) -> None:
    frame = whole[1]
    seconds = clock != "rounds"
    poisson = js.workloads.arrivals.poisson_seconds if seconds else js.workloads.arrivals.poisson
    instance = js.workloads.make(
        jax.random.fold_in(jax.random.key(5), 12), lanes=1, first_lane=2, n=12, memory=300,
        lengths=js.workloads.lengths.uniform((1, 60), prompt=(1, 20)),
        intervals=js.workloads.intervals.classes((1, 20, 40, 301)), arrivals=poisson(0.2),
    )  # fmt: skip
    given = js.clocks.clock(clock) if seconds else None
    result = js.simulate(instance, js.a_min(), max_batch=4, clock=given)
    place = dict(seed=5, lane=2, n=12, memory=300, arrivals="poisson:0.2", clock=clock, max_batch=4,
                 prediction="edges:20,40", policy="a_min:on_eviction")  # fmt: skip
    mask = np.logical_and.reduce([frame[name] == value for name, value in place.items()])
    row = frame[mask].iloc[0]
    assert mask.sum() == 1
    for name in ("evictions", "wasted_tokens", "peak_memory", "rounds"):
        assert row[name] == getattr(result, name)[0], name
    if seconds:
        serving = js.metrics.serving(instance, result, given)
        assert row["mean_latency"] == serving.e2el.mean[0]
        assert row["p99_ttft"] == serving.ttft.p99[0]
        assert row["mean_tpot"] == serving.tpot.mean[0]
    else:
        assert row["total_latency"] == result.total_latency[0]


def test_a_row_agrees_with_the_reference(whole: Any) -> None:
    frame = whole[1]
    instance = js.workloads.make(
        jax.random.fold_in(jax.random.key(0), 9), lanes=3, n=9, memory=200,
        lengths=js.workloads.lengths.uniform((1, 60), prompt=(1, 20)),
        intervals=js.workloads.intervals.relative(0.5),
    )  # fmt: skip
    columns = [getattr(instance, field)[1] for field in FIELDS]
    requests = [
        reference.Request(*map(int, row), point=int(point))
        for *row, point in zip(*columns, strict=True)
    ]
    expected = reference.simulate(requests, 200, oracle.a_min("on_eviction"))
    row = frame.query(
        "seed == 0 and lane == 1 and n == 9 and memory == 200 and arrivals == 'backlog' and "
        "clock == 'rounds' and max_batch == 0 and prediction == 'relative:0.5' and "
        "policy == 'a_min:on_eviction'"
    ).iloc[0]
    for name in ("total_latency", "evictions", "wasted_tokens", "peak_memory", "rounds"):
        assert row[name] == getattr(expected, name), name


@pytest.mark.parametrize("size", [1, 37, 1000])
def test_rows_do_not_depend_on_chunks(whole: Any, size: int) -> None:
    plan, frame = whole
    start, stop = 400, 400 + 5 * size if size == 1 else plan.total
    cuts = range(start, stop, size)
    parts = [Simulator(plan).table(low, min(low + size, stop)) for low in cuts]
    expected = frame.iloc[start:stop].reset_index(drop=True)
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), expected, check_exact=True)


def test_rows_do_not_depend_on_the_engine(whole: Any) -> None:
    # One program: a policy, arrivals under a clock, both numbers of requests padded to 16.
    plan, frame = whole
    simulator = Simulator(plan, "jax")
    place = frame.query("clock != 'rounds' and policy == 'fcfs' and arrivals != 'backlog'").index
    for low in place[::24]:
        table = simulator.table(low, low + 6)
        expected = frame.iloc[low : low + 6].reset_index(drop=True)
        pd.testing.assert_frame_equal(table, expected, check_exact=True)


def test_when_memory_runs_out_batches_get_smaller(whole: Any, monkeypatch: Any) -> None:
    plan, frame = whole
    sizes = []

    def simulate(instance: js.Instance, *args: Any, **kwargs: Any) -> js.Result:
        sizes.append(len(instance.prompt))
        if len(instance.prompt) > 7:
            raise MemoryError("no room for so many")
        return js.simulate(instance, *args, **kwargs)

    monkeypatch.setattr(rows_module, "simulate", simulate)
    monkeypatch.setattr(rows_module.Budget, "rows", lambda self, n: max(1, 20 // self._parts))
    table = Simulator(plan).table(0, 100)
    pd.testing.assert_frame_equal(table, frame.iloc[:100], check_exact=True)
    assert sizes[0] > 7 and max(sizes[4:]) <= 7
    monkeypatch.setattr(rows_module.Budget, "rows", lambda self, n: max(8, 20 // self._parts))
    monkeypatch.setattr(rows_module.Budget, "shrink", lambda self, n: False)
    with pytest.raises(MemoryError, match="no room"):
        Simulator(plan).table(0, 100)


def test_only_what_says_out_of_memory_is_tried_again() -> None:
    out = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
    assert rows_module.is_out_of_memory(out) and rows_module.is_out_of_memory(MemoryError())
    assert not rows_module.is_out_of_memory(jax.errors.JaxRuntimeError("INTERNAL: oh"))
    assert not rows_module.is_out_of_memory(ValueError("out of memory"))


def test_policies_that_read_no_prediction_are_simulated_once(monkeypatch: Any) -> None:
    plan, lanes = Plan(load(policies=["fcfs", "a_min"], clocks=["rounds"]).study()), {}

    def simulate(instance: js.Instance, policy: js.Policy, **kwargs: Any) -> js.Result:
        lanes[policy.name] = lanes.get(policy.name, 0) + len(instance.prompt)
        return js.simulate(instance, policy, **kwargs)

    monkeypatch.setattr(rows_module, "simulate", simulate)
    simulator = Simulator(plan)
    simulator.table(0, plan.total)
    assert simulator.different == sum(lanes.values())
    assert lanes == {"fcfs": plan.total // 4, "a_min:on_eviction": plan.total // 2}


def test_many_lanes_take_few_calls(monkeypatch: Any) -> None:
    plan, calls = Plan(load(lanes=1000, seeds=[0], num_requests=[4]).study()), []

    def simulate(instance: js.Instance, *args: Any, **kwargs: Any) -> js.Result:
        calls.append(len(instance.prompt))
        return js.simulate(instance, *args, **kwargs)

    monkeypatch.setattr(rows_module, "simulate", simulate)
    Simulator(plan).table(0, plan.total)
    assert plan.total == 96_000 and len(calls) <= 3 * 2 * 2 * 2


def test_instances_are_drawn_in_tiles(monkeypatch: Any) -> None:
    monkeypatch.setattr("jaxsched.studies.plan.TILE_REQUESTS", 40)
    plan = Plan(load().study())
    tiles = [tile for tile, _, _ in plan.tiles(0, plan.total)]
    assert [(tile.n, tile.first, tile.count) for tile in tiles] == [
        (9, 0, 4), (9, 4, 2), (12, 0, 3), (12, 3, 3)
    ]  # fmt: skip
    ends = [*(tile.start for tile in tiles[1:]), plan.total]
    assert [tile.start + tile.count * plan.points for tile in tiles] == ends
    calls = list(plan.calls(0, plan.total))
    assert sum(call.stop - call.start for call in calls) == plan.total
    assert all(plan.tile_at(row).start <= row for row in range(0, plan.total, 50))


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_shares_of_processes_cover_every_row_once(processes: int) -> None:
    plan = Plan(load().study())
    shares = [plan.share(i, processes) for i in range(processes)]
    taken = np.zeros(plan.total, int)
    for start, stop in (one for share in shares for one in share):
        taken[start:stop] += 1
    assert (taken == 1).all()
    sizes = [sum(stop - start for start, stop in share) for share in shares]
    assert max(sizes) - min(sizes) <= plan.total // (64 * processes) + 1


def test_what_is_done_is_taken_out_of_ranges() -> None:
    assert without([(0, 10)], []) == [(0, 10)]
    assert without([(0, 10)], [(0, 4), (6, 10)]) == [(4, 6)]
    assert without([(0, 4), (8, 12)], [(2, 10)]) == [(0, 2), (10, 12)]
    assert without([(0, 10)], [(0, 6), (2, 3), (5, 8)]) == [(8, 10)]
    assert without([(3, 5)], [(0, 9)]) == []


def test_random_values_are_reproducible_and_within_their_ranges() -> None:
    table = RandomConfig(axis="predictions", value="relative:{uniform:0.2:0.9}", count=50, seed=3)
    values = [float(text.removeprefix("relative:")) for text in drawn(table)]
    assert drawn(table) == drawn(table) and len(set(values)) == 50
    assert 0.2 < min(values) < 0.3 and 0.8 < max(values) < 0.9
    rates = drawn(RandomConfig(axis="arrivals", value="poisson:{log_uniform:0.01:1}", count=200))
    logs = np.log10([float(text.removeprefix("poisson:")) for text in rates])
    assert logs.min() > -2 and logs.max() < 0 and abs(logs.mean() + 1) < 0.1


def test_random_values_join_their_axes() -> None:
    text = (
        TEXT
        + """
[[random]]
axis = "memory"
value = "{uniform:200:210}"
count = 40
[[random]]
axis = "policies"
value = "a_min_family:start={uniform:0:1},run_growth={uniform:0:2}"
count = 3
"""
    )
    settings = load(text)
    values = settings.values().titles
    assert set(AXES) == set(values)
    # Whole numbers, each once, after those that are listed.
    assert values["memory"][:2] == (200, 300) and set(values["memory"][2:]) <= set(range(200, 211))
    assert len(set(values["memory"])) == len(values["memory"]) > 5
    assert len(values["policies"]) == 6 and values["policies"][3].startswith("a_min_family:start=0")
    again = toml.from_table(SweepConfig, tomllib.loads(toml.to_toml(settings)))
    assert again == settings


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"policies": ["a_mix"]}, "policies: policy 'a_mix' is unknown.*; expected one of h_sf"),
        ({"policies": ["a_min", "a_min:on_eviction"]}, "policies: 'a_min:on_eviction' is there tw"),
        ({"policies": ["a_min_family:strat=1"]}, r"'strat' \(did you mean start\?\)"),
        ({"predictions": []}, "predictions: got an empty list"),
        ({"predictions": ["columns"]}, '"columns" needs a trace'),
        ({"predictions": ["classes:10:3"]}, r"'classes:10:3': .*is 60.*1 to 30 \(max_output"),
        ({"predictions": ["edges:250"]}, "predictions: .* the last edge is 250; .* M = 200"),
        ({"memory": [200, 79]}, "has requests of up to 80 tokens; .* 79, as .*,max_total:79"),
        ({"memory": [200, 200]}, "memory: 200 is there twice"),
        ({"workloads": ["lmsy"]}, r"unknown law of lengths 'lmsy' \(did you mean lmsys\?\)"),
        ({"workloads": ["uniform:1"]}, "got '1'; expected uniform:LOW:HIGH"),
        ({"workloads": ["lmsys,prompt:1:2"]}, "lmsys has prompts of its own"),
        ({"workloads": ["uniform:1:9,most:3"]}, "got option 'most:3'; expected prompt:LOW:HIGH"),
        ({"arrivals": ["poisson:0"]}, "expected one of backlog, poisson:RATE, more than 0"),
        ({"clocks": ["sundial"]}, "clocks: unknown clock 'sundial'"),
        ({"seeds": [2**32]}, "seeds: got 4294967296; expected at most 4294967295"),
        ({"num_request": [1]}, r"num_request \(did you mean num_requests\?\)"),
        ({"random": [{"axis": "lanes", "value": "{uniform:0:1}", "count": 2}]}, "axis: .*'lanes'"),
        ({"random": [{"axis": "memory", "value": "3", "count": 2}]}, "expected a place such as"),
        ({"random": [{"axis": "memory", "value": "{normal:0:1}", "count": 2}]}, "got {normal:0:1}"),
        ({"random": [{"axis": "memory", "value": "{log_uniform:0:1}", "count": 2}]}, "more than 0"),
        ({"random": [{"axis": "memory", "value": "{uniform:9:3}", "count": 2}]}, "LOW less than"),
        ({"random": [{"axis": "memory", "value": "{uniform:0:1}", "count": 2}]}, "at least 2"),
        (
            {"random": [{"axis": "memory", "value": "{uniform:3:9}", "count": 2, "seed": 2**32}]},
            r"random\[0\].seed: got 4294967296; expected at most 4294967295",
        ),
        ({"random": [{"axis": "seeds", "value": "x{uniform:0:1}", "count": 2}]}, "seeds"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_configurations_are_refused(changes: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        load(**changes)


def test_a_trace_is_a_workload(tmp_path: Any) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("num_prefill_tokens,num_decode_tokens\n3,4\n50,60\n1,2\n")
    plan = Plan(
        load(workloads=[f"trace:{trace}", f"trace:{trace},max_total:10"], memory=[120]).study()
    )
    frame = Simulator(plan).table(0, plan.total)
    largest = frame.groupby("workload", observed=True)["peak_memory"].max().tolist()
    assert largest[0] > 60 > largest[1]
    with pytest.raises(ValueError, match="has requests of up to 110 tokens; expected at most"):
        load(workloads=[f"trace:{trace}"], memory=[109])


def test_the_shipped_configurations_are_what_they_say() -> None:
    folder = Path(__file__).parent.parent / "configs"
    small, million = (
        Simulator(Plan(toml.load(folder / f"sweep_{name}.toml", SweepConfig).study()))
        for name in ("small", "million")
    )
    assert small.plan.total == 11_520
    assert million.plan.total == 1_440_000 and million.different == 1_008_000


def test_a_tuned_rule_is_a_policy_and_its_file_part_of_the_configuration(tmp_path: Any) -> None:
    rule = tmp_path / "rule.toml"
    numbers = dataclasses.asdict(js.FamilyParams())
    lines = [f"{name} = {value}\n" for name, value in numbers.items()]
    rule.write_text("[params]\n" + "".join(lines))
    settings = load(policies=[f"tuned:{rule}", "h_sf", "fcfs:watermark=0.05"])
    values = settings.values()
    assert values.titles["policies"] == (f"tuned:{rule}", "h_sf", "fcfs:watermark=0.05")
    assert values.read["policies"][0].params is not None
    before = settings.text()
    assert str(rule) in before
    rule.write_text(rule.read_text().replace("start = 0.0", "start = 0.5"))
    assert settings.text() != before


def test_estimates_say_what_there_is_to_do(whole: Any, monkeypatch: Any) -> None:
    plan, _ = whole
    guess = estimate_costs(Simulator(plan), [(0, plan.total)])
    assert 0 < guess.seconds < 60 and guess.programs == ()
    assert guess.per_request.shape == (3, 2) and (guess.per_request > 0).all()
    # Both n share the width 16: three policies, with and without arrivals, and a clock.
    assert len(programs(Simulator(plan, "jax"))) == 3 * 2 * 2
    # Of a cost that no other work on the machine can change: that of the first n, then of all.
    monkeypatch.setattr("jaxsched.studies.estimate._try", lambda *_: (1.0, 1e-3))
    first, rest = plan.total // 2, plan.total
    half, all_of_it = (estimate_costs(Simulator(plan), [(0, stop)]) for stop in (first, rest))
    assert half.seconds == pytest.approx(first * 9 * 1e-3)
    assert all_of_it.seconds == pytest.approx(first * (9 + 12) * 1e-3)


def test_workers_are_an_axis_that_is_silent_by_default() -> None:
    changes = {"num_requests": [9], "memory": [256], "clocks": ["rounds"], "max_batch": [0]}
    plan = Plan(load(**changes, workers=["paper", "vllm:block=4,budget=256"]).study())
    frame = Simulator(plan, engine="native").table(0, plan.total)
    plain = Plan(load(**changes).study())
    assert "workers" not in load(**changes).text()
    unmentioned = Simulator(plain, engine="native").table(0, plain.total)
    on_paper = frame[frame["worker"] == "paper"].drop(columns="worker").reset_index(drop=True)
    pd.testing.assert_frame_equal(on_paper, unmentioned, check_categorical=False)
    blocks = frame[frame["worker"] != "paper"]
    assert (blocks["wasted_tokens"] != on_paper["wasted_tokens"].to_numpy()).any()
    assert (blocks["ratio_to_bound"].dropna() >= 1).all()
