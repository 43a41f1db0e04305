"""Predictors of output lengths, on made-up prompts whose law is known."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

import jaxsched as js
from jaxsched import cli, toml
from jaxsched.predict import conformal, data, network, pipeline
from jaxsched.predict.config import ClassesConfig, NetworkConfig, PredictConfig, TrainingConfig

MEANS = {"brief": 40, "essay": 400}
SMALL = PredictConfig(
    seed=3,
    max_total=None,
    calibration=0.3,
    network=NetworkConfig(buckets=512, width=2, hidden=16),
    training=TrainingConfig(epochs=5, batch=64, learning_rate=0.02, weight_decay=1.0),
    classes=ClassesConfig(edges=(1, 100, 400)),
)


def drawn(rows: int, seed: int, factor: float = 1.0) -> data.Examples:
    """Prompts with one word that matters: the output is exponential with the mean of that word."""
    rng = np.random.default_rng(seed)
    words = rng.choice(list(MEANS), rows)
    texts = tuple(
        f"{' '.join(rng.choice(['north', 'east', 'south'], 5))} {word} {i}"
        for i, word in enumerate(words)
    )
    mean = factor * np.array([MEANS[word] for word in words])
    output = np.ceil(rng.exponential(mean)).astype(np.int32)
    prompt = rng.integers(5, 50, rows).astype(np.int32)
    return data.Examples(output, prompt, texts, "made up", "made up", "0" * 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a predictor, from the command line and a file."""
    folder = tmp_path_factory.mktemp("predict")
    rows = drawn(3000, seed=0)
    lines = zip(rows.texts, rows.prompt.tolist(), rows.output.tolist(), strict=True)
    keys = ("question", "prompt", "answer")
    text = "".join(json.dumps(dict(zip(keys, line, strict=True))) + "\n" for line in lines)
    (folder / "requests.jsonl").write_text(text)
    (folder / "config.toml").write_text(toml.to_toml(SMALL))
    train = ["predict", "train", str(folder / "config.toml"), "--out", str(folder / "out")]
    named = "text=question,output=answer,prompt=prompt"
    assert cli.main([*train, "--data", str(folder / "requests.jsonl"), "--columns", named]) == 0
    return folder


@pytest.fixture(scope="module")
def predictor(folder: Path) -> js.predict.Predictor:
    return js.predict.load(folder / "out")


def test_it_learns_the_law(predictor: js.predict.Predictor) -> None:
    rows = drawn(600, seed=7)
    found = predictor.quantile(rows.texts, [0.5])[:, 0]
    classes = predictor.classes(rows.texts)
    for word, mean in MEANS.items():
        here = np.array([word in text for text in rows.texts])
        # Roots are what it learns: those of the two medians are 11 apart.
        root = np.sqrt(np.median(found[here]))
        assert root == pytest.approx(np.sqrt(np.log(2) * mean), abs=2)
        assert np.median(classes[here]) == {"brief": 0, "essay": 1}[word]


def test_bounds_hold_as_often_as_they_say(predictor: js.predict.Predictor) -> None:
    rows = drawn(4000, seed=1)
    for prompts in (rows.texts, rows.prompt):
        for coverage in (0.5, 0.8, 0.95):
            lower, upper = predictor.interval(prompts, coverage)
            assert lower.dtype == np.int32 and np.all((lower >= 1) & (lower <= upper))
            assert np.mean((lower <= rows.output) & (rows.output <= upper)) == pytest.approx(
                coverage, abs=0.035
            )
            lower = predictor.lower(prompts, coverage)
            assert np.mean(lower <= rows.output) == pytest.approx(coverage, abs=0.04)


def test_quantiles_never_cross(predictor: js.predict.Predictor) -> None:
    found = predictor.quantile(drawn(200, seed=2).texts, np.linspace(0, 1, 41))
    assert np.all(np.diff(found, axis=1) >= 0) and np.all(found >= 1)


