"""The files of tuned rules: shipped ones and one's own, anywhere a policy goes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxsched as js
from jaxsched import cli, toml
from jaxsched.policies import files as tuned
from jaxsched.studies.backlog import BacklogConfig
from jaxsched.studies.config import LengthsConfig, different_policies
from jaxsched.testing import check_policy
from jaxsched.tuning.config import TuneConfig
from jaxsched.tuning.problem import Problem
from jaxsched.workloads.texts import EMBEDDED, read_prediction
from tests.small_tuning import TRACE

NAMES = (
    "lmsys", "lmsys_classes", "lmsys_one", "lmsys_real", "lmsys_relative",
    "sharegpt_classes", "sharegpt_one", "sharegpt_relative",
)  # fmt: skip
VLLM = tuple(
    sorted(
        f"vllm_{lengths}_{kind}{live}"
        for lengths in ("sharegpt", "lmsys")
        for kind in ("one", "classes", "relative", "real")
        for live in ("", "_live")
    )
)
RULE = (tuned.RULES / "lmsys_classes.toml").read_text()


def test_these_rules_are_shipped() -> None:
    assert tuned.names() == [*NAMES, *VLLM]


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_rule_beats_a_min_where_it_was_tuned(name: str) -> None:
    rule = tuned.read_rule(tuned.RULES / f"{name}.toml")
    policy = js.policy(f"tuned:{name}")
    assert rule.params.start == 0
    for score in rule.scores:
        instance = home(rule, score.prediction)
        ratio = latency(instance, policy) / latency(instance, js.policy(score.against))
        assert ratio == pytest.approx(score.ratio, rel=0.12)
        assert ratio < 0.9 or score.against == "h_sf"
        wide = instance.replace(upper=np.full_like(instance.upper, 2**20))
        assert latency(wide, policy) == latency(instance, policy)


def home(rule: tuned.RuleFile, prediction: str) -> js.Instance:
    """Instances like those that a rule was tuned on."""
    lengths, _, longest = rule.origin.lengths.partition(", outputs up to ")
    law = EMBEDDED[lengths]().truncated(max_output=int(longest) if longest else None)
    return js.workloads.make(
        jax.random.key(77), lengths=law, intervals=read_prediction(prediction).source(16_492),
        n=1000, memory=16_492, lanes=4,
    )  # fmt: skip


def latency(instance: js.Instance, policy: js.Policy) -> float:
    return float(js.simulate(instance, policy).mean_latency.mean())


@pytest.mark.parametrize("name", VLLM)
def test_a_shipped_rule_for_vllm_is_as_good_as_its_file_says(name: str) -> None:
    rule = tuned.read_rule(tuned.RULES / f"{name}.toml")
    said = rule.origin
    lengths, _, most = said.lengths.partition(", prompt + output up to ")
    assert said.arrivals == ("poisson" if name.endswith("_live") else "backlog")
    problem = Problem(TuneConfig(
        memory=said.memory, num_requests=said.num_requests, predictions=said.predictions,
        lengths=LengthsConfig(lengths, max_total=int(most)), worker=said.worker, clock=said.clock,
        arrivals=said.arrivals, loads=said.loads, objective=said.objective, seed=77,
        validation_lanes=2, test_lanes=8,
    ))  # fmt: skip
    found = problem.measured_of(problem.test.instance, js.policy(f"tuned:{name}"))
    for i, setting in enumerate(problem.settings):
        lanes = slice(8 * i, 8 * i + 8)
        scores = [s for s in rule.scores if (s.prediction, s.load) == setting]
        assert [score.measure for score in scores] == ["mean", "p99"]
        for score in scores:
            ratio = found[score.measure][lanes] / problem.test.yardstick[score.measure][lanes]
            assert ratio.mean() == pytest.approx(score.ratio, rel=0.15)
            assert score.ratio < 1


def test_a_tuned_rule_keeps_the_contract() -> None:
    check_policy(js.policy("tuned:lmsys_real"), instances=16)


def test_the_same_rule_under_two_names_is_the_same_program() -> None:
    one, other = js.policy("tuned:lmsys_classes"), js.policy("tuned:lmsys_one")
    assert one.name != other.name
    assert one.kind == other.kind == js.a_min_family().kind


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("start = 0.0\n", ""), "missing params.start: expected a number"),
        (("start = 0.0", "start = 1.5"), "params.start: got 1.5; expected 0 to 1"),
        (("start = 0.0", "start = nan"), "params.start: got nan; expected 0 to 1"),
        (("[params]", "[param]"), r"unknown key param \(did you mean params\?\)"),
        (("seed = 0", "sed = 0"), "unknown key origin.sed"),
    ],
    ids=["missing", "out_of_range", "nan", "table", "key"],
)
def test_a_file_that_is_no_rule_is_refused(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(RULE.replace(*change))
    with pytest.raises(ValueError, match=f"mine.toml: {message}"):
        js.load_policy(path)


def test_wrong_names_are_answered_with_the_right_ones(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"'sharegpt' \(did you mean sharegpt_one\?\); expected a path that ends in .toml",
    ):
        js.policy("tuned:sharegpt")
    with pytest.raises(FileNotFoundError, match="none.toml"):
        js.policy(f"tuned:{tmp_path / 'none.toml'}")


def test_a_hand_written_rule_needs_only_its_numbers(tmp_path: Path) -> None:
    shipped = tuned.read_rule(tuned.RULES / "lmsys_one.toml")
    numbers = dict.fromkeys(dataclasses.asdict(shipped.params), 0.0)
    text = toml.to_toml(tuned.RuleFile(tuned.RuleNumbers(**numbers | {"admit_prompt": 1.0})))
    (tmp_path / "plain.toml").write_text(text)
    policy = js.load_policy(tmp_path / "plain.toml")
    expected = js.FamilyParams(**numbers | {"admit_prompt": 1.0})
    assert np.array_equal(policy.params, js.a_min_family(expected).params)


def test_a_changed_file_is_simulated_again(tmp_path: Path) -> None:
    path, names = tmp_path / "mine.toml", []
    for text in (RULE, RULE.replace("reserve_floor = 1.0", "reserve_floor = 9.0")):
        path.write_text(text)
        study = BacklogConfig(
            lanes=2, memory=9000, num_requests=(10,), policies=(f"tuned:{path}",),
            predictions=("exact",),
        )  # fmt: skip
        names.append(study.work().points[0].name)
    assert names[0].startswith("n10-tuned-mine-")
    assert names[0] != names[1]


def test_the_command_line_takes_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("".join(TRACE.splitlines(keepends=True)[:81]))
    (tmp_path / "mine.toml").write_text(RULE)
    policies = f"h_sf,tuned:lmsys_one,tuned:{tmp_path / 'mine.toml'}"
    words = ["simulate", str(trace), "--memory", "500", "--interval", "one:1:100"]
    assert cli.main([*words, "--policies", policies]) == 0
    assert "mine" in capsys.readouterr().out


def test_two_files_of_one_name_are_told_apart_from_one_file(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.toml").write_text(RULE)
    names = tuple(f"tuned:{tmp_path / folder / 'mine.toml'}" for folder in ("a", "b"))
    with pytest.raises(ValueError, match="are both called 'tuned:mine'; expected different ones"):
        different_policies(names)
