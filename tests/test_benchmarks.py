"""The benchmarks run on tiny settings and write a table; nothing here is about speed."""

from __future__ import annotations

import itertools
import json
import sys

import numpy as np
import pytest

pytest.importorskip("numba")

from benchmarks import __main__ as benchmarks
from benchmarks import (
    accelerator,
    engines,
    growth,
    hlo,
    instances,
    loop,
    peer,
    relaxation,
    steps,
    targets,
    timing,
    tricks,
)
from benchmarks.report import Report
from benchmarks.scale import Scale
from benchmarks.section import Section

TINY = Scale(
    n=6,
    memory=16_492,
    lanes=(1, 2),
    wide=2,
    policies=("a_min:on_eviction",),
    settings=("one interval", "ten classes"),
    some=("a_min:on_eviction",),
    repeats=1,
    seconds=0.0,
    growth_n=(6, 8),
    growth_lanes=2,
    factors=((1, 1), (2, 2)),
)


@pytest.fixture(scope="module")
def report() -> Report:
    sections = (
        engines.ENGINES, engines.REFERENCE, growth.GROWTH, growth.UNEVEN, loop.LOOP,
        steps.STEPS, tricks.TRICKS, relaxation.RELAXATION, accelerator.ACCELERATOR,
    )  # fmt: skip
    return benchmarks.measure(sections, TINY, "python -m benchmarks")


def test_every_table_has_its_rows(report):
    assert not report.failures
    counts = {name: len(rows) for name, rows in report.results.items()}
    assert counts == {
        "engines": 4,
        "reference": 1,
        "growth": 6,
        "uneven": 2,
        "loop": 2,
        "steps": 1,
        "tricks": 3,
        "relaxation": 1,
        "accelerator": 1,  # that there is none
    }
    rows = report.results["engines"] + report.results["reference"]
    assert all(row["equal"] == "equal" for row in rows)


def test_the_report_renders(report, tmp_path):
    path = report.save(tmp_path, "tiny")
    text = path.read_text()
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")
    assert "| a_min:on_eviction | one interval | 2 |" in text
    assert "JAX finds no GPU or TPU here" in text
    raw = json.loads(path.with_suffix(".json").read_text())
    assert raw["results"]["engines"][0]["policy"] == "a_min:on_eviction"
    assert raw["facts"]["command"] == "python -m benchmarks"


def test_targets_say_what_was_missed():
    common = {"policy": "h_sf", "setting": "x", "outputs": 1, "memory": 10}
    results = {
        "uneven": [{"engine": "jax", "ratio": 0.9}, {"engine": "native", "ratio": 0.5}],
        "growth": [
            {**common, "n": 2000, "jax_us": 2.0, "native_us": 2.0},
            {**common, "n": 100_000, "jax_us": 5.0, "native_us": 3.0},
        ],
    }
    lines = {line[0]: line[1:] for line in targets.table(results)}
    assert lines["uneven lanes in one batch against even ones, throughput"] == [
        "≥ 0.8×", "0.9× met", "0.5× **missed**"
    ]  # fmt: skip
    many = lines["time per request, n = 100,000 against 2,000"]
    assert many == ["≤ 1.5×", "2.5× **missed**", "1.5× met"]


def test_a_failing_job_does_not_stop_the_others():
    def fail():
        raise OSError("no such thing")

    jobs = [engines.Job("bad", fail), engines.Job("good", lambda: [{"name": "x"}])]
    section = Section("some", "Some", "Note.", {"name": ("name", "s")}, lambda scale: jobs)
    report = benchmarks.measure((section,), TINY, "")
    assert report.failures == {"some: bad": "OSError: no such thing"}
    assert report.results == {"some": [{"name": "x"}]}


def test_contenders_take_turns():
    order = []
    runs = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    times = timing.interleave(runs, repeats=2, seconds=100.0)
    turns = [name for name, _ in itertools.groupby(order)]
    assert turns == ["a", "b", "a", "b", "a", "b"]
    assert times["a"].repeats == 2


def test_scaled_intervals_hold_the_truth():
    for setting in instances.SETTINGS:
        instance = instances.draw(setting, 3, 20, 8 * 16_492, outputs=8)
        assert np.all(instance.lower <= instance.output)
        assert np.all(instance.output <= instance.upper)


def test_lanes_are_dealt_out_alternately():
    a, b = (instances.draw(setting, 2, 5, 16_492) for setting in list(instances.SETTINGS)[:2])
    mixed = instances.join(a, b)
    assert np.array_equal(mixed.upper[0::2], a.upper)
    assert np.array_equal(mixed.upper[1::2], b.upper)


def test_kernels_of_a_loop_are_counted():
    text = """
%body.1 (p: (s32[4], s32[100])) -> (s32[4], s32[100]) {
  %p = (s32[4]{0}, s32[100]{0}) parameter(0)
  %a = s32[4]{0} get-tuple-element(%p), index=0
  %t = s32[100]{0} get-tuple-element(%p), index=1
  %f = s32[4]{0} fusion(%a, %t), kind=kLoop, calls=%g
  %c = s32[4]{0} copy(%f)
  ROOT %r = (s32[4]{0}, s32[100]{0}) tuple(%c, %t)
}

ENTRY %main (x: (s32[4], s32[100])) -> (s32[4], s32[100]) {
  ROOT %while.1 = (s32[4]{0}, s32[100]{0}) while(%x), condition=%cond, body=%body.1
}
"""
    assert hlo.largest_loop(text, table=100) == hlo.Loop(fusions=1, copies=1, others=0, bytes=64)


def test_a_missing_peer_is_said_plainly(monkeypatch):
    monkeypatch.setenv(peer.PYTHON, sys.executable)
    if not peer.PEER.jobs(TINY):
        pytest.skip("no affinity on this system")
    ours, theirs = peer.PEER.jobs(TINY)[0].run()
    assert ours["requests"] == 6
    assert "seconds" in theirs or "DynoSim is not there" in theirs["note"]


def test_the_accelerator_table_is_ready_to_run():
    (row,) = accelerator._row(TINY, "a_min:on_eviction", "one interval", 2)
    assert row["equal"] == "equal"
    assert set(accelerator.ACCELERATOR.columns) - {"note"} <= set(row)
