"""The native engine against the reference, request by request, and its invariants at full size."""

from __future__ import annotations

import importlib
import random
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import jaxsched as js
from jaxsched.cli import program
from jaxsched.engines.reference import Request
from jaxsched.machine import optional
from jaxsched.testing import KINDS as INSTANCES
from tests.native_oracle import (
    KINDS,
    NUMBERS,
    PLAIN,
    arrays_of,
    draw,
    expect_equal,
    large,
    native,
    run,
    same,
)


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("instances", INSTANCES)
def test_equals_the_reference(kind, instances):
    expect_equal(kind, draw(instances, instances, 4 if instances == "long_outputs" else 25))


@pytest.mark.parametrize("kind", PLAIN)
def test_equals_the_reference_under_limits(kind):
    for instances in ("wrong_intervals", "scattered_arrivals", "exact_intervals", "ties"):
        batch = draw(kind + instances, instances, 20)
        rng = random.Random(kind)
        for i in range(5):
            expect_equal(kind, batch[i::5], max_rounds=rng.randint(0, 80))
        expect_equal(kind, batch, max_batch=rng.randint(1, 5))


@pytest.mark.parametrize("kind", PLAIN)
def test_worked_example(kind):
    requests = [Request(2, 4, 2, 5, 0, 4), Request(1, 6, 1, 8, 0, 4), Request(3, 2, 1, 4, 0, 4),
                Request(1, 3, 3, 3, 0, 4)]  # fmt: skip
    expect_equal(kind, [(requests, 9)])


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("span", [0, 3_000])
def test_invariants_at_full_size(kind, span):
    batch = large(span=span)
    got = run(kind, **batch)
    tokens = batch["output"] * batch["prompt"] + batch["output"] * (batch["output"] + 1) // 2
    assert (got.status == 0).all()
    assert (got.completion >= batch["arrival"] + batch["output"]).all()
    assert (got.first_admission >= batch["arrival"]).all()
    assert (got.total_latency == (got.completion - batch["arrival"]).sum(1)).all()
    assert (got.rounds == got.completion.max(1)).all()
    assert (got.peak_memory <= batch["memory"]).all()
    assert (got.evictions == got.preemptions.sum(1)).all()
    assert (got.memory_time >= tokens.sum(1)).all()
    once = got.preemptions == 0
    final = got.completion - batch["output"]
    assert (final[once] == got.first_admission[once]).all()
    if kind in ("h_sf", "svf:output"):
        assert (used(batch, final).max(1) == got.peak_memory).all()
        assert (got.memory_time == tokens.sum(1)).all()


def used(batch, start):
    """Memory in use in every round, of shape [lanes, rounds], if nothing is evicted."""
    result = []
    for prompt, output, begin in zip(batch["prompt"], batch["output"], start, strict=True):
        change = np.zeros((2, (begin + output).max() + 2), np.int64)
        np.add.at(change[0], begin, prompt)  # steps
        np.add.at(change[0], begin + output, -prompt - output)
        np.add.at(change[1], begin, 1)  # slopes
        np.add.at(change[1], begin + output, -1)
        result.append(np.cumsum(change[0]) + np.cumsum(np.cumsum(change[1])))
    width = max(map(len, result))
    return np.stack([np.pad(row, (0, width - len(row))) for row in result])


def test_a_ring_shorter_than_the_outputs():
    batch = large(n=200, memory=500_000, lanes=1, longest=300)
    batch["output"] = batch["output"] * 900  # up to 270,000: laps of the ring of 65,536
    exact = run("h_sf", **batch)
    late = batch | {"arrival": np.where(np.arange(200) == 199, 1, 0)[None]}  # no scan
    assert exact.status == 0
    got = run("h_sf", **late)
    assert got.status == 0 and got.evictions == 0
    assert got.memory_time == exact.memory_time


@pytest.mark.parametrize("kind", PLAIN)
def test_a_backlog_may_arrive_late(kind):
    """The scan over an exact order and the event loop agree; so do shifted clocks."""
    batch = large(n=500, lanes=2)
    late = run(kind, **batch | {"arrival": batch["arrival"] + 1_000})
    now = run(kind, **batch)
    assert (late.completion == now.completion + 1_000).all()
    assert (run(kind, **batch, max_batch=500).completion == now.completion).all()
    limited = run(kind, **batch, max_rounds=int(now.rounds.max()))
    assert (limited.completion == now.completion).all()


def test_threads_and_callers_do_not_disturb_each_other(monkeypatch):
    batch = large(n=300, lanes=40)
    with monkeypatch.context() as alone_only:
        alone_only.setattr(native, "cores", lambda: 1)
        alone = run("a_min:on_eviction", **batch)
    monkeypatch.setattr(native, "cores", lambda: 4)
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(run, "a_min:on_eviction", **batch) for _ in range(8)]
    assert all(same(alone, call.result()) for call in calls)


def test_lanes_to_pass_over_are_marked_and_leave_the_others_alone():
    good = draw(1, "ties", 1)[0]
    arrays = arrays_of([good] * 3)
    arrays["num_requests"][1] = -1
    got = run("h_sf", **arrays)
    assert got.status.tolist() == [0, 2, 0]
    assert (got.completion[1] == -1).all()
    assert (got.completion[0] == got.completion[2]).all()


def test_an_empty_lane_is_finished():
    one = np.ones((1, 1), np.int32)
    got = run("h_sf", prompt=one, output=one, lower=one, upper=one, memory=2, num_requests=0)
    assert (got.status, got.completion, got.rounds) == (0, -1, 0)


def test_one_program_serves_every_policy_and_kind_of_array():
    one = np.ones((1, 1), np.int64)
    fields = dict(prompt=one, output=one, lower=1, upper=one, point=[[1]], memory=[2])
    for kind in KINDS:
        run(kind, **fields, headroom=1, history=3, clock=np.ones((1, 6), np.int32),
            params=np.zeros(len(NUMBERS.get(kind, [0])), np.int32))  # fmt: skip
        run(kind, **fields)
    instance = js.Instance(prompt=[1], output=[1], lower=[1], upper=[1], memory=2)
    for policy in (js.gsa_spec(), js.sorted_f()):
        js.simulate(instance, policy, engine="native")
    read_only = np.broadcast_to(np.int32(1), (1, 1))
    run("h_sf", **fields | {"prompt": read_only, "output": np.asfortranarray(read_only)})
    assert len(native.lanes.run_lanes.signatures) == 1


def test_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "jaxsched.engines.cpu")
    with pytest.raises(ImportError, match=r"needs numba.*pip install numba"):
        importlib.import_module("jaxsched.engines.cpu")


def test_the_next_process_finds_what_is_compiled():
    """Numba's key has what is in the closure; a compiled function there is new in each process."""
    from jaxsched.engines.cpu.lanes import run_block_lanes, run_lanes  # noqa: PLC0415 - needs numba

    for entry in (run_lanes, run_block_lanes):
        assert [type(cell.cell_contents) for cell in entry.py_func.__closure__] == [int]


def test_one_line_tells_that_numba_is_missing(monkeypatch, capsys):
    simulating = importlib.import_module("jaxsched.simulate")
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "jaxsched.engines.cpu")
    monkeypatch.delattr(importlib.import_module("jaxsched.engines"), "cpu", raising=False)
    for cached in (optional.can_import, simulating._say_once):
        cached.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = program._say
        engines = [simulating.engine_for("auto", js.policy(name)) for name in ("fcfs", "a_max")]
    optional.can_import.cache_clear()
    assert engines == ["jax", "jax"]
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("jaxsched: numba cannot be imported, so the JAX engine runs, 10 to 50 t")
