"""The main job: what it computes, and that no crash or changed file spoils its results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import jaxsched as js
from jaxsched import policies, toml
from jaxsched.cli import main
from jaxsched.engines import reference
from jaxsched.report import figures
from jaxsched.report.looks import LOOKS, METHOD_LOOKS, look_of
from jaxsched.studies import frames, rows, store
from jaxsched.studies.backlog import BacklogConfig
from jaxsched.workloads.texts import read_prediction
from tests import oracle

FIELDS = ("prompt", "output", "lower", "upper", "point")

TEXT = """
lanes = 2
memory = 9000
num_requests = [40, 25]
policies = ["h_sf", "a_min:every_round", "fcfs"]
predictions = ["one:1:1000", "relative:0.9"]
[lengths]
source = "sharegpt"
max_output = 1000
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[BacklogConfig, Path]:
    """A finished job, for the tests that only look at it."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "small.toml").write_text(TEXT)
    settings = toml.load(folder / "small.toml", BacklogConfig)
    settings.work().run(folder / "out")
    return settings, folder / "out"


def instances(settings: BacklogConfig, n: int, prediction: str) -> js.Instance:
    """The instances of n requests, drawn by the library."""
    assert settings.lengths.source == "sharegpt"
    return js.workloads.make(
        jax.random.fold_in(jax.random.key(settings.seed), n),
        lengths=js.workloads.embedded.sharegpt().truncated(max_output=1000),
        intervals=read_prediction(prediction).source(settings.memory),
        n=n, lanes=settings.lanes, memory=settings.memory,
    )  # fmt: skip


def interrupt_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> list[str]:
    """Lets `simulate` be called so many times, then presses Ctrl-C; returns the policies run."""
    seen: list[str] = []

    def simulate(instance: js.Instance, policy: js.Policy, **more: Any) -> js.Result:
        if len(seen) == calls:
            raise KeyboardInterrupt
        seen.append(policy.name)
        return js.simulate(instance, policy, **more)

    monkeypatch.setattr(rows, "simulate", simulate)
    return seen


def test_one_row_per_instance_prediction_and_policy(finished: Any) -> None:
    settings, folder = finished
    frame = store.read_results(folder)
    keys = ["n", "lane", "prediction", "policy"]
    assert len(frame) == 2 * 2 * 2 * 3 and not frame.duplicated(keys).any()
    assert list(frame.columns[:4]) == ["seed", "lane", "n", "memory"]
    assert (frame["status"] == "FINISHED").all()
    reads = frame.pop("missed")
    assert frame.notna().all(axis=None)
    assert reads.isna().equals(frame["policy"].isin(["h_sf", "fcfs"])) and not reads.any()
    assert (frame["latency_p99"] <= frame["latency_max"]).all()
    assert (frame["longest_wait"] <= frame["latency_max"]).all()
    assert (frame["ratio_to_bound"] >= 1).all()
    assert (frame["peak_memory"] <= settings.memory).all()
    assert (frame["mean_memory"] <= frame["peak_memory"]).all()
    assert (frame.loc[frame["policy"] == "h_sf", "ratio_to_h_sf"] == 1).all()


def test_rows_agree_with_the_reference(finished: Any) -> None:
    settings, folder = finished
    frame = store.read_results(folder).set_index(["n", "lane", "prediction", "policy"])
    rules = {"h_sf": oracle.h_sf(), "fcfs": oracle.fcfs()}
    rules["a_min:every_round"] = oracle.a_min("every_round")
    instance = instances(settings, 25, "relative:0.9")
    for name, rule in rules.items():
        columns = [getattr(instance, field)[1] for field in FIELDS]
        requests = [
            reference.Request(*map(int, row), point=int(point))
            for *row, point in zip(*columns, strict=True)
        ]
        expected = reference.simulate(requests, settings.memory, rule)
        row = frame.loc[(25, 1, "relative:0.9", name)]
        for field in ("total_latency", "evictions", "wasted_tokens", "peak_memory", "rounds"):
            assert row[field] == getattr(expected, field), (name, field)
        assert row["mean_memory"] == pytest.approx(expected.memory_time / expected.rounds)


def test_the_same_instances_for_every_prediction(finished: Any) -> None:
    settings, folder = finished
    one, relative = (instances(settings, 25, text) for text in settings.predictions)
    np.testing.assert_array_equal(one.output, relative.output)
    frame = store.read_results(folder)
    fcfs = frame[frame["policy"] == "fcfs"].drop(columns=[c for c in frame if "prediction" in c])
    assert len(fcfs.drop_duplicates()) == len(fcfs) / 2


def test_policies_that_a_prediction_matters_to_are_found() -> None:
    reads = {name: policies.policy(name).reads_predictions for name in policies.SHIPPED}
    assert {name for name, yes in reads.items() if not yes} == oracle.BLIND


def test_files_say_where_they_come_from(finished: Any) -> None:
    settings, folder = finished
    metadata = store.read_parquet(folder / "results.parquet")[1]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert metadata["config"] == manifest["config"] == toml.to_toml(settings)
    assert json.loads(metadata["versions"]) == manifest["versions"] == store.versions()
    assert "cpu" in metadata["device"] and metadata["device"] == manifest["device"]
    part = store.read_parquet(folder / "parts" / "n25-a_min-every_round.parquet")[1]
    assert part == metadata


def test_goes_on_after_an_interruption(
    file: Path, tmp_path: Path, finished: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "out"
    command = ["run", str(file), "--out", str(out)]
    first = interrupt_after(monkeypatch, 4)
    assert main(command) == 130
    assert f"kept in {out}" in capsys.readouterr().err
    assert not (out / "results.parquet").exists()
    # A run that was killed while writing leaves a hidden file, which must not matter.
    (out / "parts" / ".1.n40-a_min-every_round.parquet").write_bytes(b"PAR1 half")
    second = interrupt_after(monkeypatch, 99)
    assert main(command) == 0
    assert first + second == ["h_sf", "a_min:every_round", "fcfs"] * 2
    pd.testing.assert_frame_equal(store.read_results(out), store.read_results(finished[1]))
    third = interrupt_after(monkeypatch, 99)
    assert main(command) == 0
    assert third == []


def test_a_changed_configuration_is_refused_with_the_difference(
    file: Path, finished: Any, capsys: Any
) -> None:
    assert main(["run", str(file), "--out", str(finished[1]), "--seed", "3"]) == 1
    error = capsys.readouterr().err
    assert "another configuration" in error
    assert "-seed = 0" in error and "+seed = 3" in error and "lanes" not in error


def test_a_folder_of_other_files_is_refused(file: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["run", str(file), "--out", str(tmp_path)]) == 1
    assert "has files in it but no results" in capsys.readouterr().err
    (tmp_path / "manifest.json").write_text("{}")
    assert main(["run", str(file), "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(
        f"jaxsched: {tmp_path / 'manifest.json'}: damaged, or not a manifest of"
    )


def test_a_damaged_part_is_named(finished: Any, tmp_path: Path) -> None:
    settings, _ = finished
    kept = store.open_store(tmp_path / "out", toml.to_toml(settings))
    name = settings.work().points[0].name
    kept.part(name).parent.mkdir()
    kept.part(name).write_bytes(b"PAR1 half a file")
    with pytest.raises(ValueError, match=f"{name}.parquet: .*delete it"):
        settings.work().run(tmp_path / "out")


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    store.write_parquet(path, pd.DataFrame({"a": [1]}), {})

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.write_atomically(path, fail)
    assert list(tmp_path.iterdir()) == [path] and pq.read_table(path).num_rows == 1


def test_prints_a_table_and_the_paths_of_the_figures(
    file: Path, tmp_path: Path, finished: Any, capsys: Any
) -> None:
    assert main(["run", str(file), "--out", str(finished[1])]) == 0
    printed = capsys.readouterr().out
    for text in ("h_sf", "a_min:every_round", "/ bound", "[1, 1000] for all", "n = 40 requests"):
        assert text in printed
    for name in ("latency_against_n", "ratio_against_width"):
        path = finished[1] / "figures" / f"{name}.png"
        assert str(path) in printed
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


def test_intervals_are_paired() -> None:
    latencies = {"h_sf": [10.0, 20.0, 30.0], "a_max": [11.0, 22.0, 33.0]}
    rows = [
        {
            "policy": policy,
            "lane": lane,
            "total_latency": value,
            "mean_latency": value,
            "status": "FINISHED",
        }
        for policy, values in latencies.items()
        for lane, value in enumerate(values)
    ]
    table = frames.summarize(frames.with_ratios(pd.DataFrame(rows), ["lane"]), ["policy"])
    table = table.set_index("policy")
    assert table.loc["a_max", "ratio_to_h_sf"] == pytest.approx(1.1)
    assert table.loc["a_max", "ratio_to_h_sf_ci"] == pytest.approx(0, abs=1e-12)
    # Student's t with two degrees of freedom: 4.303 · 10 / sqrt(3).
    assert table.loc["h_sf", "mean_latency_ci"] == pytest.approx(24.84, abs=0.01)


def test_every_policy_has_a_look_of_its_own() -> None:
    names = {policies.policy(name).name for name in policies.SHIPPED} | set(LOOKS)
    looks = [look_of(name) for name in names]
    for kinds in ({(look.color, look.line) for look in looks}, {look.label for look in looks}):
        assert len(kinds) == len(names)
    assert look_of("tuned").label == "tuned" and look_of("grid") is METHOD_LOOKS["grid"]


def test_a_job_that_cannot_run_is_refused_before_it_has_a_folder(
    file: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    file.write_text(TEXT.replace("memory = 9000", "memory = 900"))
    assert main(["run", str(file), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert f"{file}: n = 40, prediction 'one:1:1000': lane " in error and "memory = 900," in error
    assert not out.exists()
    fitting = toml.load(file, BacklogConfig, {"lengths.max_total": 900})
    prompt, output = fitting.lengths.law.sample(jax.random.key(0), (8, 40))
    assert np.max(prompt + output) <= 900
    file.write_text(TEXT.replace("one:1:1000", "classes:100:3"))
    assert main(["run", str(file), "--out", str(out)]) == 1
    assert "1 to 300 (lengths.max_output leaves longer ones out)" in capsys.readouterr().err


def test_a_folder_without_results_is_begun_anew(tmp_path: Path) -> None:
    store.open_store(tmp_path / "out", "a = 1\n")
    kept = store.open_store(tmp_path / "out", "a = 2\n")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["config"] == "a = 2\n"
    kept.write("part", pd.DataFrame({"a": [2]}))
    with pytest.raises(ValueError, match="(?s)another configuration.*-a = 2.*\\+a = 1"):
        store.open_store(tmp_path / "out", "a = 1\n")


def test_without_h_sf_the_ratio_figure_is_left_out(file: Path, tmp_path: Path, capsys: Any) -> None:
    file.write_text(TEXT.replace('"h_sf", ', ""))
    assert main(["run", str(file), "--out", str(tmp_path / "out")]) == 0
    assert "no ratio_against_width, since there is no finished h_sf" in capsys.readouterr().out
    assert (tmp_path / "out" / "figures" / "latency_against_n.png").exists()
    with pytest.raises(ValueError, match="there is no finished h_sf"):
        figures.ratio_against_width(store.read_results(tmp_path / "out"))


def test_what_did_not_finish_is_in_no_mean_and_no_ratio() -> None:
    instance = js.Instance(prompt=[[1], [1]], output=[[2], [6]], lower=[[2], [6]],
                           upper=[[2], [6]], memory=9)  # fmt: skip
    parts = []
    for name in ("h_sf", "a_max"):
        result = js.simulate(instance, js.policy(name), max_rounds=4)
        measured = frames.result_columns(instance, result, frames.bound_of(instance))
        parts.append(frames.lane_frame(measured, policy=name, lane=[0, 1]))
    table = frames.with_ratios(pd.concat(parts, ignore_index=True), ["lane"])
    assert table["status"].tolist() == ["FINISHED", "ROUND_LIMIT"] * 2
    for column in ("mean_latency", "mean_memory", "ratio_to_bound", "ratio_to_h_sf"):
        assert table[column].isna().tolist() == [False, True] * 2, column
    summary = frames.summarize(table, ["policy"])
    assert summary["unfinished"].tolist() == [1, 1]
    # (2 + 3) tokens in two rounds; nothing is known of the lane that was cut off.
    assert summary["mean_memory"].tolist() == [2.5, 2.5]
    assert summary["mean_latency"].tolist() == [2, 2] and summary["mean_latency_ci"].isna().all()
