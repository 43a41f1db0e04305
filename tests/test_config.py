"""Configuration files and the short texts in them: what is accepted, what is refused and how."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from jaxsched import toml
from jaxsched.studies.backlog import BacklogConfig
from jaxsched.studies.config import LengthsConfig
from jaxsched.workloads.texts import read_prediction

PAPER = Path(__file__).parent.parent / "configs" / "paper.toml"

GOOD = """
lanes = 4
memory = 100
num_requests = [3, 5]
policies = ["h_sf", "a_min"]
predictions = ["relative:0.5"]

[lengths]
source = "sharegpt"
max_output = 50
"""


def load(path: Path, text: str) -> BacklogConfig:
    path.write_text(text)
    return toml.load(path, BacklogConfig)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "job.toml"


def test_reads_a_file_into_a_hashable_dataclass(file: Path) -> None:
    settings = load(file, GOOD)
    assert settings.num_requests == (3, 5)
    assert settings.lengths == LengthsConfig("sharegpt", 50)
    assert settings.seed == 0
    hash(settings)


def test_overrides_replace_and_are_checked_like_the_file(file: Path) -> None:
    file.write_text(GOOD)
    assert toml.load(file, BacklogConfig, {"seed": 7}).seed == 7
    with pytest.raises(ValueError, match="lanes: got 1; expected at least 2"):
        toml.load(file, BacklogConfig, {"lanes": 1})
    with pytest.raises(ValueError, match="seed: got 4294967296; expected at most 4294967295"):
        toml.load(file, BacklogConfig, {"seed": 2**32})


def test_the_shipped_file_is_the_papers_experiment() -> None:
    paper = toml.load(PAPER, BacklogConfig)
    assert paper.memory == 16492
    assert paper.lanes >= 64
    assert min(paper.num_requests) == 200 and max(paper.num_requests) == 2000
    kinds = {read_prediction(text).kind for text in paper.predictions}
    assert kinds == {"one", "classes", "relative"}
    untuned = [name for name in paper.policies if not name.startswith("tuned:")]
    assert len(untuned) == 7 and len(paper.policies) == 10


def test_toml_round_trip(file: Path) -> None:
    for settings in (load(file, GOOD), toml.load(PAPER, BacklogConfig)):
        assert load(file, toml.to_toml(settings)) == settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("memory", "memroy"), r"unknown key memroy \(did you mean memory\?\); expected one of: "),
        (("max_output", "max_outputs"), r"unknown key lengths.max_outputs \(did you mean max_o"),
        (("lanes = 4", ""), "missing lanes: expected an integer of at least 2"),
        (
            ("num_requests", "#"),
            "missing num_requests: expected a list, each item an integer of at",
        ),
        (("lanes = 4", "lanes = 4.0"), "lanes: got 4.0; expected an integer"),
        (("lanes = 4", "lanes = true"), "lanes: got True; expected an integer"),
        (("lanes = 4", "lanes = 1"), "lanes: got 1; expected at least 2"),
        (("[3, 5]", "[3, 0]"), r"num_requests\[1\]: got 0; expected at least 1"),
        (("[3, 5]", "3"), "num_requests: got 3; expected a list"),
        (("[3, 5]", "[]"), "num_requests: got an empty list"),
        (("[3, 5]", "[3, 3]"), "num_requests: 3 is there twice"),
        (('"a_min"]', '"a_min", "a_min:on_eviction"]'), "'a_min' and 'a_min:on_eviction' are the"),
        (
            ("relative:0.5", "edges:150"),
            "edges:150: the last edge is 150; expected at most M = 100",
        ),
        (('"a_min"]', "1]"), r"policies\[1\]: got 1; expected a text in quotes"),
        (('"a_min"', '"amin"'), "policies: .*'amin'.* expected one of h_sf, a_max, a_min"),
        (("relative:0.5", "relatif:0.5"), r"predictions: unknown .*did you mean relative\?"),
        (("relative:0.5", "relative:1.5"), "predictions: .*x is 1.5; expected .* less than 1"),
        (("relative:0.5", "columns"), 'predictions: "columns" needs a trace'),
        (("sharegpt", "shareGPT"), "lengths.source: unknown value 'shareGPT'.*lmsys, .*sharegpt"),
        (("[lengths]", "lengths = 3\n[other]"), r"unknown key other"),
        (("= 100", "="), "not valid TOML: .*line 3"),
    ],
)
def test_wrong_files_are_refused(file: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load(file, GOOD.replace(*change))
    assert str(caught.value).startswith(str(file))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one:1:1000", (1, 1000)),
        ("classes:100:10", (101, 200)),
        ("edges:42,141,294", (141, 293)),
        ("edges:42,141", (141, 500)),
        ("relative:0.1", (135, 165)),
        ("exact", (150, 150)),
    ],
)
def test_predictions_of_a_length_of_150(text: str, expected: tuple[int, int]) -> None:
    source = read_prediction(text).source
    lower, upper = source(500)(jax.random.key(0), np.full((1, 1), 150, np.int32))
    assert (int(lower[0, 0]), int(upper[0, 0])) == expected


@pytest.mark.parametrize(
    "text",
    ["one:1", "one:5:1", "one:a:b", "classes:100", "classes:0:3", "edges:5,3", "edges:", "edges:1",
     "relative:", "relative:nan", "relative:-1", "exact:1", "columns:2", "", "best"],
)  # fmt: skip
def test_wrong_predictions_say_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        read_prediction(text)
