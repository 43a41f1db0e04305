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


@pytest.mark.parametrize("name", PLACES)
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

    entry = traces.Format({"prompt": "asked", "output": "answered"})
    monkeypatch.setitem(traces.FORMATS, "mine", entry)
    (tmp_path / "mine.csv").write_text("asked,answered\n3,4\n")
    assert js.workloads.read_trace(tmp_path / "mine.csv").output.tolist() == [4]
    (tmp_path / "other.csv").write_text("what,answered\n3,4\n")
    with pytest.raises(ValueError, match=r"nearest: mine \(without 'asked'\)"):
        js.workloads.read_trace(tmp_path / "other.csv")


def test_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxsched.clocks import presets

    name, entry = next(iter(presets.PRESETS.items()))
    monkeypatch.setitem(presets.PRESETS, "mine", entry)
    assert js.clocks.clock("mine") == js.clocks.clock(name)
    with pytest.raises(ValueError, match="mine"):
        js.clocks.clock("nothing")


def test_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxsched.metrics import registry

    rounds = registry.Metric("rounds", "`R`", "", lambda lanes: lanes.total(lanes.result.rounds))
    monkeypatch.setitem(registry.METRICS, "ran", rounds)
    stream = js.Instance(prompt=[2], output=[4], lower=[4], upper=[4], memory=9, arrival=[0.0])
    clock = js.Clock(fixed=0.5)
    result = js.simulate(stream, js.fcfs(), clock=clock)
    assert js.metrics.serving(stream, result, clock, names=["ran"]).ran == 4


def test_an_axis(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An axis that changes nothing, read from a configuration and found in the table."""
    from jaxsched.cli import sweep_command
    from jaxsched.studies import axes, sweep

    def read_again() -> None:
        """The keys of a configuration are those of the axes when it is imported."""
        for module in (sweep, sweep_command):
            importlib.reload(module)

    again = axes.Axis("again", "again", axes.CALL, default=(1,), least=1, most=9)
    with monkeypatch.context() as patch:
        patch.setitem(axes.AXES, "again", again)
        read_again()
        (tmp_path / "sweep.toml").write_text(
            'lanes = 2\nworkloads = ["lmsys,max_total:1000"]\nnum_requests = [5]\nmemory = [1000]\n'
            'policies = ["fcfs"]\npredictions = ["one:1:1000"]\nagain = [2, 4]\n'
        )
        assert (
            cli.main(["sweep", str(tmp_path / "sweep.toml"), "--out", str(tmp_path / "out")]) == 0
        )
        found = js.read_sweep(tmp_path / "out")
    read_again()
    assert found.groupby("again").size().to_dict() == {2: 2, 4: 2}


def test_an_axis_that_gives_what_is_given_already(monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxsched.studies import axes, frames, plan, rows

    engine = axes.Axis(
        "engine", "engine", axes.CALL, default=("jax",), arguments=lambda name: {"engine": name}
    )
    monkeypatch.setitem(axes.AXES, "engine", engine)
    values = axes.Values.of(
        workloads=("lmsys,max_total:1000",), num_requests=(2,), memory=(1000,), policies=("fcfs",),
        predictions=("one:1:1000",),
    )  # fmt: skip
    simulator = rows.Simulator(plan.Plan(plan.Study(values, 1, frames.sweep_columns)))
    with pytest.raises(ValueError, match=r"axis engine: .* \['engine'\], which is given already"):
        simulator.table(0, 1)


@pytest.mark.parametrize(
    "registry",
    [
        "policies.names.SHIPPED",
        "clocks.presets.PRESETS",
        "workloads.traces.FORMATS",
    ],
)
def test_help_is_made_from_the_registries(
    registry: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, _, name = f"jaxsched.{registry}".rpartition(".")
    entries = getattr(importlib.import_module(module), name)
    monkeypatch.setitem(entries, "brand_new", next(iter(entries.values())))
    assert "brand_new" in printed(capsys, "simulate", "--help")
