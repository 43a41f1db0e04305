"""`jaxsched sweep`: nothing is lost or doubled by kills, full disks or several processes."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import jaxsched as js
from jaxsched import toml
from jaxsched.cli import main
from jaxsched.studies import rows as rows_module
from jaxsched.studies import run as runs
from jaxsched.studies import store
from jaxsched.studies.plan import Plan
from jaxsched.studies.rows import Simulator
from jaxsched.studies.sweep import SweepConfig
from tests.conftest import CACHE

TEXT = """
lanes = 2
num_requests = [9, 11]
memory = [200]
workloads = ["uniform:1:60,prompt:1:20"]
policies = ["fcfs", "h_sf"]
predictions = ["relative:0.5", "relative:0.9", "exact"]
seeds = [0, 1]
"""
TOTAL = 2 * 2 * 3 * 4


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.toml"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The table of a sweep that nothing disturbed."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "sweep.toml").write_text(TEXT)
    assert main(["sweep", str(folder / "sweep.toml"), "--out", str(folder / "out")]) == 0
    return js.read_sweep(folder / "out")


def command(file: Path, out: Path, *more: str) -> list[str]:
    return ["sweep", str(file), "--out", str(out), *more]


def same(out: Path, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(js.read_sweep(out), expected, check_exact=True)


def environment() -> dict[str, str]:
    return {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(CACHE), "JAX_PLATFORMS": "cpu"}


def test_the_table_is_whole(expected: pd.DataFrame) -> None:
    assert len(expected) == TOTAL and (expected["status"] == "FINISHED").all()
    # The yardstick's rows come first in every tile, and its ratio is 1.
    assert expected["policy"].iloc[0] == "h_sf"
    assert (expected.loc[expected["policy"] == "h_sf", "ratio_to_h_sf"] == 1).all()
    keys = ["seed", "lane", "n", "prediction"]
    yardstick = expected[expected["policy"] == "h_sf"].set_index(keys)["mean_latency"]
    others = expected[expected["policy"] == "fcfs"]
    matched = yardstick.loc[pd.MultiIndex.from_frame(others[keys])].to_numpy()
    np.testing.assert_array_equal(others["ratio_to_h_sf"], others["mean_latency"] / matched)


@pytest.mark.parametrize("chunk", [1, 7, TOTAL])
def test_chunks_of_any_size_give_the_same_table(
    file: Path, tmp_path: Path, expected: Any, chunk: int
) -> None:
    assert main(command(file, tmp_path / "out", "--chunk", str(chunk))) == 0
    same(tmp_path / "out", expected)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {".lock", "manifest.json", "results.parquet"}


def test_a_dry_run_says_what_it_would_take_and_leaves_nothing(
    file: Path, tmp_path: Path, capsys: Any
) -> None:
    assert main(command(file, tmp_path / "out", "--dry-run")) == 0
    printed = capsys.readouterr().out
    axes = "2 num requests × 2 seeds × 2 policies × 3 predictions × 2 lanes"
    assert f"{TOTAL} simulations: {axes}" in printed
    for text in ("time:     about", "memory:   about", "compiles: none; native engine"):
        assert text in printed
    assert not (tmp_path / "out").exists()


KILLED_WHILE_WRITING = """
import os, signal, sys
from jaxsched import cli
from jaxsched.studies import store
write, calls = store.pq.write_table, []
def half(table, path, **options):
    write(table, path, **options)
    calls.append(path)
    if len(calls) == 3:
        with open(path, "r+b") as file:
            file.truncate(200)
        os.kill(os.getpid(), signal.SIGKILL)
