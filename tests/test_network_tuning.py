"""Tuning the network around A_min: its space, the methods on it, the file that comes of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxsched as js
from jaxsched import cli, toml
from jaxsched.policies import files as tuned
from jaxsched.policies.network import EVICT, PROGRESS, SHAPES, WIDEST, quantize
from jaxsched.studies.config import LengthsConfig
from jaxsched.tuning import rules, search
from jaxsched.tuning.config import DescentConfig, TuneConfig
from jaxsched.tuning.estimators import estimator
from jaxsched.tuning.problem import Problem
from jaxsched.tuning.space import NetworkSpace
from tests.small_tuning import configured, fill

SMALL = """\
memory = 500
num_requests = 60
predictions = ["one:1:100"]
member = "network"
methods = ["descent", "cma_es", "random"]
lanes = 4
validation_lanes = 8
test_lanes = 8
validate_every = 2

[trace]
path = "requests.csv"

[descent]
steps = 4
starts = 8
pairs = 4
chains = 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("network"), SMALL)


@pytest.fixture(scope="module")
def problem(folder: Path) -> Problem:
    return Problem(configured(folder))


@pytest.fixture(scope="module")
def space(problem: Problem) -> NetworkSpace:
    return search.space_of(problem.config)


def test_points_and_networks_are_the_same_thing(space: NetworkSpace) -> None:
    points = space.random(np.random.default_rng(0), 5)
    assert points.shape == (5, space.size) == (5, 360)
    networks = space.params(points)
    for i in range(5):
        back = space.point(jax.tree.map(lambda leaf, i=i: leaf[i], networks))
        np.testing.assert_allclose(back, points[i], atol=1e-9)
    assert hash(space) == hash(NetworkSpace(0)) and space != NetworkSpace(1)


def test_the_origin_is_a_min_with_hidden_units(space: NetworkSpace) -> None:
    origin = space.params(space.origin)
    assert not origin.linear.any() and not origin.output.any()
    assert np.all(np.any(origin.hidden != 0, axis=-1))
    assert not np.array_equal(origin.hidden, NetworkSpace(1).params(NetworkSpace(1).origin).hidden)


def test_a_space_of_wider_networks() -> None:
    """Wherever z goes, results vary as much as with 12 units."""
    rng, features, spread = np.random.default_rng(3), np.ones(6), []
    for units in (12, 48):
        space = NetworkSpace(0, units)
        assert space.size == len(space.origin) == 4 * (6 + 7 * units)
        assert not space.params(space.origin).output.any()
        points = space.random(rng, 200)
        np.testing.assert_allclose(space.point(space.params(points[0])), points[0])
        net = space.params(points)
        active = np.maximum(net.hidden @ features, 0)
        spread.append(np.std(np.sum(net.output * active, axis=-1)))
    assert spread[1] == pytest.approx(spread[0], rel=0.25)


def test_the_box_is_the_range_of_the_weights(space: NetworkSpace) -> None:
    low, high = (space.params(corner) for corner in space.box)
    for name in SHAPES:
        assert np.all(getattr(high, name) == WIDEST)
        at_least = np.full(SHAPES[name], -WIDEST)
        if name == "linear":
            at_least[EVICT, PROGRESS] = 0
        assert np.array_equal(getattr(low, name), at_least)
    assert np.array_equal(space.clip(space.box[1] + 1), space.box[1])


def test_scores_are_those_of_simulate(problem: Problem, space: NetworkSpace) -> None:
    batch, away = problem.fresh(3), np.random.default_rng(1).standard_normal((3, space.size))
    points = space.clip(space.origin + 0.2 * away)
    yardstick = js.simulate(batch.instance, js.h_sf()).total_latency
    for point, scores in zip(points, problem.scores(batch, space.params(points)), strict=True):
        policy = js.a_min_network(space.params(point))
        total = js.simulate(batch.instance, policy).total_latency
        np.testing.assert_allclose(scores, np.log(total / yardstick), rtol=1e-12)


