"""Tuning: spaces, estimators, methods; killed and resumed to the same bits; the rule's file."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest

import jaxsched as js
from jaxsched import cli
from jaxsched.policies.family import FAMILY_FIELDS, NUMBERS, quantize
from jaxsched.policies.files import read_rule
from jaxsched.tuning import estimators, loop, rules, search
from jaxsched.tuning.config import METHODS, OPTIMIZERS, DescentConfig, TuneConfig
from jaxsched.tuning.estimators import Gradient, estimator, ranked
from jaxsched.tuning.methods import CmaEs, Descent, Screen
from jaxsched.tuning.problem import Problem
from jaxsched.tuning.space import Space, lanes_of
from tests.small_tuning import TRACE, configured, fill

ROOT = Path(__file__).parent.parent

SMALL = """\
memory = 500
num_requests = 60
predictions = ["one:1:100"]
lanes = 4
validation_lanes = 8
test_lanes = 8
validate_every = 2

[trace]
path = "requests.csv"

[descent]
steps = 8
starts = 8
pairs = 2
chains = 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("tuning"), SMALL)


@pytest.fixture(scope="module")
def config(folder: Path) -> TuneConfig:
    return configured(folder)


@pytest.fixture(scope="module")
def problem(config: TuneConfig) -> Problem:
    return Problem(config)


@pytest.fixture(scope="module")
def space() -> Space:
    return Space(FAMILY_FIELDS[1:])


def test_points_and_rules_are_the_same_thing(space: Space) -> None:
    points = space.random(np.random.default_rng(0), 50)
    back = [space.point(jax.tree.map(lambda x, i=i: x[i], space.params(points))) for i in range(50)]
    np.testing.assert_allclose(back, points, atol=1e-9)


def test_the_origin_is_a_min_and_the_box_its_ranges(space: Space) -> None:
    assert np.array_equal(quantize(space.params(space.origin)), quantize(js.FamilyParams()))
    low, high = (space.params(corner) for corner in space.box)
    for name in space.free:
        least, most, *_ = NUMBERS[name]
        least = 0 if name in ("evict_progress", "evict_estimate") else least
        np.testing.assert_allclose((getattr(low, name), getattr(high, name)), (least, most))
    assert np.all(space.clip(space.box[1] + 1) == space.box[1])


@pytest.mark.parametrize("free", [FAMILY_FIELDS, TuneConfig.free], ids=["all", "default"])
def test_every_rule_of_the_space_finishes(free: tuple[str, ...]) -> None:
    space, rng = Space(free), np.random.default_rng(8)
    prompt, output = rng.integers(1, 7, (6, 40)), rng.integers(1, 21, (6, 40))
    lower = rng.integers(1, 21, (6, 40))
    tight = js.Instance(prompt=prompt, output=output, lower=lower, upper=lower + 5, memory=40)
    rules = space.params(space.random(rng, 400))
    result = jax.vmap(lambda rule: js.simulate(tight, js.a_min_family(rule), max_rounds=200_000))
    assert np.all(result(rules).status == js.Status.FINISHED)
    # Outside, where keys may fall, some do not.
    falling = rules.replace(evict_progress=-rules.evict_progress)
    assert not np.all(result(falling).status == js.Status.FINISHED)


def test_numbers_that_are_not_free_stay(space: Space) -> None:
    few = Space(("admit_prompt",))
    rule = few.params(np.array([[1.0], [2.0]]))
    assert np.all(rule.admit_prompt == 0.25 * np.sinh([1.0, 2.0]))
    for name in set(FAMILY_FIELDS) - {"admit_prompt"}:
        assert np.all(getattr(rule, name) == getattr(js.FamilyParams(), name)), name


def test_scores_are_those_of_simulate(problem: Problem) -> None:
    batch = problem.fresh(3)
    rules = [js.FamilyParams(), js.FamilyParams(admit_prompt=1.0, reserve_factor=0.0)]
    yardstick = js.simulate(batch.instance, js.h_sf()).total_latency
    for rule, scores in zip(rules, problem.scores(batch, lanes_of(rules)), strict=True):
        total = js.simulate(batch.instance, js.a_min_family(rule)).total_latency
        np.testing.assert_allclose(scores, np.log(total / yardstick), rtol=1e-12)


