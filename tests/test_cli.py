"""The command: what it prints, what it writes, and how it refuses what is wrong."""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jaxsched import clocks, policies
from jaxsched.cli import main, options
from jaxsched.studies import replay, store
from jaxsched.workloads import texts

# The worked example of the model, as a file: M = 9, all at 0.
EXAMPLE = """\
arrived,input,generated,low,high
0.0,2,4,2,5
0.0,1,6,1,8
0.0,3,2,1,4
0.0,1,3,3,3
"""
COLUMNS = "prompt=input,output=generated,lower=low,upper=high,arrival_seconds=arrived"
TOTALS = {"h_sf": 21, "a_max": 26, "a_min:on_eviction": 21, "a_min:every_round": 21, "fcfs": 30}

VIDUR = """\
arrived_at,num_prefill_tokens,num_decode_tokens
0.0,2,4
0.5,1,6
1.0,3,2
2.5,1,3
"""


@pytest.fixture
def example(tmp_path: Path) -> Path:
    path = tmp_path / "example.csv"
    path.write_text(EXAMPLE)
    return path


@pytest.fixture
def vidur(tmp_path: Path) -> Path:
    path = tmp_path / "vidur.csv"
    path.write_text(VIDUR)
    return path


def simulate(trace: Path, *options: str) -> list[str]:
    return ["simulate", str(trace), "--memory", "9", *options]


def output_of(capsys: Any, command: list[str]) -> str:
    assert main(command) == 0
    return capsys.readouterr().out


def error_of(capsys: Any, command: list[str]) -> str:
    assert main(command) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("jaxsched: ") and "Traceback" not in printed.err
    return printed.err