store.pq.write_table = half
cli.main(sys.argv[1:])
"""


def test_goes_on_after_kill_9_in_the_middle_of_a_write(
    file: Path, tmp_path: Path, expected: Any, capsys: Any
) -> None:
    out = tmp_path / "out"
    words = command(file, out, "--chunk", "10")
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_WRITING, *words], env=environment(), check=False
    )
    assert done.returncode == -signal.SIGKILL
    parts = sorted(path.name for path in (out / "parts").iterdir())
    assert parts[1:] == ["000000000000-000000000010.parquet", "000000000010-000000000020.parquet"]
    assert parts[0].startswith(".") and parts[0].endswith("000000000020-000000000030.parquet")
    with pytest.raises(FileNotFoundError, match=f"{TOTAL - 20} of {TOTAL} simulations are missing"):
        js.read_sweep(out)
    partial = js.read_sweep(out, partial=True)
    pd.testing.assert_frame_equal(partial, expected.iloc[:20], check_exact=True)
    with pytest.raises(ValueError, match=r"'policies' \(did you mean policy\?\)"):
        js.read_sweep(out, ["policies"], partial=True)
    # With other chunks than before, and nothing that is there is simulated again.
    assert main(command(file, out, "--chunk", "7")) == 0
    assert f"to do:    {TOTAL - 20}; 20 are there" in capsys.readouterr().out
    same(out, expected)


def test_ctrl_c_drops_the_chunk_and_says_how_to_go_on(
    file: Path, tmp_path: Path, expected: Any, monkeypatch: Any, capsys: Any
) -> None:
    out, write = tmp_path / "out", runs.Parts.write

    def interrupted(parts: runs.Parts, start: int, stop: int, frame: pd.DataFrame) -> None:
        if start >= 20:
            raise KeyboardInterrupt
        write(parts, start, stop, frame)

    monkeypatch.setattr(runs.Parts, "write", interrupted)
    assert main(command(file, out, "--chunk", "10")) == 130
    assert f"kept in {out}; run the same command again" in capsys.readouterr().err
    monkeypatch.setattr(runs.Parts, "write", write)
    assert main(command(file, out)) == 0
    same(out, expected)
    assert main(command(file, out)) == 0
    assert "to do" not in capsys.readouterr().out.split("results:")[-1]


def test_a_full_disk_loses_nothing_else(
    file: Path, tmp_path: Path, expected: Any, monkeypatch: Any, capsys: Any
) -> None:
    out, write, calls = tmp_path / "out", store.pq.write_table, []

    def full(table: Any, path: Path, **options: Any) -> None:
        calls.append(path)
        if len(calls) == 3:
            path.write_bytes(b"PAR1 half")
            raise OSError(errno.ENOSPC, "Error writing bytes to file: No space left on device")
        write(table, path, **options)

    monkeypatch.setattr(store.pq, "write_table", full)
    assert main(command(file, out, "--chunk", "10")) == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error and f"finished chunks are kept in {out}" in error
    assert [path.name[:12] for path in sorted((out / "parts").iterdir())] == [
        "000000000000", "000000000010"
    ]  # fmt: skip
    assert main(command(file, out)) == 0
    same(out, expected)


def test_a_folder_that_cannot_be_made_is_an_error(file: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "taken").write_text("a file")
    assert main(command(file, tmp_path / "taken" / "out")) == 1
    assert "taken" in capsys.readouterr().err


def begun(file: Path, out: Path, monkeypatch: Any, stop: int = 30) -> None:
    """Leaves the first rows of a sweep in chunks of ten."""
    settings = toml.load(file, SweepConfig)
    plan = Plan(settings.study())
    parts = runs.Parts(store.open_store(out, settings.text()), plan)
    simulator = Simulator(plan)
    for start in range(0, stop, 10):
        parts.write(start, start + 10, simulator.table(start, start + 10))


def test_parts_of_a_version_with_fewer_columns_are_gone_on_with(
    file: Path, tmp_path: Path, monkeypatch: Any, expected: pd.DataFrame
) -> None:
    begun(file, tmp_path / "out", monkeypatch)
    for path in list((tmp_path / "out" / "parts").glob("*"))[:2]:
        frame, texts = store.read_parquet(path)
        store.write_parquet(path, frame.drop(columns=["missed", "latency_p99"]), texts)
    assert main(command(file, tmp_path / "out")) == 0
    found = js.read_sweep(tmp_path / "out")
    assert found.columns.tolist() == expected.columns.tolist()
    assert found["latency_p99"].isna().sum() == 20
    more = ["missed", "latency_p99"]
    pd.testing.assert_frame_equal(found.drop(columns=more), expected.drop(columns=more))


def test_a_changed_configuration_is_refused_with_the_difference(
    file: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    begun(file, tmp_path / "out", monkeypatch)
    file.write_text(TEXT.replace("[200]", "[250]"))
    assert main(command(file, tmp_path / "out")) == 1
    error = capsys.readouterr().err
    assert "-memory = [200]" in error and "+memory = [250]" in error and "lanes" not in error


def test_a_changed_trace_is_another_configuration(
    file: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("num_prefill_tokens,num_decode_tokens\n3,4\n5,6\n")
    file.write_text(TEXT.replace("uniform:1:60,prompt:1:20", f"trace:{trace}"))
    begun(file, tmp_path / "out", monkeypatch)
    trace.write_text("num_prefill_tokens,num_decode_tokens\n3,4\n5,7\n")
    assert main(command(file, tmp_path / "out")) == 1
    assert f"{trace}: sha256" in capsys.readouterr().err


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def turned(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[40:60] = bytes(255 - byte for byte in data[40:60])
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, turned], ids=["cut", "turned"])
def test_a_damaged_part_is_named_and_nothing_else_is_lost(
    file: Path, tmp_path: Path, monkeypatch: Any, capsys: Any, expected: Any, damage: Any
) -> None:
    out = tmp_path / "out"
    begun(file, out, monkeypatch)
    bad = out / "parts" / "000000000010-000000000020.parquet"
    damage(bad)
    assert main(command(file, out)) == 1
    error = capsys.readouterr().err
    assert str(bad) in error and "delete it, and the same command simulates it again" in error
    assert len(list((out / "parts").iterdir())) >= 3
    bad.unlink()
    assert main(command(file, out)) == 0
    same(out, expected)


def test_parts_that_do_not_belong_are_refused(
    file: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    begun(file, tmp_path / "out", monkeypatch, 10)
    part = tmp_path / "out" / "parts" / "000000000000-000000000010.parquet"
    part.rename(part.with_name("000000000000-000000000011.parquet"))
    assert main(command(file, tmp_path / "out")) == 1
    assert "has 10 rows, which its name denies" in capsys.readouterr().err
    other = tmp_path / "other.toml"
    other.write_text(TEXT.replace("[200]", "[250]"))
    begun(other, tmp_path / "other", monkeypatch, 20)
    wrong = tmp_path / "other" / "parts" / "000000000010-000000000020.parquet"
    begun(file, tmp_path / "third", monkeypatch, 10)
    wrong.rename(tmp_path / "third" / "parts" / wrong.name)
    assert main(command(file, tmp_path / "third")) == 1
    assert "belongs to another configuration" in capsys.readouterr().err


def test_parts_that_overlap_are_not_doubled(
    file: Path, tmp_path: Path, monkeypatch: Any, expected: Any
) -> None:
    settings = toml.load(file, SweepConfig)
    plan = Plan(settings.study())
    parts = runs.Parts(store.open_store(tmp_path / "out", settings.text()), plan)
    simulator = Simulator(plan)
    for start, stop in ((0, 20), (5, 15), (12, 30)):
        parts.write(start, stop, simulator.table(start, stop))
    assert main(command(file, tmp_path / "out")) == 0
    same(tmp_path / "out", expected)


def test_one_run_at_a_time(file: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    begun(file, tmp_path / "out", monkeypatch)
    with store.alone(tmp_path / "out"):
        assert main(command(file, tmp_path / "out")) == 1
    assert "another run is at work there" in capsys.readouterr().err


def test_files_say_where_they_come_from(file: Path, tmp_path: Path, monkeypatch: Any) -> None:
    begun(file, tmp_path / "out", monkeypatch)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    part = tmp_path / "out" / "parts" / "000000000010-000000000020.parquet"
    metadata = store.read_parquet(part)[1]
    assert metadata["config"] == manifest["config"]
    again = toml.from_table(SweepConfig, tomllib.loads(metadata["config"]))
    # What the file leaves out is there as it was taken.
    assert toml.load(file, SweepConfig).values().titles == again.values().titles
    assert again.seeds
    assert json.loads(metadata["versions"]) == store.versions()
    assert "cpu" in metadata["device"] and "seeds = [0, 1]" in metadata["config"]


def test_some_columns_can_be_read(file: Path, tmp_path: Path, expected: Any) -> None:
    assert main(command(file, tmp_path / "out")) == 0
    names = ["policy", "ratio_to_h_sf"]
    pd.testing.assert_frame_equal(js.read_sweep(tmp_path / "out", names), expected[names])
    with pytest.raises(FileNotFoundError, match="expected a folder of results"):
        js.read_sweep(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"'policies' \(did you mean policy\?\).* seed, .*status"):
        js.read_sweep(tmp_path / "out", ["policies"])


@pytest.mark.parametrize(
    "more", [["--distributed"], ["--num-processes", "2"], ["--process-id", "0"]], ids=" ".join
)
def test_processes_that_do_not_meet_say_what_is_missing(
    more: list[str], file: Path, tmp_path: Path
) -> None:
    words = [sys.executable, "-m", "jaxsched", *command(file, tmp_path / "out", *more)]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "--coordinator HOST:PORT" in done.stderr


def test_two_processes_with_two_devices_each_give_the_same_table(
    file: Path, tmp_path: Path, expected: Any
) -> None:
    out = tmp_path / "out"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    more = ("--engine", "jax", "--coordinator", coordinator, "--num-processes", "2", "--chunk", "9")
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "jaxsched", *command(file, out, *more, "--process-id", str(i))],
            env={**environment(), **flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    printed = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], printed
    assert "of process 1 of 2" in printed[0] and "2 x cpu" in printed[0] and printed[1] == ""
    same(out, expected)


def test_what_another_process_did_not_write_is_missing(
    file: Path, tmp_path: Path, expected: Any, monkeypatch: Any, capsys: Any
) -> None:
    share = Plan.share
    monkeypatch.setattr(Plan, "share", lambda plan, *_: share(plan, 1, 2))
    assert main(command(file, tmp_path / "out")) == 1
    error = capsys.readouterr().err
    assert f"{TOTAL // 2} of {TOTAL} simulations are not in" in error
    assert not (tmp_path / "out" / "results.parquet").exists()
    monkeypatch.setattr(Plan, "share", share)
    assert main(command(file, tmp_path / "out")) == 0
    same(tmp_path / "out", expected)


def test_the_simulator_is_the_one_that_runs(monkeypatch: Any, file: Path, tmp_path: Path) -> None:
    seen = []

    def simulate(*args: Any, **kwargs: Any) -> js.Result:
        seen.append(kwargs["engine"])
        return js.simulate(*args, **kwargs)

    monkeypatch.setattr(rows_module, "simulate", simulate)
    assert main(command(file, tmp_path / "out", "--engine", "native")) == 0
    assert set(seen) == {"native"}
