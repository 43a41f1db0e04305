"""Rules tuned for arrivals, clocks and workers: scores by hand, one end to end, other uses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxsched as js
from jaxsched import cli, clocks, workers
from jaxsched.policies.files import read_rule, rule_path
from jaxsched.studies.config import used_elsewhere
from jaxsched.tuning.config import DescentConfig, TuneConfig, read_objective
from jaxsched.tuning.methods import Descent
from jaxsched.tuning.problem import Problem
from jaxsched.tuning.space import HAND_WRITTEN, Space, lanes_of
from tests.small_tuning import configured, fill

pytest.importorskip("numba")

WORKER = "vllm:block=4,max_num_seqs=20,budget=40"
SMALL = f"""\
memory = 500
num_requests = 60
predictions = ["one:1:100", "relative:0.5"]
lanes = 2
validation_lanes = 4
test_lanes = 4
methods = ["cma_es"]
worker = "{WORKER}"
clock = "llama2_7b_a100"
arrivals = "poisson"
loads = [0.8, 1.2]
objective = "mean:2,p99:1,attainment:1"
slo = "ttft=1.5,e2e=3"
begin = ["tuned:vllm_sharegpt_one_live"]
free = ["admit_prompt", "progress", "age", "evict_progress", "evict_arrival"]

[trace]
path = "requests.csv"

[descent]
steps = 2
starts = 3
pairs = 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("live"), SMALL)


@pytest.fixture(scope="module")
def config(folder: Path) -> TuneConfig:
    return configured(folder)


@pytest.fixture(scope="module")
def problem(config: TuneConfig) -> Problem:
    return Problem(config)


def by_hand(instance: js.Instance, policy: js.Policy) -> dict[str, list[float]]:
    """Mean and P99 of the latency in seconds, and 1 + requests that miss the level, by lane."""
    clock, worker = clocks.clock("llama2_7b_a100"), workers.worker_named(WORKER)
    result = js.simulate(instance, policy, clock=clock, worker=worker)
    found: dict[str, list[float]] = {"mean": [], "p99": [], "attainment": []}
    for lane in range(instance.lanes[0]):
        arrival = instance.arrival[lane]
        latency = np.sort(result.completion_seconds[lane] - arrival)
        first = result.first_token_seconds[lane] - arrival
        late = (first > 1.5) | (result.completion_seconds[lane] - arrival > 3)
        place = 0.99 * (len(latency) - 1)
        low = int(place)
        found["mean"].append(sum(latency) / len(latency))
        found["p99"].append(latency[low] + (place - low) * (latency[low + 1] - latency[low]))
        found["attainment"].append(1 + int(late.sum()))
    return found


def test_scores_are_weighted_logarithms_of_what_is_measured(problem: Problem) -> None:
    batch, rules = problem.fresh(1), [js.FamilyParams(), HAND_WRITTEN["remaining_volume"]]
    base = by_hand(batch.instance, js.fcfs())
    assert batch.instance.lanes == (2 * 2 * 2,)
    for rule, scores in zip(rules, problem.scores(batch, lanes_of(rules)), strict=True):
        own = by_hand(batch.instance, js.a_min_family(rule))
        terms = {name: np.log(np.array(own[name]) / base[name]) for name in own}
        expected = 0.5 * terms["mean"] + 0.25 * terms["p99"] + 0.25 * terms["attainment"]
        np.testing.assert_allclose(scores, expected, rtol=1e-12)
        assert (terms["attainment"] != 0).any()