def test_a_rule_that_stands_still_is_stopped_and_scores_badly(problem: Problem) -> None:
    # It evicts whoever ran longest, and reserves nothing, so that everybody is let in again.
    still = js.FamilyParams(reserve_factor=0.0, evict_estimate=0.0, evict_progress=-1.0)
    plain, stopped = problem.scores(problem.validation, lanes_of([js.FamilyParams(), still]))
    assert np.all(np.isfinite(stopped))
    assert stopped.mean() > plain.mean() + 0.5


def test_instances_are_fresh_and_held_out_ones_apart(problem: Problem) -> None:
    batches = [problem.fresh(0), problem.fresh(1), problem.validation, problem.test]
    outputs = [batch.instance.output[0].tolist() for batch in batches]
    assert len({tuple(output) for output in outputs}) == 4
    assert np.array_equal(problem.fresh(1).instance.output, batches[1].instance.output)


def test_ranks_share_places_where_scores_tie() -> None:
    scores = np.array([[3.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    expected = np.array([[0.5, 0.0], [-0.5, 0.0], [0.0, 0.0]])
    assert np.array_equal(ranked(scores), expected)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_takes_a_step(problem: Problem, space: Space, optimizer: str) -> None:
    descent = DescentConfig(optimizer=optimizer, steps=2, starts=0, chains=1, pairs=2)
    method = Descent(dataclasses.replace(problem.config, descent=descent), problem, space)
    first = method.step(method.init(), 0)
    second = method.step(first.state, 1)
    assert np.array_equal(first.incumbent, space.origin)
    assert not np.array_equal(second.incumbent, first.incumbent)
    assert second.work == 4 * 4 * 60


@pytest.mark.parametrize("name", ["relaxation", "combined"])
def test_the_relaxation_points_downhill(problem: Problem, name: str) -> None:
    space = Space(("admit_prompt",))
    descent = DescentConfig(estimator=name, chains=1, starts=0, pairs=8, soft_steps=64)
    gradient = estimator(descent, problem, space)
    batch = problem.fresh(1)
    start = space.point(js.FamilyParams(admit_prompt=-2.0))[None]
    found = gradient(start, batch, 0, np.random.default_rng(0))
    assert found.value.shape == (1, 1)
    step = space.clip(start - 1.0 * np.sign(found.value))
    before, after = problem.scores(batch, space.params(np.concatenate([start, step]))).mean(axis=1)
    assert after < before


def test_pairs_of_combined_spread_along_the_relaxation(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = np.array([[0.0, -3.0, 4.0]])
    seen: list[np.ndarray] = []

    def from_pairs(*args: Any) -> Gradient:
        seen.append(args[4])
        return Gradient(guide, np.zeros(1), 1000)

    guided = Gradient(guide, guide[0], 10)
    monkeypatch.setattr(estimators, "relaxation", lambda *_: lambda *_: guided)
    monkeypatch.setattr(estimators, "from_pairs", from_pairs)
    space = Space(("admit_prompt", "admit_area", "evict_prompt"))
    settings = DescentConfig(estimator="combined", pairs=40_000, guidance=0.25)
    found = estimator(settings, problem, space)(
        np.zeros((1, 3)), problem.fresh(1), 0, np.random.default_rng(0)
    )
    assert found.work == 1010
    along = np.array([0.0, -0.6, 0.8])
    # A quarter of the whole variance, which is 3 as without a guide.
    expected = 0.75 * np.eye(3) + 0.25 * 3 * np.outer(along, along)
    np.testing.assert_allclose(np.cov(seen[0][:, 0].T), expected, atol=0.03)


class Valley(Problem):
    """Scores that are a narrow valley with its lowest point at 1, …, 1; no simulation."""

    def __init__(self, config: TuneConfig, space: Space) -> None:
        self.config, self.space = config, space

    def fresh(self, step: int) -> None:
        return None

    def scores(self, batch: None, params: js.FamilyParams) -> np.ndarray:
        values = np.stack([getattr(params, name) for name in self.space.free], axis=-1)
        away = np.arcsinh(values / self.space.scale) - 1
        d = self.space.size
        turned = away @ np.linalg.qr(np.random.default_rng(0).standard_normal((d, d)))[0]
        return np.sum(np.linspace(1, 30, d) * turned**2, axis=-1, keepdims=True)


@pytest.mark.parametrize(("name", "reached"), [("cma_es", 1e-3), ("descent", 1.0)])
def test_reaches_the_bottom_of_a_valley(config: TuneConfig, name: str, reached: float) -> None:
    space = Space((*TuneConfig.free, "run_growth"))
    descent = DescentConfig(steps=250, starts=0, chains=1, pairs=8, sigma=(0.3, 0.05))
    config = dataclasses.replace(config, descent=descent)
    valley = Valley(config, space)
    make = {
        "cma_es": lambda: CmaEs(config, valley, space, valley.work(16 * 250)),
        "descent": lambda: Descent(config, valley, space),
    }
    method = make[name]()
    state = method.init()
    for step in range(method.steps):
        state, point, _ = method.step(state, step)
    start, end = (valley.scores(None, space.params(z[None]))[0, 0] for z in (space.origin, point))
    assert start > 50
    assert end < reached


def test_the_grid_is_every_combination_once(problem: Problem, space: Space) -> None:
    grid = Screen(problem.config, problem, space, "grid", 1e12)
    count = problem.config.descent.candidates
    points = np.concatenate([grid._points(step) for step in range(grid.steps)])
    assert grid.steps == -(-576 // count)
    assert len({tuple(point) for point in points}) == len(points) == 576


def test_methods_have_the_same_work(problem: Problem, space: Space) -> None:
    config = dataclasses.replace(problem.config, methods=tuple(reversed(METHODS)))
    chosen = search.methods(config, problem, space)
    assert [method.name for method in chosen] == list(METHODS)
    works = []
    for method in chosen:
        state, work = method.init(), 0
        for step in range(method.steps):
            state, _, spent = method.step(state, step)
            work += spent
        works.append(work)
    assert max(works) - min(works) <= problem.work(8)


def test_a_rule_becomes_readable_at_no_great_loss(problem: Problem, space: Space) -> None:
    before = jax.tree.map(float, space.params(space.random(np.random.default_rng(5), 1)[0]))
    after = rules.readable(problem, before)
    loss = np.diff(problem.scores(problem.validation, lanes_of([before, after])).mean(axis=1))
    assert loss[0] <= rules.TOLERANCE
    numbers = dataclasses.asdict(rules.numbers(after)).values()
    assert sum(len(f"{number:g}") for number in numbers) < sum(
        len(f"{number:g}") for number in dataclasses.asdict(before).values()
    )


def test_short_numbers_make_the_same_rule() -> None:
    rule = js.FamilyParams(admit_prompt=1.98535, reserve_floor=17.6, run_growth=-0.0, start=1 / 3)
    short = rules.numbers(rule)
    assert (short.admit_prompt, short.reserve_floor, short.start) == (1.985, 18.0, 0.333)
    same = js.FamilyParams(**dataclasses.asdict(short))
    assert np.array_equal(quantize(same), quantize(rule))


def test_the_command_writes_a_rule_that_works(
    folder: Path, problem: Problem, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["tune", str(folder / "tune_small.toml"), "--trace", str(folder / "requests.csv")]
    assert cli.main([*words, "--out", str(folder / "mine")]) == 0
    printed = capsys.readouterr().out
    for label in ("adam on es", "CMA-ES", "random search", "grid", "as written", "mine.toml"):
        assert label in printed
    path = folder / "mine" / "mine.toml"
    rule = read_rule(path)
    digest = hashlib.sha256(TRACE.encode()).hexdigest()
    assert rule.origin.lengths == f"requests.csv, SHA-256 {digest}"
    policy = js.load_policy(path)
    assert policy.name == js.policy(f"tuned:{path}").name == "tuned:mine"
    ratio = (
        js.simulate(problem.test.instance, policy).total_latency / problem.test.yardstick["mean"]
    )
    assert rule.scores[0].against == "h_sf"
    assert rule.scores[0].ratio == pytest.approx(ratio.mean(), abs=5e-5)
    curves = pd.read_parquet(folder / "mine" / "curves.parquet")
    assert list(curves["method"].unique()) == list(METHODS)
    assert all(line.is_monotonic_decreasing for _, line in curves.groupby("method")["best"])
    # Another configuration may not go on in the same folder.
    assert cli.main([*words, "--steps", "3", "--out", str(folder / "mine")]) == 1
    assert "-steps = 8" in capsys.readouterr().err


KILLED = """
import os, signal, sys
from tests.test_tuning import resume
def on_step(method, progress):
    if sys.argv[2:] == [method.name, str(int(progress.steps))]:
        os.kill(os.getpid(), signal.SIGKILL)
resume(sys.argv[1], on_step)
"""


def resume(folder: str | Path, on_step: loop.OnStep = lambda *_: None) -> None:
    """Runs what is left of the small tuning."""
    config = configured(Path(folder).parent)
    problem = Problem(config)
    chosen = search.methods(config, problem, Space(config.free))
    search.run_search(config, problem, chosen, Path(folder), on_step)


def test_killed_and_resumed_gives_the_same_bits(folder: Path) -> None:
    cache = {
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }
    for stop in (("descent", "5"), ("cma_es", "3")):
        words = [sys.executable, "-c", KILLED, str(folder / "b"), *stop]
        killed = subprocess.run(words, cwd=ROOT, env={**os.environ, **cache})
        assert killed.returncode == -signal.SIGKILL
    resume(folder / "b")
    resume(folder / "a")
    assert (folder / "a" / "a.toml").read_bytes() == (folder / "b" / "b.toml").read_bytes()
    for table in ("curves", "results"):
        one, other = (pd.read_parquet(folder / name / f"{table}.parquet") for name in "ab")
        pd.testing.assert_frame_equal(one, other, check_exact=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("lanes = 4", "lane = 4"), "unknown key lane (did you mean lanes?)"),
        (("steps = 8", "steps = 0"), "descent.steps: got 0; expected at least 1"),
        (
            ("steps = 8", "sigma = [inf, 0.1]"),
            "descent.sigma[0]: got inf; expected a finite number",
        ),
        (("steps = 8", 'estimator = "guess"'), "descent.estimator: unknown value 'guess'"),
        (("chains = 2", "chains = 20"), "descent.chains: got 20; expected at most starts + 1"),
        (('["one:1:100"]', "[]"), "predictions: got an empty list"),
        (
            ("lanes = 4", "lanes = 4\nseed = 4294967296"),
            "seed: got 4294967296; expected at most 4294967295",
        ),
        (("seed = 0", ""), "lengths, trace: expected one of the tables"),
        (('.csv"', '.csv"\nsha256 = "0"'), "trace.sha256: got '0'; expected '"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_configuration_that_makes_no_sense_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    change: tuple[str, str], message: str, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    text = (
        SMALL.replace(*change) if change[0] in SMALL else SMALL + '\n[lengths]\nsource = "lmsys"\n'
    )
    (tmp_path / "bad.toml").write_text(text)
    out = tmp_path / "out"
    assert cli.main(["tune", str(tmp_path / "bad.toml"), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert "bad.toml: " in error and message in error
    assert not out.exists()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError, RuntimeError])
def test_ctrl_c_says_how_to_go_on_even_from_within_a_callback(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, kind: type[BaseException],
) -> None:  # fmt: skip
    def run(*_: Any) -> None:
        raise kind("INTERNAL: CpuCallback error calling callback: KeyboardInterrupt")

    monkeypatch.chdir(folder)
    monkeypatch.setattr(search, "run_search", run)
    code = cli.main(["tune", "tune_small.toml", "--out", str(tmp_path / "out")])
    captured = capsys.readouterr()
    assert code == 130 and "stopped" in captured.err and "INTERNAL" not in captured.err
    assert "run the same command again to go on" in captured.err