def test_one_request_as_in_a_batch(predictor: js.predict.Predictor) -> None:
    texts = drawn(50, seed=4).texts
    together = predictor.interval(texts)
    alone = [predictor.interval([text]) for text in texts]
    np.testing.assert_allclose(together[0], np.ravel([low for low, _ in alone]), atol=1)
    np.testing.assert_allclose(together[1], np.ravel([up for _, up in alone]), atol=1)


def test_bounds_are_those_of_mapie() -> None:
    """Moves of both sides as MAPIE computes them for the same quantiles."""
    regression = pytest.importorskip("mapie.regression")
    from sklearn.base import BaseEstimator, RegressorMixin

    class Column(RegressorMixin, BaseEstimator):
        def __init__(self, column: int = 0) -> None:
            self.column = column
            self.fitted_ = True

        def fit(self, x: object, y: object) -> Column:
            return self

        def predict(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
            return x[:, self.column]

    rng = np.random.default_rng(0)
    truth = rng.exponential(9, 237)
    bounds = np.sort(truth[:, None] + rng.normal(0, 5, (237, 3)), axis=1)
    model = regression.ConformalizedQuantileRegressor(
        [Column(0), Column(2), Column(1)], confidence_level=0.8, prefit=True
    ).conformalize(bounds, truth)
    _, found = model.predict_interval(bounds, symmetric_correction=False)
    lower, upper = (np.repeat(bounds[:, [i]], len(conformal.SCALE_GRID), axis=1) for i in (0, 2))
    down, up = conformal.offsets(lower, upper, truth)
    place = conformal.index(0.9)
    np.testing.assert_allclose(found[:, 0, 0], bounds[:, 0] - down[place])
    np.testing.assert_allclose(found[:, 1, 0], bounds[:, 2] + up[place])


def test_the_law_of_censored_values_is_that_of_scipy() -> None:
    """The product-limit estimate, but for the request to come, which counts as one more."""
    from scipy import stats

    rng = np.random.default_rng(1)
    values, limit = rng.exponential(5, 4000), rng.exponential(8, 4000)
    finished = values <= limit
    seen = np.minimum(values, limit)
    law = stats.ecdf(stats.CensoredData.right_censored(seen, ~finished)).cdf
    for level in (0.1, 0.5, 0.8):
        value = conformal.censored_quantile(seen, finished, level)
        assert law.evaluate(value) == pytest.approx(level, abs=0.002)
        below = conformal.censored_quantile(seen, finished, level, below=True)
        assert law.evaluate(below) == pytest.approx(level, abs=0.002)


def test_finished_rows_alone_are_split_conformal() -> None:
    rng = np.random.default_rng(2)
    truth, lower = rng.normal(size=99), rng.normal(size=(99, len(conformal.SCALE_GRID)))
    expected = conformal.offsets(lower, lower + 1, truth)
    found = conformal.censored_offsets(
        lower,
        lower + 1,
        truth,
        np.ones(99, bool),
        (0 * conformal.SCALE_GRID, 0 * conformal.SCALE_GRID),
    )
    np.testing.assert_allclose(found, expected)


def test_an_update_learns_from_requests_that_still_run(predictor: js.predict.Predictor) -> None:
    """Answers three times as long, seen up to token 200: finished ones alone look short."""
    rows, fresh = drawn(400, seed=5, factor=3), drawn(2000, seed=6, factor=3)
    seen, done = np.minimum(rows.output, 200), rows.output <= 200

    def held(one: js.predict.Predictor) -> float:
        return float(np.mean(one.interval(fresh.texts, 0.8)[1] >= fresh.output))

    known = np.flatnonzero(done)
    naive = predictor.update([rows.texts[i] for i in known], rows.output[known])
    updated = predictor.update(rows.texts, seen, done)
    assert held(predictor) < held(naive) < 0.71 < 0.74 < held(updated)
    assert held(predictor.update(rows.texts, rows.output)) == pytest.approx(0.9, abs=0.04)
    with pytest.raises(ValueError, match="no request is finished"):
        predictor.update(rows.texts[:2], np.array([1, 2]), np.zeros(2, bool))


def test_what_is_left_given_what_is_out(predictor: js.predict.Predictor) -> None:
    """An exponential law has no memory: as much is left at any time."""
    text = ["north east south north essay 1500"]
    left = [int(predictor.conditional(text, np.array([k]), 0.5)[0]) - k for k in (0, 100, 200)]
    np.testing.assert_allclose(left, np.log(2) * MEANS["essay"], rtol=0.4)


def test_near_duplicates_are_on_one_side() -> None:
    texts = tuple(f"group {i // 4} of some prompts that begin with equal words, {i}" for i in
                  range(400))  # fmt: skip
    output = np.ones(400, np.int32)
    rows = data.Examples(output, output, texts, "", "", "")
    parts = data.split_rows(rows, (0.5, 0.1, 0.1, 0.3), seed=0)
    assert sorted(np.concatenate(parts)) == list(range(400))
    sides = [{i // 4 for i in part} for part in parts]
    assert sum(map(len, sides)) == 100 and all(len(part) + 160 > 100 for part in parts)
    assert not np.array_equal(parts[0], data.split_rows(rows, (0.5, 0.1, 0.1, 0.3), seed=1)[0])


def test_a_cut_file_is_read_up_to_the_cut() -> None:
    text = json.dumps([{"id": 1}, {"id": 2}, {"id": 3}])
    assert [item["id"] for item in data.items(text[:-5])] == [1, 2]


def test_later_turns_train_only_beside_their_own_conversation() -> None:
    """None of a conversation that is held out, or that looks like a prompt that is."""
    rows = drawn(200, seed=11)
    number = np.arange(200, dtype=np.int32)
    rows = dataclasses.replace(rows, conversation=number)
    # Later turn i of conversation i; those of the first 50 repeat the prompt of another.
    alike = tuple(rows.texts[(i + 100) % 200] if i < 50 else f"go on, {i}" for i in number)
    rows = dataclasses.replace(rows, later=dataclasses.replace(rows, texts=alike))
    parts = pipeline.parts_of(SMALL, rows)
    own = set(parts.train.conversation.tolist())
    expected = {i for i in own if i >= 50 or (i + 100) % 200 in own}
    assert 0 < len(expected) < len(own)
    assert set(parts.later.conversation.tolist()) == expected
    assert parts.later.later is None and len(parts.train) + len(parts.test) < 200

    item = {"id": "a_0", "conversations": [
        {"from": "human", "value": "p"}, {"from": "gpt", "value": "a"},
        {"from": "human", "value": "q"}, {"from": "gpt", "value": "b"},
    ]}  # fmt: skip
    assert list(data._turns(item)) == [("a", False, "p", "a"), ("a", True, "q", "b")]
    assert [turn[1] for turn in data._turns(item | {"id": "a_6"})] == [True, True]


def test_bytes_stand_for_words(predictor: js.predict.Predictor) -> None:
    params = network.init(7, 16, 2, 5, 3, seed=0)
    packed = network.packed(params)
    assert packed["words"].dtype == predictor.params["text"]["words"].dtype == np.int8
    found = packed["words"] * packed["unit"]
    np.testing.assert_allclose(found, params["words"], atol=packed["unit"].max() / 1.99)


def test_the_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads((folder / "out" / "report.json").read_text())
    assert report["coverage"]["0.8"] == pytest.approx(0.8, abs=0.05)
    assert report["pinball"] < 0.9 * report["pinball_marginal"]
    assert report["kinds"]["length"]["pinball"] > 0.97 * report["pinball_marginal"]
    assert report["class_accuracy"] > report["class_majority"]
    assert set(report["by"]) == {"predicted class", "true class", "prompt length"}
    assert sum(row["rows"] for row in report["by"]["true class"]) == report["rows"]
    page = (folder / "out" / "report.html").read_text()
    assert "Who is covered" in page
    assert cli.main(["report", str(folder / "out"), "--json"]) == 0
    assert (folder / "out" / "report.html").read_text() == page
    told = json.loads(capsys.readouterr().out)
    assert told["rows"][0]["pinball"] == report["kinds"][told["rows"][0]["sees"]]["pinball"]
    assert f"{report['rows']:,} test requests" == told["title"]
    for path in filter(Path.is_file, (folder / "out").rglob("*")):
        assert b"north east" not in path.read_bytes(), f"{path} holds texts"


def test_apply_makes_a_trace_that_simulate_reads(
    folder: Path, predictor: js.predict.Predictor, tmp_path: Path
) -> None:
    rows = drawn(30, seed=8)
    source, out = tmp_path / "r.parquet", tmp_path / "with.parquet"
    columns = {"text": rows.texts, "prompt": rows.prompt, "output": rows.output}
    pd.DataFrame(columns).to_parquet(source)
    command = ["predict", "apply", str(folder / "out"), str(source), "--coverage", "0.5"]
    assert cli.main([*command, "--out", str(out)]) == 0
    written = pd.read_parquet(out)
    assert list(written) == ["prompt", "output", "lower", "upper"], "no text"
    expected = predictor.interval(rows.texts, 0.5)
    np.testing.assert_array_equal(written[["lower", "upper"]].to_numpy().T, expected)
    trace = js.workloads.traces.read_table(out, {name: name for name in written})
    np.testing.assert_array_equal(trace.lower, expected[0])
    assert cli.main([*command, "--level", "0.3", "--out", str(out)]) == 0
    np.testing.assert_array_equal(pd.read_parquet(out)["lower"], predictor.lower(rows.texts, 0.3))


def test_an_interrupted_training_goes_on(tmp_path: Path) -> None:
    rows = drawn(400, seed=9).select(np.arange(400))
    rows = dataclasses.replace(rows, texts=None)
    whole = js.predict.train(SMALL, rows=rows)

    class StopError(Exception): ...

    def stop(kind: str, epoch: int, loss: float) -> None:
        if epoch == 2:
            raise StopError

    with pytest.raises(StopError):
        js.predict.train(SMALL, tmp_path, rows, stop)
    epochs: list[int] = []
    again = js.predict.train(SMALL, tmp_path, rows, lambda _, epoch, __: epochs.append(epoch))
    assert epochs == [3, 4, 5]
    assert again.digest == whole.digest == js.predict.load(tmp_path).digest


def test_a_damaged_predictor_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="predictor.json does not exist"):
        js.predict.load(tmp_path)
    (tmp_path / "predictor.json").write_text("{}")
    with pytest.raises(ValueError, match="not a predictor"):
        js.predict.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(scale="cubic"), "scale: unknown value 'cubic'"),
        (dict(test=0.8), "expected at most 0.9"),
        (dict(columns=("answer=b",)), "columns: unknown value 'answer'"),
    ],
)
def test_bad_configurations(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_bad_calls(predictor: js.predict.Predictor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one text"):
        predictor.interval("north")
    with pytest.raises(ValueError, match="coverage: got 1"):
        predictor.interval(["north"], 1)
    with pytest.raises(ValueError, match="levels"):
        predictor.quantile(["north"], [2.0])
    (tmp_path / "a.csv").write_text("question,answer\nwhy,3\n")
    with pytest.raises(ValueError, match="expected output, and text or prompt"):
        data.read(str(tmp_path / "a.csv"))
    with pytest.raises(ValueError, match="expected more"):
        pipeline.parts_of(SMALL, drawn(50, seed=0))


def test_the_network_is_the_same_in_numpy_and_jax() -> None:
    params = network.init(7, 16, 2, 5, 3, seed=0)
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(4, 7)).astype(np.float32)
    words = rng.integers(-1, 16, (4, 6)).astype(np.int32)
    for one, other in zip(
        network.apply(params, numbers, words, np),
        network.apply(params, numbers, words, jnp),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-4)