def test_loads_share_requests_and_stretch_their_arrivals(problem: Problem) -> None:
    """A load of 1 is what fcfs completes in the middle of a backlog."""
    quiet, busy = (problem.fresh(0).instance.arrival[i : i + 2] for i in (0, 2))
    np.testing.assert_allclose(quiet * 0.8, busy * 1.2)
    many = 3000
    assert quiet[:, -1].mean() == pytest.approx(60 / 0.8 / problem.sustained, rel=0.3)
    drawn = js.workloads.make(
        jax.random.key(5), lengths=problem.trace.lengths(), n=many, memory=500,
        intervals=js.workloads.intervals.relative(0),
    )  # fmt: skip
    clock, worker = clocks.clock("llama2_7b_a100"), workers.worker_named(WORKER)
    done = np.sort(js.simulate(drawn, js.fcfs(), clock=clock, worker=worker).completion_seconds)
    rate = (many // 2) / (done[3 * many // 4] - done[many // 4])
    assert problem.sustained == pytest.approx(rate, rel=0.1)


def test_stretches_of_a_trace_come_in_a_row(config: TuneConfig) -> None:
    stretches = dataclasses.replace(
        config, arrivals="trace", loads=(), predictions=("relative:0.5",)
    )
    problem, trace = Problem(stretches), Problem(config).trace
    own_rows = np.stack([trace.prompt, trace.output])
    parts = {(0, 141): problem.fresh(3), (200, 241): problem.validation, (300, 341): problem.test}
    for rows, batch in parts.items():
        seen = np.stack([batch.instance.prompt, batch.instance.output], axis=1)
        for requests, arrival in zip(seen, batch.instance.arrival, strict=True):
            (start,) = [i for i in range(*rows) if (own_rows[:, i : i + 60] == requests).all()]
            own = trace.arrival_seconds[start : start + 60]
            np.testing.assert_allclose(arrival, own - own[0])


def test_good_rules_by_hand_are_members() -> None:
    """Exactly, where arrivals differ and (remaining volume) where tokens are kept."""
    rng = np.random.default_rng(1)
    prompt, output = rng.integers(1, 90, (8, 50)), rng.integers(1, 90, (8, 50))
    arrival = np.sort(rng.permuted(np.tile(np.arange(400), (8, 1)), axis=1)[:, :50], axis=1)
    instance = js.Instance(
        prompt=prompt, output=output, lower=(output + 1) // 2, upper=output, arrival=arrival,
        memory=400,
    )  # fmt: skip
    for worker in (workers.paper(), workers.vllm(4, 20, 40)):
        names = ["fcfs", "lcf"]
        if worker.blocks:
            names += ["remaining_volume", "remaining_volume:lower"]
        for name in names:
            member = js.a_min_family(HAND_WRITTEN[name])
            one, other = (
                js.simulate(instance, p, worker=worker) for p in (member, js.policy(name))
            )
            assert (one.completion == other.completion).all(), (name, worker)
            assert (one.evictions > 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"objective": "mean:2,p98"},
            "objective: got 'p98' in 'mean:2,p98'; expected each of mean",
        ),
        ({"objective": "mean:0", "slo": None}, "with a weight above 0"),
        ({"slo": None}, "expected attainment of a service level, under a clock, or neither"),
        ({"loads": ()}, "expected numbers above 0 in one of both with poisson arrivals"),
        ({"rates": (1.0,)}, "at most one with those of a trace"),
        ({"arrivals": "trace", "trace": None}, "those of a trace are in seconds"),
        ({"descent": DescentConfig(estimator="relaxation")}, "which is for the mean of backlogs"),
        ({"worker": "vlm"}, "worker: worker is 'vlm'"),
        ({"begin": ("lcf",)}, "begin: got 'lcf'; expected tuned rules of the family"),
    ],
)
def test_what_makes_no_sense_is_refused(config: TuneConfig, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **change)


def test_weights_add_up_to_one() -> None:
    assert read_objective("mean") == {"mean": 1.0}
    assert read_objective("p99:3, mean") == {"p99": 0.75, "mean": 0.25}


def test_the_command_tunes_for_arrivals_and_others_warn_of_other_use(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, out = str(folder / "requests.csv"), folder / "vllm_mine"
    words = ["tune", str(folder / "tune_small.toml"), "--trace", trace, "--out", str(out)]
    assert cli.main([*words, "--predictions", "relative:0.5"]) == 0
    printed = capsys.readouterr().out
    assert "load 0.8" in printed and "missed / fcfs" in printed
    rule = read_rule(out / "vllm_mine.toml")
    origin = rule.origin
    assert (origin.worker, origin.arrivals, origin.loads) == (WORKER, "poisson", (0.8, 1.2))
    assert origin.predictions == ("relative:0.5",)
    assert {(s.measure, s.load) for s in rule.scores} == {
        (measure, load) for measure in ("mean", "p99", "attainment") for load in (0.8, 1.2)
    }
    name = f"tuned:{out / 'vllm_mine.toml'}"
    words = ["simulate", trace, "--memory", "500", "--policies", name]
    assert cli.main([*words, "--interval", "one:1:100"]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "was tuned for" in line]
    assert told == [
        f"{name} was tuned for other use: worker vllm, not paper; requests arriving in seconds, "
        "not at once; predictions relative, not one"
    ]
    same = ["--worker", "vllm", "--arrivals", "trace", "--clock", "llama2_7b_a100"]
    assert cli.main([*words, *same, "--interval", "relative:0.2"]) == 0
    assert "was tuned for" not in capsys.readouterr().out
    slo = ["--slo", "e2e=30", "--interval", "relative:0.5", "--clock", "llama2_7b_a100"]
    assert cli.main(["capacity", *words[1:], *slo]) == 0
    assert "worker vllm, not paper" in capsys.readouterr().out


def test_embedded_lengths_are_a_kind_too() -> None:
    here = dict(
        workers=["paper"], arrivals=["backlog"], clocks=[None], predictions=["relative:0.3"]
    )
    names = ["h_sf", "tuned:sharegpt_relative"]
    assert not list(used_elsewhere(names, lengths=["sharegpt,max_total:4030"], **here))
    (line,) = used_elsewhere(names, lengths=["lmsys", "sharegpt"], **here)
    assert line == "tuned:sharegpt_relative was tuned for other use: lengths sharegpt, not lmsys"


def test_a_search_begins_at_good_rules_and_at_those_named(
    config: TuneConfig, problem: Problem
) -> None:
    space, batch = Space(config.free), problem.fresh(0)
    found, work = Descent(config, problem, space)._best_starts(batch, np.random.default_rng(0))
    assert len(found) == 1 + 3 + len(HAND_WRITTEN) + 1 and work == problem.work(len(found))
    named = js.FamilyParams(**vars(read_rule(rule_path("vllm_sharegpt_one_live")).params))
    for rule in (*HAND_WRITTEN.values(), named):
        assert (found == space.clip(space.point(rule)[None])).all(axis=1).any()