def test_the_relaxation_points_downhill(problem: Problem, space: NetworkSpace) -> None:
    descent = DescentConfig(estimator="relaxation", chains=1, soft_steps=32)
    gradient = estimator(descent, problem, space)
    batch = problem.fresh(1)
    found = gradient(space.origin[None], batch, 0, np.random.default_rng(0))
    assert found.value.shape == (1, 360) and np.all(np.isfinite(found.value))
    assert found.work == 2 * 4 * 60
    step = -2.0 * found.value / np.linalg.norm(found.value)
    points = np.concatenate([space.origin[None], space.clip(space.origin + step)])
    before, after = problem.scores(batch, space.params(points)).mean(axis=1)
    assert after < before


def test_the_command_writes_a_network_that_works(
    folder: Path, problem: Problem, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "mine"
    words = ["tune", str(folder / "tune_small.toml"), "--trace", str(folder / "requests.csv")]
    assert cli.main([*words, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    for label in ("adam on es", "CMA-ES", "random search", "as written", "mine.toml"):
        assert label in printed
    rule = tuned.read_rule(out / "mine.toml")
    assert rule.params is None and rule.origin.num_requests == 60
    policy = js.load_policy(out / "mine.toml")
    assert policy.kind == js.a_min_network().kind and policy.name == "tuned:mine"
    ratio = (
        js.simulate(problem.test.instance, policy).total_latency / problem.test.yardstick["mean"]
    )
    assert rule.scores[0].ratio == pytest.approx(ratio.mean(), abs=5e-5)
    a_min = (
        js.simulate(problem.test.instance, js.a_min()).total_latency
        / problem.test.yardstick["mean"]
    )
    assert ratio.mean() < a_min.mean()


def test_weights_in_a_file_are_those_of_the_network(tmp_path: Path) -> None:
    space = NetworkSpace(4)
    params = space.params(space.random(np.random.default_rng(2), 1)[0])
    text = toml.to_toml(tuned.RuleFile(network=rules.weights(params)))
    (tmp_path / "net.toml").write_text(text)
    policy = js.policy(f"tuned:{tmp_path / 'net.toml'}")
    assert np.array_equal(policy.params, quantize(params))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"linear": (0.0,) * 23}, "network.linear: got 23 numbers; expected 24"),
        ({"output": (8.5,) * 48}, "network.output: got 8.5; expected -8.0 to 8.0"),
        ({"output": (float("nan"),) * 48}, "network.output: got nan; expected -8.0 to 8.0"),
    ],
    ids=["count", "range", "nan"],
)
def test_a_file_that_is_no_network_is_refused(
    tmp_path: Path, change: dict[str, tuple[float, ...]], message: str
) -> None:
    plain = {name: [0.0] * int(np.prod(shape)) for name, shape in SHAPES.items()}
    rows = (f"{name} = {list(value)}" for name, value in (plain | change).items())
    (tmp_path / "mine.toml").write_text("[network]\n" + "\n".join(rows) + "\n")
    with pytest.raises(ValueError, match=f"mine.toml: {message}"):
        js.load_policy(tmp_path / "mine.toml")


def test_a_file_holds_one_or_the_other(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("")
    with pytest.raises(ValueError, match=r"expected one of the tables \[params\] and \[network\]"):
        js.load_policy(tmp_path / "mine.toml")


def test_what_is_for_the_family_is_refused() -> None:
    make = lambda **own: TuneConfig(  # noqa: E731
        memory=9, num_requests=2, predictions=("relative:0.5",), member="network",
        lengths=LengthsConfig(source="lmsys"), **own,
    )  # fmt: skip
    with pytest.raises(ValueError, match='methods: "grid" is for the family'):
        make()
    with pytest.raises(ValueError, match="free: is for the family"):
        make(methods=("descent",), free=("start",))
    with pytest.raises(ValueError, match="member: unknown value 'net'"):
        dataclasses.replace(make(methods=("descent",)), member="net")
