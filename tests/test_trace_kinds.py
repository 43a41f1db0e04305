"""Traces as their owners publish them: every layout and unit is read as what it is, or named."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from jaxsched import toml
from jaxsched.studies.serving import ServingConfig
from jaxsched.studies.sweep import SweepConfig
from jaxsched.studies.trace import TraceConfig, read_requests
from jaxsched.tuning.config import TuneConfig
from jaxsched.workloads import Trace, read_table, read_trace, traces
from jaxsched.workloads import files as bytes_of


def lines(*records: dict[str, Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def requests(prompt: str, output: str, **more: list[Any]) -> str:
    """Three requests of 10, 20, 30 and 3, 4, 5 tokens, with further columns."""
    columns = {prompt: [10, 20, 30], output: [3, 4, 5], **more}
    return lines(
        *(dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    )


SAME = ("input_length", "output_length")
EPOCH = 1_790_000_000
CHAT = dict(chat_id=[7, 8, 7], parent_chat_id=[-1, -1, 7], turn=[1, 1, 2], type=["text"] * 3)

KINDS = {
    # Of the same three columns, what stands beside them says whose they are.
    "mooncake": requests(*SAME, timestamp=[0, 500, 2250], hash_ids=[[1], [1], [2]]),
    "bailian": requests(*SAME, timestamp=[0.0, 0.5, 2.25], hash_ids=[[1], [1], [2]], **CHAT),
    "blis": (
        "request_id,session_id,input_tokens,output_tokens,server_input_tokens,arrival_time_us\n"
        f"0,,10,3,12,{EPOCH}000000\n1,,20,4,22,{EPOCH}500000\n2,,30,5,32,{EPOCH + 2}250000\n"
    ),
    "splitwise": (
        "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n"
        "0,2,0,1,1,10,3\n1,2,0,1.5,1,20,4\n2,2,0,3.25,1,30,5\n"
    ),
    "llmservingsim": requests(
        "input_toks", "output_toks", arrival_time_ns=[0, 500_000_000, 2_250_000_000]
    ),
    "aiperf": lines(
        *(
            dict(
                metadata=dict(request_start_ns=EPOCH * 10**9 + t),
                metrics=dict(
                    input_sequence_length=dict(value=p, unit="tokens"),
                    output_sequence_length=dict(value=o, unit="tokens"),
                ),
            )
            for t, p, o in ((0, 10, 3), (500_000_000, 20, 4), (2_250_000_000, 30, 5))
        )
    ),
    "vllm": json.dumps(
        dict(
            backend="vllm", input_lens=[10, 20, 30], output_lens=[3, 4, 5], errors=["", "", ""],
            start_times=[77.0, 77.5, 79.25], itls=[[0.1], [0.1], [0.1]],
        )
    ),
}  # fmt: skip


def write(folder: Path, content: str | bytes, name: str = "trace") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_read_with_the_unit_of_its_format(tmp_path: Path, name: str) -> None:
    trace = read_trace(write(tmp_path, KINDS[name]))
    np.testing.assert_array_equal([trace.prompt, trace.output], [[10, 20, 30], [3, 4, 5]])
    np.testing.assert_array_equal(np.diff(trace.arrival_seconds), [0.5, 1.75])
    assert trace.format == name and trace.rate == pytest.approx(2 / 2.25)
    unit = traces.TIME_UNITS[
        next(field for field in traces.FORMATS[name].columns if "arr" in field)
    ]
    note = next(trace.notes())
    assert f", {name}, 3 requests, " in note and f" in {unit}: 0.8889 requests/s" in note


def test_a_guess_of_the_unit_has_to_be_plausible(tmp_path: Path) -> None:
    busy = write(tmp_path, requests(*SAME, timestamp=[0, 1, 2]))
    with pytest.raises(ValueError, match=r"as mooncake 1,000 requests .* format=mooncake or forma"):
        read_trace(busy)
    assert read_trace(busy, format="guidellm").arrival_seconds.tolist() == [0, 1, 2]
    assert read_trace(busy, format="mooncake").arrival_seconds.tolist() == [0, 0.001, 0.002]
    between = write(tmp_path, requests(*SAME, timestamp=[0, 90.5, 300]))
    with pytest.raises(ValueError, match="times lie between its steps"):
        read_trace(between)
    calm = read_trace(write(tmp_path, requests(*SAME, timestamp=[0, 100, 300])))
    assert (calm.format, calm.rate) == ("mooncake", pytest.approx(2 / 0.3))


def test_what_else_a_file_could_be_is_said(tmp_path: Path) -> None:
    calm = list(read_trace(write(tmp_path, requests(*SAME, timestamp=[0, 100, 300]))).notes())
    assert calm[1].endswith("have the same columns, of guidellm in s: format=guidellm")
    for sure in ("mooncake", "bailian", "blis"):
        assert not any(
            "same columns" in x for x in read_trace(write(tmp_path, KINDS[sure])).notes()
        )


def test_dates_tell_their_unit(tmp_path: Path) -> None:
    late = [f"{EPOCH + t}340138614" for t in (0, 5, 7)]  # nanoseconds, as texts
    hashed = write(tmp_path, requests(*SAME, timestamp=late, hash_ids=[[1]] * 3))
    text = r"begins at 1790000000340138614, in ms no date .*; as ns they are: .*arrival_nanoseconds"
    for known in ("auto", "mooncake"):
        with pytest.raises(ValueError, match=text):
            read_trace(hashed, format=known)
    named = dict(prompt=SAME[0], output=SAME[1], arrival_nanoseconds="timestamp")
    assert read_table(hashed, named).arrival_seconds.tolist() == [0, 5, 7]
    seconds = write(tmp_path, requests(*SAME, timestamp=[EPOCH, EPOCH + 5, EPOCH + 7]))
    with pytest.raises(ValueError, match="as s they are dates, which is not plausible; say which"):
        read_trace(seconds)
    assert read_trace(seconds, format="guidellm").arrival_seconds.tolist() == [0, 5, 7]
    # Blocks of a prefix are Mooncake's, but times between milliseconds are not.
    with pytest.raises(ValueError, match="times lie between its steps"):
        read_trace(write(tmp_path, requests(*SAME, timestamp=[0, 0.25, 9], hash_ids=[[1]] * 3)))


@pytest.mark.parametrize("first", [0, 1])
def test_a_failed_request_has_no_output(tmp_path: Path, first: int) -> None:
    """AIPerf says of it when it started, and what went wrong."""
    failed = dict(metadata=dict(request_start_ns=EPOCH * 10**9), metrics={}, error=dict(code=499))
    rows = KINDS["aiperf"].splitlines(keepends=True)
    rows.insert(first, lines(failed))
    for content in ("".join(rows), "[" + ",".join(rows) + "]"):
        path = write(tmp_path, content)
        with pytest.raises(ValueError, match=r"1 such row; zero_output='skip' leaves them out"):
            read_trace(path)
        trace = read_trace(path, zero_output="skip")
        assert (trace.output.tolist(), trace.skipped) == ([3, 4, 5], 1)
    rows[first] = lines(failed | dict(error=None))
    text = f":{1 + first}: column .*: missing, but line {2 - first} has it"
    with pytest.raises(ValueError, match=text):
        read_trace(write(tmp_path, "".join(rows)), zero_output="skip")


def test_arrays_and_nested_columns(tmp_path: Path) -> None:
    records = [dict(timestamp=0, input_length=9, output_length=3)] * 2
    array = read_trace(write(tmp_path, json.dumps(records, indent=1)))
    assert array.output.tolist() == [3, 3] and array.place(1).endswith(": item 2")
    table = pa.table({"usage": [{"in": 5, "out": 6}, {"in": 7, "out": 8}], "us": [0, 2_000_000]})
    pyarrow.parquet.write_table(table, tmp_path / "nested.parquet")
    lists = lines(*(dict(usage=u, us=t) for u, t in zip(*table.to_pydict().values(), strict=True)))
    names = dict(prompt="usage.in", output="usage.out", arrival_microseconds="us")
    for path in (tmp_path / "nested.parquet", write(tmp_path, lists)):
        trace = read_table(path, names)
        assert trace.prompt.tolist() == [5, 7] and trace.arrival_seconds.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            lines(
                dict(session_id="a", timestamp=0, input_length=1, output_length=2, hash_ids=[0]),
                dict(session_id="a", delay=700, input_length=1, output_length=2, hash_ids=[0]),
            ),
            ":2: sessions are not supported: 'delay' .* own time in 'timestamp'",
        ),
        (lines(dict(session_id="s", output_length=5, pre_gap=0.1)), "sessions are not supported"),
        (
            lines(dict(id="t", requests=[{"t": 0, "in": 7}, {"t": 1, "in": 8}])),
            "sub-requests are not supported: 'requests' holds 2 objects",
        ),
        (
            KINDS["llmservingsim"] + lines(dict(session_id="s", sub_requests=[dict(input_toks=7)])),
            ":4: sub-requests are not supported: 'sub_requests' holds 1 objects",
        ),
        (lines(dict(prompt_len=7, out_lens=[3, 4])) * 2, "'out_lens' holds a list, as of sub-req"),
        (KINDS["vllm"] + "\n" + KINDS["vllm"], ":1: .* of several runs in one file, give the line"),
        (lines(dict(timestamp=0, queries=[{"prompt_length": 9}])) * 2, "'queries' holds 1 object"),
        (
            requests("input_toks", "output_toks", arrival_time=[0, 1, 2]),
            r"nearest: llmservingsim \(without 'arrival_time_ns'\); name them with",
        ),
        ("[" * 100_000, ": malformed JSON .nested too deep."),
        (requests(*SAME) + '{"input_length": ' + "9" * 5000 + "}", ":4: .* too many digits"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(60), "a 7z archive; expected CSV, .* zstd"),
        (b"\x28\xb5\x2f\xfd\x04\x58", "the zstd file is damaged or ends early"),
        (gzip.compress(bytes(257) + b"ustar" + bytes(300), mtime=0), "a tar archive inside gzip"),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n1,2," + "9" * 5000, r"5,002 char"),
    ],
)
def test_what_is_not_read_is_named(tmp_path: Path, content: Any, text: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=text) as caught:
        read_table(path, dict(output="output_length")) if "digits" in text else read_trace(path)
    assert str(caught.value).startswith(str(path)) and len(str(caught.value)) < len(str(path)) + 350


VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n"
ROWS = VIDUR + "".join(f"{i},{i + 1},{i % 3}\n" for i in range(12))


def test_compressed_files_are_read(tmp_path: Path) -> None:
    content = ROWS.encode()
    with pa.CompressedOutputStream(str(tmp_path / "zst"), "zstd") as file:
        file.write(content)
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("trace.csv", content)
    for path in (
        write(tmp_path, bz2.compress(content), "bz2"),
        write(tmp_path, lzma.compress(content), "xz"),
        tmp_path / "zst", tmp_path / "zip",
    ):  # fmt: skip
        assert len(read_trace(path, zero_output="skip")) == 8
    with zipfile.ZipFile(tmp_path / "zip", "a") as archive:
        archive.writestr("other.csv", content)
    with pytest.raises(ValueError, match="a zip archive of 2 files .trace.csv, other.csv."):
        read_trace(tmp_path / "zip")


def test_an_endless_line_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    whole = bytes_of.Bytes._more
    monkeypatch.setattr(bytes_of.Bytes, "_more", lambda f, n: read.append(n) or whole(f, n))
    for start in (b"", VIDUR.encode() + b'1,2,"'):
        packed = gzip.compress(start + b"7" * 80_000_000, 1)
        with pytest.raises(ValueError, match=":[12]: the line is longer"):
            read_trace(write(tmp_path, packed))
    assert sum(read) < 100_000_000


def taken(folder: Path, **section: Any) -> Trace:
    path = write(folder, ROWS)
    return read_requests(TraceConfig(str(path), skip_zero_output=True, **section), 12)


def test_requests_are_taken_by_window_and_limit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 such rows; --skip-zero-output .skip_zero_output = tru"):
        read_requests(TraceConfig(str(write(tmp_path, ROWS)), window="2:9"), 12)
    assert taken(tmp_path, window="2:8").arrival_seconds.tolist() == [2, 4, 5, 7]
    few = taken(tmp_path, window="3:", limit=2, skip_too_large=True)
    assert (few.arrival_seconds.tolist(), few.skipped) == ([4, 5], 3)
    assert taken(tmp_path, skip_too_large=True).too_large == 1
    with pytest.raises(ValueError, match="no request arrives in the window; arrivals are from 0 t"):
        taken(tmp_path, window="20:30")
    with pytest.raises(ValueError, match="limit: got 9; expected at most 8"):
        taken(tmp_path, limit=9)
    for bad in ("5", "7:3", "a:b"):
        with pytest.raises(ValueError, match="expected START:END in seconds"):
            TraceConfig("x", window=bad)
    zeros = write(tmp_path, VIDUR + "0,0,3\n1,5,4\n")
    with pytest.raises(ValueError, match=":2: column 'num_prefill_tokens': '0' .*zero_prompt='ski"):
        read_trace(zeros)
    trace = read_trace(zeros, zero_prompt="skip")
    assert (trace.output.tolist(), trace.skipped_prompt) == ([4], 1)


def test_reading_stops_at_the_limit_or_the_end_of_the_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bytes_of, "BLOCK_BYTES", 64)
    rest = "".join(f"{i},1,1\n" for i in range(20, 90))
    path = write(tmp_path, VIDUR + "".join(f"{i},1,1\n" for i in range(20)) + f"{rest}100,x,1\n")
    for choice in (dict(limit=5), dict(window=(0.0, 5.0))):
        trace = read_trace(path, **choice)
        assert trace.arrival_seconds.tolist() == [0, 1, 2, 3, 4]
        assert 6 <= trace.stopped < 60 and f"line {trace.stopped}" in "".join(trace.notes())
    with pytest.raises(ValueError, match=":92: column 'num_prefill_tokens': 'x' is not"):
        read_trace(path, limit=91)
    # Rows out of order: the first ones may be anywhere.
    path = write(tmp_path, VIDUR + "7,1,1\n3,1,2\n" + rest + "1,1,9\n")
    assert read_trace(path, limit=2).output.tolist() == [9, 2]


def test_every_configuration_has_the_section(tmp_path: Path) -> None:
    path, section = write(tmp_path, ROWS), dict(skip_zero_output=True, window="0:8", limit=4)
    common = dict(memory=[20], num_requests=[2], policies=["fcfs"], predictions=["exact"], lanes=2)
    sweep = toml.from_table(SweepConfig, dict(common, workloads=[f"trace:{path}"], trace=section))
    (law,) = sweep.values().read["workloads"]
    assert law.output.tolist() == [1, 2, 1, 2]
    serving = toml.from_table(
        ServingConfig,
        dict(job="serving", lanes=2, num_requests=2, memory=20, clock="llama2_70b_2xa100",
             rates=[1.0], policies=["fcfs"], predictions=["exact"],
             trace=dict(section, path=str(path))),
    )  # fmt: skip
    assert serving.requests().output.tolist() == [1, 2, 1, 2]
    tune = dict(memory=20, num_requests=2, predictions=["exact"])
    for more in ({}, dict(path="x", warm_up=1.0)):
        with pytest.raises(ValueError, match=r"trace\.(path: missing|warm_up: every request)"):
            toml.from_table(TuneConfig, dict(tune, trace=more))


def test_the_sample_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (len(read_trace("sample")), read_trace("sample").source) == (300, "sample")
    write(tmp_path, VIDUR + "0,1,2\n", "sample")
    assert len(read_trace("sample")) == 1