def usage_error_of(capsys: Any, command: list[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main(command)
    assert caught.value.code == 2
    return capsys.readouterr().err


def help_of(capsys: Any, *command: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_help_names_commands_policies_and_predictions(capsys: Any) -> None:
    general = help_of(capsys)
    assert "run" in general and "simulate" in general and "configs/paper.toml" in general
    assert "Compiled programs are kept" in general
    assert "--lanes" in help_of(capsys, "run")
    details = help_of(capsys, "simulate")
    for name in (*policies.SHIPPED, *texts.PREDICTIONS):
        assert f"  {name}" in details
    assert all(name in details for name in clocks.PRESETS)
    assert all(form.form in details for form in texts.ARRIVALS.values())
    assert max(map(len, general.splitlines() + details.splitlines())) <= 100


@pytest.mark.parametrize("writable", [True, False])
def test_version_as_a_program_is_one_quiet_line(tmp_path: Path, writable: bool) -> None:
    caches = tmp_path / "caches"
    if not writable:
        caches.write_text("a file where a folder should be")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX", "XLA"))}
    environment["XDG_CACHE_HOME"] = str(caches)
    command = [sys.executable, "-m", "jaxsched", "--version"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("jaxsched ") and "jax " in done.stdout and "Python" in done.stdout
    assert (caches / "jaxsched").is_dir() == writable
    # All cores are devices, so that lanes can be spread over them.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert f"{cores} x cpu" in done.stdout or "gpu" in done.stdout.lower()


def test_no_command_is_a_usage_error(capsys: Any) -> None:
    assert "COMMAND" in usage_error_of(capsys, [])


def test_the_worked_example(capsys: Any, example: Path, tmp_path: Path) -> None:
    names = ",".join(TOTALS)
    options = ["--columns", COLUMNS, "--policies", names, "--out", str(tmp_path / "out")]
    printed = output_of(capsys, simulate(example, *options, "--per-request"))
    assert "4 requests, M = 9 tokens" in printed and "every_round" in printed
    results, metadata = store.read_parquet(tmp_path / "out" / "results.parquet")
    assert dict(zip(results["policy"], results["total_latency"], strict=True)) == TOTALS
    assert results["ratio_to_h_sf"].tolist() == [total / 21 for total in TOTALS.values()]
    assert f'trace = "{example}"' in metadata["config"] and "sha256" in metadata["config"]
    requests = pd.read_parquet(tmp_path / "out" / "requests.parquet")
    fcfs = requests[requests["policy"] == "fcfs"]
    assert fcfs["completion"].tolist() == fcfs["latency"].tolist() == [4, 9, 6, 11]
    assert fcfs["evictions"].sum() == 4
    assert fcfs["lower"].tolist() == [2, 1, 1, 3] and fcfs["request"].tolist() == [0, 1, 2, 3]


def test_an_interrupted_simulation_goes_on(
    capsys: Any, example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command = simulate(example, "--columns", COLUMNS, "--out", str(out), "--per-request")
    asked: list[str] = []

    def stops(instance: Any, policy: policies.Policy, **more: Any) -> Any:
        asked.append(policy.name)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return run(instance, policy, **more)

    run = replay.simulate
    monkeypatch.setattr(replay, "simulate", stops)
    assert main([*command, "--policies", "fcfs,a_max,h_sf"]) == 130
    assert f"finished is kept in {out}; run the same command again" in capsys.readouterr().err
    output_of(capsys, [*command, "--policies", "fcfs,a_max,h_sf"])
    assert asked == ["fcfs", "a_max", "a_max", "h_sf"]
    for name in ("results", "requests", "distributions", "timeline"):
        found = pd.read_parquet(out / f"{name}.parquet")["policy"]
        assert list(dict.fromkeys(found)) == ["fcfs", "a_max", "h_sf"]


def test_a_default_reading_and_no_yardstick(capsys: Any, vidur: Path) -> None:
    command = simulate(vidur, "--policies", "a_min", "--interval", "relative:0.5")
    printed = output_of(capsys, command)
    assert "on_eviction" in printed and "–" in printed


def test_percentiles_are_exact(capsys: Any, vidur: Path, tmp_path: Path) -> None:
    options = ["--interval", "exact", "--policies", "h_sf", "--out", str(tmp_path / "out")]
    output_of(capsys, simulate(vidur, *options, "--per-request"))
    row = store.read_results(tmp_path / "out").iloc[0]
    latency = pd.read_parquet(tmp_path / "out" / "requests.parquet")["latency"]
    for q in (50, 90, 99):
        assert row[f"latency_p{q}"] == np.percentile(latency, q)


def test_arrivals_of_the_trace(capsys: Any, vidur: Path, tmp_path: Path) -> None:
    options = ["--interval", "exact", "--policies", "fcfs", "--arrivals", "rounds:0.5"]
    output_of(capsys, simulate(vidur, *options, "--out", str(tmp_path / "out"), "--per-request"))
    requests = pd.read_parquet(tmp_path / "out" / "requests.parquet")
    assert requests["arrival"].tolist() == [0, 1, 2, 5]
    assert (requests["latency"] == requests["completion"] - requests["arrival"]).all()
    row = store.read_results(tmp_path / "out").iloc[0]
    assert 0 < row["bound"] <= row["total_latency"]


def test_classes_predicted_for_each_request(capsys: Any, tmp_path: Path) -> None:
    path = tmp_path / "classes.csv.gz"
    path.write_bytes(gzip.compress(b"length,guess\n4,0\n6,2\n2,1\n3,1\n"))
    columns = ["--columns", "output=length,predicted=guess", "--prompt", "1"]
    options = [*columns, "--policies", "a_max", "--out", str(tmp_path / "out"), "--per-request"]
    output_of(capsys, simulate(path, *options, "--interval", "edges:3,5"))
    requests = pd.read_parquet(tmp_path / "out" / "requests.parquet")
    assert requests["lower"].tolist() == [1, 5, 3, 3]
    assert requests["upper"].tolist() == [2, 9, 4, 4]
    assert "predicted needs --interval edges" in error_of(capsys, simulate(path, *columns))
    assert "give one for all with --prompt" in error_of(
        capsys, simulate(path, *columns[:2], "--interval", "edges:3,5")
    )


def test_requests_that_are_cut_off(capsys: Any, tmp_path: Path) -> None:
    path = tmp_path / "late.csv"
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,1,3\n1073741820,1,6\n")
    options = ["--interval", "exact", "--policies", "h_sf,fcfs", "--arrivals", "rounds:1"]
    out = ["--per-request", "--out", str(tmp_path / "out"), "--seed", "5"]
    printed = output_of(capsys, simulate(path, *options, *out))
    assert [line.split() for line in printed.splitlines() if "unfinished" in line] == [
        ["unfinished", "1", "1"]
    ]
    assert " -" not in printed.replace("--", "").replace("bound - 1", "") and "nan" not in printed
    results = store.read_results(tmp_path / "out")
    assert results["status"].tolist() == ["ROUND_LIMIT"] * 2
    assert results["unfinished"].tolist() == [1, 1]
    assert results[["mean_latency", "ratio_to_h_sf", "ratio_to_bound"]].isna().all(axis=None)
    assert results[["latency_p50", "latency_p99"]].to_numpy().tolist() == [[3, 3]] * 2
    requests = pd.read_parquet(tmp_path / "out" / "requests.parquet")
    assert requests["latency"].isna().tolist() == [False, True] * 2
    assert requests["completion"].isna().tolist() == [False, True] * 2
    assert requests["first_token"].tolist() == [1, 1073741821] * 2
    assert (requests["status"] == "ROUND_LIMIT").all()
    assert (requests["seed"] == 5).all() and (requests["memory"] == 9).all()
    last = tmp_path / "last.csv"
    last.write_text(path.read_text().replace("820,1,6", "823,1,6"))
    output_of(capsys, simulate(last, *options, "--per-request", "--out", str(tmp_path / "last")))
    requests = pd.read_parquet(tmp_path / "last" / "requests.parquet")
    assert requests["first_token"].isna().tolist() == [False, True] * 2
    assert requests["seed"].isna().all()


def test_notes_about_the_file(capsys: Any, tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n3,2,4\n1,1,6\n2,3,2")
    options = ["--interval", "exact", "--policies", "h_sf", "--out", str(tmp_path / "out")]
    printed = output_of(capsys, simulate(path, *options, "--per-request"))
    assert f"the last line of {path} does not end in a newline; was it cut off?" in printed
    assert "2 rows were out of order, sorted by arrival" in printed
    requests = pd.read_parquet(tmp_path / "out" / "requests.parquet")
    assert requests["line"].tolist() == [3, 4, 2] and requests["output"].tolist() == [6, 2, 4]
    path.write_text(VIDUR)
    printed = output_of(capsys, simulate(path, *options[:-1], str(tmp_path / "again")))
    assert "newline" not in printed and "order" not in printed


def test_a_refused_command_leaves_no_folder(capsys: Any, vidur: Path, tmp_path: Path) -> None:
    out = ["--policies", "a_max", "--out", str(tmp_path / "out")]
    assert "has no predictions" in error_of(capsys, simulate(vidur, *out))
    assert not (tmp_path / "out").exists()
    output_of(capsys, simulate(vidur, *out, "--interval", "exact"))


def test_a_seed_draws_the_requests(capsys: Any, vidur: Path, tmp_path: Path) -> None:
    def drawn(*options: str) -> list[int]:
        out = tmp_path / "-".join(("out", *options))
        always = ["--interval", "exact", "--policies", "h_sf", "--per-request", "--out", str(out)]
        output_of(capsys, simulate(vidur, *always, *options))
        return pd.read_parquet(out / "requests.parquet")["request"].tolist()

    assert drawn("--limit", "2") == [0, 1]
    shuffled = {seed: drawn("--seed", seed) for seed in ("0", "1", "2", "3")}
    assert all(sorted(order) == [0, 1, 2, 3] for order in shuffled.values())
    assert len(set(map(tuple, shuffled.values()))) > 1
    assert drawn("--seed", "0", "--limit", "2") == shuffled["0"][:2]


def test_requests_that_never_fit(capsys: Any, tmp_path: Path) -> None:
    path = tmp_path / "large.csv"
    path.write_text(VIDUR + "3.0,5,5\n4.0,1,1\n")
    command = simulate(path, "--interval", "exact", "--policies", "h_sf")
    error = error_of(capsys, command)
    assert "request 4" in error and "5 + 5" in error and "memory = 9" in error
    assert "--skip-too-large" in error
    assert "left out: 1 requests of the trace" in output_of(capsys, [*command, "--skip-too-large"])
    assert main([*command, "--limit", "4"]) == 0


def test_requests_without_output(capsys: Any, tmp_path: Path) -> None:
    path = tmp_path / "failed.csv"
    path.write_text(VIDUR + "3.0,5,0\n")
    command = simulate(path, "--interval", "exact", "--policies", "h_sf")
    assert "at least 1" in error_of(capsys, command)
    assert "left out: 1 requests of the trace (no output)" in output_of(
        capsys, [*command, "--skip-zero-output"]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--policies", "h_sf,amax"],
            "policy 'amax' is unknown (did you mean a_max?); expected one of h_sf, a_max, a_min",
        ),
        (["--policies", "h_sf,h_sf"], "policies: 'h_sf' is there twice"),
        (
            ["--policies", "a_min:on_eviction,a_min"],
            "policies: 'a_min:on_eviction' and 'a_min' are the same",
        ),
        (["--interval", "relative"], "expected relative:X"),
        (["--interval", "relativ:0.5"], "did you mean relative?"),
        ([], "has no predictions of the output lengths; give some with --interval"),
        (["--interval", "columns"], "has no predictions"),
        (["--interval", "exact", "--format", "azur"], "did you mean azure?"),
        (["--interval", "exact", "--format", "azure"], "TIMESTAMP"),
        (["--interval", "exact", "--limit", "0"], "limit: got 0; expected at least 1"),
        (["--interval", "exact", "--limit", "5"], "limit: got 5; expected at most 4, the requests"),
        (["--interval", "exact", "--prompt", "3"], "lengths of its own; expected no --prompt"),
        (
            ["--interval", "edges:50"],
            "interval: edges:50: the last edge is 50; expected at most M = 9",
        ),
        (
            ["--interval", "classes:1:4"],
            "vidur.csv:3: request 1: output is 6; expected a length in a class, 1 to 4 (edges:… ",
        ),
        (["--interval", "exact", "--per-request"], "--out"),
        (["--interval", "exact", "--columns", "output"], "expected FIELD=COLUMN"),
        (["--interval", "exact", "--columns", "output=nope"], "column 'nope' is missing"),
        (
            ["--interval", "exact", "--columns", "output=a,output=b"],
            "columns: 'output' is there twice",
        ),
        (
            [
                "--interval",
                "exact",
                "--arrivals",
                "rounds:1",
                "--columns",
                "output=num_decode_tokens,prompt=num_prefill_tokens",
            ],
            "has no arrival times; expected --arrivals backlog",
        ),
        (["--interval", "exact", "--arrivals", "rounds:0"], "arrivals: 'rounds:0'; expected"),
        (["--interval", "exact", "--arrivals", "poisson"], "arrivals: 'poisson'; expected"),
    ],
)
def test_wrong_options(capsys: Any, vidur: Path, options: list[str], message: str) -> None:
    assert message in error_of(capsys, simulate(vidur, *options))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"a,b\n1,2\n", "columns a, b fit no known format"),
        (VIDUR.encode() + b"3.0,5\n", ":6: "),
        (VIDUR.encode() + b"3.0,5,many\n", ":6: column 'num_decode_tokens': 'many'"),
        (gzip.compress(VIDUR.encode() * 9, mtime=0)[:-20], "ends early"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_damaged_traces(capsys: Any, tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(content)
    error = error_of(capsys, simulate(path, "--interval", "exact"))
    assert str(path) in error and message in error


def test_missing_files(capsys: Any, tmp_path: Path) -> None:
    assert "nowhere.csv" in error_of(capsys, simulate(tmp_path / "nowhere.csv"))
    assert "nowhere.toml" in error_of(capsys, ["run", str(tmp_path / "nowhere.toml")])


def test_results_of_another_trace_are_not_overwritten(
    capsys: Any, vidur: Path, tmp_path: Path
) -> None:
    options = ["--interval", "exact", "--policies", "h_sf", "--out", str(tmp_path / "out")]
    command = simulate(vidur, *options)
    output_of(capsys, command)
    output_of(capsys, command)
    vidur.write_text(VIDUR.replace("3,2", "3,3"))
    assert "another configuration" in error_of(capsys, command)


def test_a_list_of_policies_splits_between_them_alone() -> None:
    text = "h_sf, a_min_family:start=0.2, run_growth=1,fcfs:watermark=0.01,mine.py:halfway"
    assert options.policy_names(text) == (
        "h_sf", "a_min_family:start=0.2, run_growth=1", "fcfs:watermark=0.01", "mine.py:halfway"
    )  # fmt: skip


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_policies_of_a_configuration_are_replaced(
    command: str, capsys: Any, tmp_path: Path
) -> None:
    path, lengths = tmp_path / "small.toml", '[lengths]\nsource = "sharegpt"\nmax_output = 99\n'
    if command == "sweep":
        lengths = 'workloads = ["sharegpt,max_output:99,max_total:9000"]\n'
    memory, n = ("9000", "[5]") if command == "run" else ("[9000]", "[5]")
    text = f'lanes = 2\nmemory = {memory}\nnum_requests = {n}\npolicies = ["h_sf"]\n'
    path.write_text(f'{text}predictions = ["one:1:99"]\n{lengths}')
    out = ["--out", str(tmp_path / "out"), "--policies", "a_max,fcfs"]
    output_of(capsys, [command, str(path), *out])
    assert list(store.read_results(tmp_path / "out")["policy"].unique()) == ["a_max", "fcfs"]


def test_a_clock_of_a_file_is_kept_by_its_digest(tmp_path: Path, capsys: Any) -> None:
    clock = tmp_path / "clock.toml"
    clock.write_text("fixed = 0.02\nper_request = 1e-4\n")
    out = tmp_path / "out"
    command = ["simulate", "sample", "--limit", "5", "--memory", "16492", "--policies", "fcfs",
               "--clock", str(clock), "--out", str(out)]  # fmt: skip
    assert main(command) == 0
    digest = hashlib.sha256(clock.read_bytes()).hexdigest()
    assert digest in store.manifest(out)["config"]
    assert main(command) == 0
    clock.write_text("fixed = 0.03\n")
    capsys.readouterr()
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "results of another configuration" in error and f"sha256 {digest}" in error


def test_arrivals_beyond_the_clock_name_their_line(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "late.csv"
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,1,2\n7,1,2\n4611687,1,2\n")
    command = ["simulate", str(path), "--memory", "50", "--policies", "fcfs",
               "--clock", "llama2_70b_2xa100", "--arrivals"]  # fmt: skip
    assert main([*command, "trace"]) == 1
    error = capsys.readouterr().err
    assert f"{path}:4: arrives 4,611,687 s after the first request; a simulation reaches" in error
    assert "2^62 ps" in error and "--window START:END, or --arrivals trace:SPEED" in error
    assert main([*command, "trace:2"]) == 0
    assert main([*command, "trace", "--window", "0:100"]) == 0
