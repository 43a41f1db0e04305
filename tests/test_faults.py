"""Faults of files and interruptions: one sentence each, whatever the command, and nothing lost."""

from __future__ import annotations

import builtins
import errno
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from jaxsched import cli
from jaxsched.cli import program
from jaxsched.machine import faults, start
from jaxsched.report import plots
from jaxsched.studies import store
from jaxsched.tuning import loop
from tests.small_tuning import fill

ROOT = Path(__file__).parent.parent

RUN = """
lanes = 2
memory = 300
num_requests = [8]
policies = ["h_sf", "fcfs"]
predictions = ["relative:0.5"]
lengths = {source = "sharegpt", max_total = 300}
"""
SWEEP = """
lanes = 2
memory = [300]
num_requests = [8]
policies = ["h_sf", "fcfs"]
predictions = ["relative:0.5"]
workloads = ["sharegpt,max_total:300"]
"""
TUNE = """
memory = 500
num_requests = 60
predictions = ["one:1:100"]
lanes = 2
validation_lanes = 2
test_lanes = 2
methods = ["random"]
trace = {path = "requests.csv"}
descent = {steps = 1, starts = 1, pairs = 1, chains = 1}
"""
COMMANDS = {
    "run": ["run", "run.toml"],
    "sweep": ["sweep", "sweep.toml"],
    "tune": ["tune", "tune_small.toml"],
    "simulate": ["simulate", "requests.csv", "--memory", "500", "--policies", "fcfs"],
}


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """A test run in the background ignores Ctrl-C, and what it starts would, too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what the commands read."""
    fill(tmp_path, TUNE)
    (tmp_path / "run.toml").write_text(RUN)
    (tmp_path / "sweep.toml").write_text(SWEEP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error_of(command: str, capsys: Any) -> str:
    """The one line that the command ends in."""
    assert cli.main([*COMMANDS[command], "--out", "out"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("jaxsched: ") and error.count("\n") == 1
    assert "[Errno" not in error and "codec" not in error
    return error


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk(command: str, folder: Path, monkeypatch: Any, capsys: Any) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left")

    monkeypatch.setattr(store.pq, "write_table", full)
    error = error_of(command, capsys)
    assert ".parquet: No space left on device; " in error
    assert "kept in out; run the same command again to go on" in error
    assert not list(folder.rglob("*.parquet"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_damaged_manifest(command: str, folder: Path, capsys: Any) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "manifest.json").write_bytes(b"\xff\xfe\x00")
    error = error_of(command, capsys)
    assert error.startswith("jaxsched: out/manifest.json: damaged, or not a manifest of jaxsched (")


@pytest.mark.parametrize("command", ["run", "tune", "simulate"])  # of sweeps in test_sweep_folder
def test_a_second_run(command: str, folder: Path, capsys: Any) -> None:
    (folder / "out").mkdir()
    with store.alone(folder / "out"):
        assert "out: another run is at work there" in error_of(command, capsys)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_finished_folder_on_a_disk_that_cannot_be_written_to(
    command: str, folder: Path, monkeypatch: Any, capsys: Any
) -> None:
    command = [*COMMANDS[command], "--out", "out"]
    assert cli.main(command) == 0
    before, plain = sorted(folder.rglob("*")), builtins.open

    def refuse(path: Any, *_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fspath(path))

    def read_only(file: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
        return refuse(file) if {*mode} & {*"wax+"} else plain(file, mode, *more, **named)

    monkeypatch.setattr(builtins, "open", read_only)
    monkeypatch.setattr(store, "write_atomically", refuse)
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert "out/results.parquet" in printed
    drawn = command[0] in ("run", "tune")
    assert ("figures: not renewed (out/figures/" in printed) == drawn
    monkeypatch.undo()
    assert [path.relative_to(folder) for path in sorted(folder.rglob("*"))] == [
        path.relative_to(folder) for path in before
    ]


def test_a_damaged_checkpoint_is_named_before_the_search_goes_on(
    folder: Path, capsys: Any, monkeypatch: Any
) -> None:
    command = [*COMMANDS["tune"], "--out", "out"]
    assert cli.main(command) == 0
    (latest,) = (folder / "out" / "checkpoints").glob("*/random")
    steps = max(latest.iterdir(), key=lambda path: int(path.name))
    bad = steps / "default" / "manifest.ocdbt"
    assert bad.exists()
    bad.write_bytes(bad.read_bytes()[:-3])
    monkeypatch.setattr(loop, "run_method", None)  # nothing is searched
    error = error_of("tune", capsys)
    assert f"{bad.relative_to(folder)}: damaged, so the checkpoint" in error
    assert f"delete {steps.relative_to(folder)}, and the same command goes on" in error
    bad.unlink()
    assert f"{bad.relative_to(folder)}: missing" in error_of("tune", capsys)


def test_a_disk_that_is_full_when_figures_are_drawn(folder: Path, monkeypatch: Any) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="x.png") as caught:
        plots.save(Figure(), folder / "x")
    assert faults.in_one_line(caught.value) == f"{folder / 'x.png'}: No space left on device"


def test_words_of_other_libraries_become_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    with pytest.raises(OSError, match="No space left") as caught, faults.writing(path):
        raise ValueError('RESOURCE_EXHAUSTED: {"driver":"zarr"} No space left on device [spec]')
    assert faults.in_one_line(caught.value) == f"{path}: No space left on device"
    long = pytest.raises(ValueError, match=r"damaged, or not a table \(x{199}…\); delete it$")
    with long, faults.reading(path, "a table", "delete it"):
        raise RuntimeError("x" * 999)
    text = pytest.raises(ValueError, match=r"or not a table \(not UTF-8 text \(byte 1\)\)$")
    with text, faults.reading(path, "a table"):
        b"a\xff".decode()
    with pytest.raises(ValueError, match="a value is wrong"), faults.writing(path):
        raise ValueError("a value is wrong")
    missing = tmp_path / "missing"
    with pytest.raises(FileNotFoundError) as absent, faults.reading(missing, "a table"):
        missing.read_text()
    assert faults.in_one_line(absent.value) == f"{missing}: No such file or directory"


def test_ctrl_c_while_it_imports(tmp_path: Path) -> None:
    """Whatever is imported first: here it is a module that is interrupted."""
    (tmp_path / "jax").mkdir()
    text = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    (tmp_path / "jax" / "__init__.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "jaxsched", "report", "x"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 130 and done.stdout == ""
    assert done.stderr == "jaxsched: stopped; run the same command again to go on\n"


def test_what_a_thread_says_too_late_is_not_shown(monkeypatch: Any) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(sys, "__unraisablehook__", shown.append)
    for text in ("Event loop is closed", "another"):
        start._not_lost(types.SimpleNamespace(exc_type=RuntimeError, exc_value=RuntimeError(text)))
    assert [str(one.exc_value) for one in shown] == ["another"]


def test_ctrl_c_that_python_ignores_comes_again() -> None:
    with pytest.raises(KeyboardInterrupt):
        start._not_lost(types.SimpleNamespace(exc_type=KeyboardInterrupt))
        time.sleep(30)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("… KeyboardInterrupt")])
def test_ctrl_c_before_there_is_a_folder(error: Any, monkeypatch: Any, capsys: Any) -> None:
    def stopped() -> None:
        raise error

    monkeypatch.setattr(program, "_prepare_jax", stopped)
    assert cli.main(["report", "x"]) == 130
    assert capsys.readouterr().err == "jaxsched: stopped; run the same command again to go on\n"


ENDLESS = """
import types
from jaxsched.cli import program
def run(args):
    while True:
        print("a line")
program.importlib.import_module = lambda name: types.SimpleNamespace(run=run)
program._prepare_jax = lambda: None
raise SystemExit(program.main(["report", "x"]))
"""


def test_a_reader_that_has_seen_enough() -> None:
    running = subprocess.Popen(
        [sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    assert running.stdout.readline() == b"a line\n"
    running.stdout.close()
    assert running.stderr.read() == b"" and running.wait(60) == 1
