"""The lists of CONTRIBUTING.md: so many places and no more, each of them where it says.

A registry is tried by adding to it: what is entered there, and nowhere else, must be known to
whoever reads texts, prints help or lists what is right.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import jaxsched as js
from jaxsched import cli

ROOT = Path(__file__).parent.parent
PLACES = {"a policy": 3, "a trace format": 1, "a clock": 1, "a metric": 1, "an axis": 1}
"""What is added -> the places that it may cost, its tests among them for a policy."""

PENDING = {"an axis"}
"""Whose registry is not built yet."""

LISTS = [
    pytest.param(name, marks=pytest.mark.xfail(strict=True) if name in PENDING else ())
    for name in PLACES
]


def lists() -> dict[str, list[str]]:
    """What is added -> the numbered places of its list."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    sections = re.findall(r"^## To add (.+?)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    number = re.compile(r"^\d+\. (.*?)(?=^\d+\. |^\n|\Z)", re.DOTALL | re.MULTILINE)
    return {name: number.findall(section) for name, section in sections}


def registries(places: list[str]) -> Iterator[object]:
    """The objects that "`NAME` of `file.py`" names."""
    for name, path in re.findall(r"`([A-Z_]+)` of\s+`([\w/]+\.py)`", " ".join(places)):
        yield getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)


def test_no_list_is_missing() -> None:
    assert {name: len(places) for name, places in lists().items()} == PLACES


@pytest.mark.parametrize("name", LISTS)
def test_every_place_is_there(name: str) -> None:
    places = lists()[name]
    for path in re.findall(r"`((?:jaxsched|tests|docs)/[\w/.]*)`", " ".join(places)):
        assert (ROOT / path).exists(), path
    found = list(registries(places))
    assert found and all(len(registry) for registry in found), "a registry with something in it"


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command says, with its help or its error."""
    capsys.readouterr()
    with contextlib.suppress(SystemExit):  # argparse leaves after --help
        cli.main(list(words))
    return "".join(capsys.readouterr())


def test_a_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxsched.policies import names

    monkeypatch.setitem(names.SHIPPED, "lowest", lambda: js.Policy("lowest", lambda r: r.lower))
    assert js.policy("lowest").name == "lowest"
    with pytest.raises(ValueError, match="lowest"):
        js.policy("nothing")


def test_a_trace_format(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from jaxsched.workloads import traces

    columns = {"prompt": "asked", "output": "answered"}
    monkeypatch.setitem(traces.FORMATS, "mine", traces.Format(columns))
    (tmp_path / "mine.csv").write_text("asked,answered\n3,4\n")
    assert js.workloads.read_trace(tmp_path / "mine.csv").output.tolist() == [4]
    (tmp_path / "other.csv").write_text("what,ever\n3,4\n")
    with pytest.raises(ValueError, match="mine: asked, answered"):
        js.workloads.read_trace(tmp_path / "other.csv")


def test_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxsched.clocks import presets

    mine = presets.Preset("Mine.", js.Clock(fixed=0.25), fit="R² 1", source="measured here")
    monkeypatch.setitem(presets.PRESETS, "mine", mine)
    assert js.clocks.clock("mine").fixed == 0.25
    with pytest.raises(ValueError, match="mine"):
        js.clocks.clock("nothing")


@pytest.mark.xfail(strict=True, reason="help is not made from the registries yet")
@pytest.mark.parametrize(
    "registry", ["policies.names.SHIPPED", "clocks.presets.PRESETS", "workloads.traces.FORMATS"]
)
def test_help_is_made_from_the_registries(
    registry: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, _, name = f"jaxsched.{registry}".rpartition(".")
    entries = getattr(importlib.import_module(module), name)
    monkeypatch.setitem(entries, "brand_new", next(iter(entries.values())))
    assert "brand_new" in printed(capsys, "simulate", "--help")
