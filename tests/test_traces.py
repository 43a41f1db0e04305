"""Trace readers, on files written here: every format, plain and gzipped, good and bad."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import jax
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from jaxsched import workloads as w
from jaxsched.workloads import intervals

KEY = jax.random.key(0)

FILES = {
    "vidur": "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,10,3\n0.5,20,4\n2.25,30,5\n",
    "azure": (
        "\ufeffTIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:17:03.9799600,10,3\r\n"
        "2023-11-16 18:17:04.4799600,20,4\r\n2023-11-16 18:17:06.2299600,30,5"
    ),
    "mooncake": "".join(
        json.dumps(dict(timestamp=t, input_length=s, output_length=o, hash_ids=[1, 2])) + "\n"
        for t, s, o in ((0, 10, 3), (500, 20, 4), (2250, 30, 5))
    ),
    "burstgpt": (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "0,ChatGPT,10,3,13,Conversation log\n0.5,GPT-4,20,4,24,API log\n"
        '2.25,"Chat, GPT",30,5,35,Conversation log\n'
    ),
    "servegen": (
        "request_id,timestamp,input_tokens,output_tokens,reason_ratio\n"
        "0,0.0,10,3,0.5\n1,0.5,20,4,0.25\n2,2.25,30,5,0.9\n"
    ),
}
READERS = {name: getattr(w, f"read_{name}") for name in FILES}


def write(folder: Path, content: str | bytes, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_formats(tmp_path: Path, name: str, zipped: bool) -> None:
    content = FILES[name].encode()
    path = write(tmp_path, gzip.compress(content, mtime=0) if zipped else content)
    for trace in (READERS[name](path), w.read_trace(path)):
        assert len(trace) == 3 and trace.source == str(path)
        assert (trace.skipped, trace.moved, trace.lower) == (0, 0, None)
        assert trace.prompt.dtype == trace.output.dtype == np.int32
        np.testing.assert_array_equal(trace.prompt, [10, 20, 30])
        np.testing.assert_array_equal(trace.output, [3, 4, 5])
        np.testing.assert_array_equal(trace.arrival_seconds, [0.0, 0.5, 2.25])


def test_arrivals_are_optional_where_published_files_lack_them(tmp_path: Path) -> None:
    vidur = "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n10,3,13,3.3\n"
    servegen = "input_tokens,output_tokens,reason_ratio\n10,3,0.5\n"
    for content in (vidur, servegen):
        assert w.read_trace(write(tmp_path, content)).arrival_seconds is None
    mooncake = "timestamp,input_length,output_length\n7,10,3\n"
    assert w.read_trace(write(tmp_path, mooncake)).arrival_seconds == [0.007]


def test_real_predictions(tmp_path: Path) -> None:
    content = ",output_token_length,predicted_length,latency,model\n0,40,1,0.2,m\n1,600,4,0.1,m\n"
    path = write(tmp_path, content)
    trace = w.read_trace(path)
    assert trace.prompt is None
    np.testing.assert_array_equal(trace.output, [40, 600])
    np.testing.assert_array_equal([trace.lower, trace.upper], [[42, 503], [140, 511]])
    own = w.read_lmsys_proxy(path, edges=(0, 10, 20, 30, 40, 1000))
    np.testing.assert_array_equal([own.lower, own.upper], [[10, 40], [19, 999]])
    assert trace.instance(700, prompt=9).prompt.tolist() == [9, 9]
    drawn = trace.lengths(prompt=w.Marginal.uniform(1, 5)).draw(KEY, (50,))
    np.testing.assert_array_equal(drawn.lower == 42, drawn.output == 40)
    with pytest.raises(ValueError, match="has no prompts; expected prompt="):
        trace.lengths()


@pytest.mark.parametrize("kind", ["csv", "parquet", "parquet.gz"])
def test_named_columns(tmp_path: Path, kind: str) -> None:
    columns = {"p": [5, 6], "o": [7, 8], "lo": [1, 8], "hi": [7, 9], "ms": [250, 1500]}
    path = tmp_path / f"own.{kind}"
    if kind == "csv":
        rows = zip(*columns.values(), strict=True)
        write(tmp_path, "\n".join(",".join(map(str, r)) for r in (columns, *rows)), path.name)
    else:
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    if kind.endswith("gz"):
        write(tmp_path, gzip.compress(path.read_bytes()), path.name)
    names = dict(prompt="p", output="o", lower="lo", upper="hi", arrival_milliseconds="ms")
    trace = w.read_table(path, names)
    np.testing.assert_array_equal(
        [trace.prompt, trace.output, trace.lower, trace.upper], [[5, 6], [7, 8], [1, 8], [7, 9]]
    )
    np.testing.assert_array_equal(trace.arrival_seconds, [0.25, 1.5])
    assert w.read_table(path, dict(output="hi")).prompt is None


LINE = '{"input_toks": 128, "output_toks": 50, "arrival_time_ns": 7}'
HEAD = "arrived_at,num_prefill_tokens,num_decode_tokens\n"


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ("0,abc,1", ":3: column 'num_prefill_tokens': 'abc' is not an integer of at least 1"),
        ("0,1,abc", ":3: column 'num_decode_tokens': 'abc' is not an integer of at least 1"),
        ("0,1,-4", ":3: column 'num_decode_tokens': '-4' is not an integer of at least 1"),
        ("0,0,4", ":3: column 'num_prefill_tokens': '0' is not an integer of at least 1"),
        ("0,1,2.5", ":3: column 'num_decode_tokens': '2.5' is not"),
        ("0,1,", ":3: column 'num_decode_tokens': '' is not"),
        ("0,1,nan", ":3: column 'num_decode_tokens': 'nan' is not"),
        ("0,inf,1", ":3: column 'num_prefill_tokens': 'inf' is not"),
        ("0,1_0,1", ":3: column 'num_prefill_tokens': '1_0' is not"),
        ("0,\u0661,1", ":3: column 'num_prefill_tokens': '\u0661' is not"),
        ("0,1,2147483648", ":3: column 'num_decode_tokens': '2147483648' is not a number below"),
        ("nan,1,1", ":3: column 'arrived_at': 'nan' is not a finite number of at least 0"),
        ("-1,1,1", ":3: column 'arrived_at': '-1' is not a finite number"),
        ("x,1,1", ":3: column 'arrived_at': 'x' is not a finite number"),
        ("0,1", ":3: column 'num_decode_tokens': the line has 2 fields; expected 3"),
        ("0,1,1,1", ":3: column number 4: the line has 4 fields; expected 3"),
        ("", ":3: column 'arrived_at': the line has 0 fields; expected 3"),
        ('0,1,"1', ":3: malformed CSV"),
    ],
)
def test_malformed_rows_are_refused_with_file_line_and_column(
    tmp_path: Path, row: str, text: str
) -> None:
    last = "" if '"' in row else "\n2,3,3\n"
    path = write(tmp_path, f"{HEAD}0,1,1\n{row}{last}")
    for read in (w.read_trace, w.read_vidur):
        with pytest.raises(ValueError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}{text}")


def test_whole_floats_are_integers(tmp_path: Path) -> None:
    trace = w.read_vidur(write(tmp_path, HEAD + "0,12.0, 7\n"))
    assert (trace.prompt[0], trace.output[0]) == (12, 7)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        (HEAD, "has a header but no rows"),
        (b"\xff\xfe\x00", ":1: not UTF-8"),
        ("a,a\n1,2\n", ":1: column 'a' appears twice"),
        (gzip.compress(FILES["vidur"].encode(), mtime=0)[:-12], "damaged or ends early"),
        (gzip.compress(FILES["vidur"].encode(), mtime=0)[:5], "damaged or ends early"),
        (b"PAR1 and nothing of the kind", "malformed Parquet"),
        (
            '{"timestamp": 1,\n',
            ":1: column 17: malformed JSON .*; expected one whole object per line",
        ),
        ("[{}, 2]", ": item 2: 2 is not a JSON object"),
        ("[]", ": an empty JSON array"),
        ('{\n  "timestamp": 1\n}\n', ": one JSON object; expected one whole object per line"),
        ('{\n  "data": [{"a": 1}]\n}\n', ": one JSON object, whose 'data' holds objects; .* jq -c"),
        (HEAD.replace(",", ";") + "0;1;1\n", ":1: the header is separated by ';'; expected .* ','"),
        (HEAD.replace(",", "\t") + "0\t1\t1\n", r":1: the header is separated by '\\t'; expected"),
        ("\na,b\n1,2\n", ":1: an empty line; expected a header"),
        (f"{LINE}\n" + '{"b": 1}\n', ":2: column 'input_toks': missing, but line 1 has it"),
        (f"{LINE}\n[1]\n", r":2: '\[1\]' is not a JSON object"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: str | bytes, text: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=text) as caught:
        w.read_trace(path)
    assert str(caught.value).startswith(str(path))


def test_unknown_and_missing_columns_are_listed(tmp_path: Path) -> None:
    path = write(tmp_path, "time,in,out\n1,2,3\n")
    with pytest.raises(ValueError, match="columns time, in, out fit no known format; name them"):
        w.read_trace(path)
    expected = "'ContextTokens' is missing; expected the columns .* found time, in, out"
    with pytest.raises(ValueError, match=expected):
        w.read_azure(path)
    both = "input_tokens,output_tokens,num_prefill_tokens,num_decode_tokens\n1,2,3,4\n"
    with pytest.raises(ValueError, match="fit 2 formats; say .*format=vidur or format=servegen"):
        w.read_trace(write(tmp_path, both))


@pytest.mark.parametrize(
    ("columns", "edges", "text"),
    [
        (dict(outputs="out"), None, "unknown field 'outputs' .did you mean output?."),
        (dict(prompt="in"), None, "expected output"),
        (dict(output="out", lower="in"), None, "lower with upper"),
        (dict(output="out", predicted="in"), None, "expected edges with predicted"),
        (dict(output="out"), (0, 5), "expected edges with predicted"),
        (dict(output="out", arrival_seconds="in", arrival_milliseconds="in"), None, "one arrival"),
        (dict(output="out", lower="out", upper="in"), None, ":2: column 'in': 2 is less than 3"),
        (dict(output="out", predicted="in"), (0, 5), ":2: column 'in': '2' is not .* from 0 to 0"),
        (dict(output="out", arrival_timestamp="in"), None, "column 'in': '2' is not a time"),
    ],
)
def test_named_columns_refuse(tmp_path: Path, columns: dict, edges: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        w.read_table(write(tmp_path, "in,out\n2,3\n"), columns, edges=edges)


def test_typed_cells_are_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "own.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"o": [1.0, None], "b": [True, False]}), path)
    with pytest.raises(ValueError, match="own.parquet: row 2: column 'o': None is not an integer"):
        w.read_table(path, dict(output="o"))
    with pytest.raises(ValueError, match="row 1: column 'b': True is not an integer"):
        w.read_table(path, dict(output="b"))
    line = '{"timestamp": NaN, "input_length": 1, "output_length": 2}'
    with pytest.raises(ValueError, match=":1: column 'timestamp': nan is not a finite number"):
        w.read_mooncake(write(tmp_path, line))


def test_zero_outputs_are_refused_or_skipped_and_counted(tmp_path: Path) -> None:
    head = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    path = write(tmp_path, head + "1,G,5,5,10,A\n2,G,0,0,0,A\n3,G,7,0,7,A\n4,G,8,8,16,A\n")
    text = ":3: column 'Response tokens': '0' is not an integer of at least 1 .2 such rows"
    with pytest.raises(ValueError, match=text):
        w.read_burstgpt(path)
    trace = w.read_trace(path, zero_output="skip")
    assert (len(trace), trace.skipped) == (2, 2)
    np.testing.assert_array_equal(trace.prompt, [5, 8])
    np.testing.assert_array_equal(trace.line, [2, 5])
    with pytest.raises(ValueError, match=":3: .*'-1' is not an integer of at least 0"):
        w.read_trace(write(tmp_path, head + "1,G,5,5,10,A\n2,G,5,-1,4,A\n"), zero_output="skip")
    path = write(tmp_path, head + "1,G,5,5,10,A\n2,G,0,0,0,A\n")
    with pytest.raises(ValueError, match="zero_output is 'drop'"):
        w.read_burstgpt(path, zero_output="drop")
    with pytest.raises(ValueError, match="all rows are 0"):
        w.read_burstgpt(write(tmp_path, head + "2,G,0,0,0,A\n"), zero_output="skip")


def test_rows_are_sorted_by_arrival_stably(tmp_path: Path) -> None:
    trace = w.read_vidur(write(tmp_path, HEAD + "3,1,1\n1,2,2\n3,3,3\n1,4,4\n"))
    np.testing.assert_array_equal(trace.output, [2, 4, 1, 3])
    np.testing.assert_array_equal(trace.prompt, [2, 4, 1, 3])
    np.testing.assert_array_equal(trace.arrival_seconds, [1, 1, 3, 3])
    np.testing.assert_array_equal(trace.line, [3, 5, 2, 4])
    np.testing.assert_array_equal(trace.select(slice(1, 3)).line, [5, 2])
    assert trace.moved == 2


def test_a_last_line_without_a_newline_is_noted(tmp_path: Path) -> None:
    for content in (HEAD + "0,1,12", HEAD + "0,1,12\n"):
        trace = w.read_vidur(write(tmp_path, content))
        assert trace.unterminated == (content[-1] == "2")
    assert not w.read_mooncake(write(tmp_path, FILES["mooncake"].rstrip())).unterminated


def test_dates_keep_seven_digits_and_zones(tmp_path: Path) -> None:
    head = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    stamps = ("2024-05-10 00:00:00.0000001+00:00", "2024-05-10 02:00:00.0000003+02:00")
    trace = w.read_azure(write(tmp_path, head + "".join(f"{s},1,1\n" for s in stamps)))
    np.testing.assert_allclose(trace.arrival_seconds, [0, 2e-7], rtol=1e-9)
    with pytest.raises(ValueError, match=":2: column 'TIMESTAMP': '2024-13-10 00:00:00' is not a"):
        w.read_azure(write(tmp_path, head + "2024-13-10 00:00:00,1,1\n"))


def test_a_trace_as_an_instance(tmp_path: Path) -> None:
    trace = w.read_trace(write(tmp_path, FILES["vidur"]))
    instance = trace.instance(100, intervals=intervals.relative(0.5), rounds_per_second=10)
    np.testing.assert_array_equal(instance.arrival, [0, 5, 23])
    np.testing.assert_array_equal(instance.lower, [1, 2, 2])
    np.testing.assert_array_equal(instance.point, [3, 4, 5])
    short = trace.instance(
        100, intervals=intervals.random_around(width=3), key=KEY, limit=2, point=lambda k, o: o
    )
    assert short.n == 2 and short.arrival is None
    np.testing.assert_array_equal(short.point, [3, 4])
    fitting = trace.select(trace.prompt + trace.output <= 30)
    assert fitting.instance(30, intervals=intervals.relative(0.0)).n == 2


def test_instances_that_cannot_be_made(tmp_path: Path) -> None:
    trace = w.read_trace(write(tmp_path, FILES["vidur"]))
    relative = intervals.relative(0.5)
    with pytest.raises(ValueError, match=r"request 2: prompt \+ output is 35; .* memory = 30"):
        trace.instance(30, intervals=relative)
    with pytest.raises(ValueError, match="expected a source"):
        trace.instance(100)
    with pytest.raises(ValueError, match="limit is 4; expected 1 to the trace's 3 requests"):
        trace.instance(100, intervals=relative, limit=4)
    with pytest.raises(TypeError, match="limit is 2.5; expected a whole number"):
        trace.instance(100, intervals=relative, limit=2.5)
    with pytest.raises(ValueError, match="trace.csv: none of the 3 requests is left"):
        trace.select(trace.output > 5)
    with pytest.raises(TypeError, match="key: got NoneType"):
        trace.instance(100, intervals=intervals.random_around(width=3))
    with pytest.raises(ValueError, match="has prompts; expected no prompt="):
        trace.instance(100, intervals=relative, prompt=5)
    bare = w.read_trace(write(tmp_path, "input_tokens,output_tokens\n1,2\n"))
    with pytest.raises(ValueError, match="has no arrivals"):
        bare.instance(100, intervals=relative, rounds_per_second=1.0)
    without = w.read_table(write(tmp_path, "o\n3\n"), dict(output="o"))
    with pytest.raises(TypeError, match="prompt is 7.5; expected a whole number"):
        without.instance(100, intervals=relative, prompt=7.5)


def test_lengths_of_a_trace(tmp_path: Path) -> None:
    law = w.read_trace(write(tmp_path, FILES["azure"])).lengths()
    instance = w.make(KEY, lengths=law, intervals=intervals.relative(0.1), n=40, lanes=2, memory=40)
    np.testing.assert_array_equal(instance.prompt, 10 * (instance.output - 2))


def test_a_format_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = dict(prompt="asked", output="said", arrival_milliseconds="when")
    monkeypatch.setitem(w.traces.FORMATS, "mine", w.traces.Format(columns))
    path = write(tmp_path, "when,asked,said\n0,10,3\n500,20,4\n")
    for trace in (w.read_trace(path), w.read_mine(path), w.traces.read_mine(path)):
        assert trace.arrival_seconds.tolist() == [0, 0.5] and trace.prompt.tolist() == [10, 20]
    assert "read_mine" in dir(w)
    with pytest.raises(
        ValueError, match=r"nearest: mine \(without 'said'\); name them with read_ta"
    ):
        w.read_trace(write(tmp_path, "asked,when\n1,2\n"))
    with pytest.raises(AttributeError, match="no attribute 'read_yours'"):
        w.read_yours  # noqa: B018


def test_the_documentation_has_every_format() -> None:
    page = (Path(__file__).parent.parent / "docs" / "workloads.md").read_text()
    for row in w.traces.format_rows():
        assert f"| {' | '.join(row)} |" in page, "./scripts/check --fix puts it there"
