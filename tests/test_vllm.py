"""The worker of vLLM against vLLM's own scheduler, version 0.33.0: streams that it was run on.

`tests/record_vllm.py` made them.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import jaxsched as js
from jaxsched.engines import reference

STREAMS = Path(__file__).parent / "data" / "vllm_0_33.jsonl.gz"
POLICIES = {"fcfs": js.fcfs(), "priority": js.priority()}


def streams():
    with gzip.open(STREAMS, "rt") as file:
        return [json.loads(line) for line in file]


def instance_of(case):
    arrival, prompt, output, priority = np.array(case["requests"]).T
    return js.Instance(
        prompt=prompt, output=output, lower=output, upper=output, point=priority, arrival=arrival,
        memory=case["blocks"] * case["worker"]["block"],
    )  # fmt: skip


def test_they_are_of_many_kinds():
    cases = streams()
    assert len(cases) == 48 and sum(len(case["requests"]) for case in cases) == 725
    assert sum(max(case["preempted"]) > 0 for case in cases) == 30
    assert {case["worker"]["block"] for case in cases} == {1, 3, 16}
    assert {case["policy"] for case in cases} == set(POLICIES)


def test_the_reference_does_what_vllm_did():
    for case in streams():
        requests = [
            reference.Request(prompt, output, output, output, arrival, priority)
            for arrival, prompt, output, priority in case["requests"]
        ]
        memory = case["blocks"] * case["worker"]["block"]
        worker = reference.Blocks(**case["worker"])
        found = reference.simulate(requests, memory, POLICIES[case["policy"]], worker=worker)
        assert found.completion == case["done"]
        assert found.first_token == case["first"]
        assert found.computed == case["computed"]
        assert [len(own) - 1 for own in found.admissions] == case["preempted"]


ENGINES = [
    pytest.param(
        "native",
        marks=pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="no numba"),
    ),
]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_does_what_vllm_did(engine):
    for case in streams():
        worker = js.workers.vllm(**case["worker"])
        found = js.simulate(
            instance_of(case), POLICIES[case["policy"]], worker=worker, engine=engine
        )
        assert found.completion.tolist() == case["done"]
        assert found.first_token.tolist() == case["first"]
        assert found.preemptions.tolist() == case["preempted"]
        lengths = np.array(case["requests"])[:, 1:3].sum()
        fresh = lengths - len(case["requests"])  # the last token of each is never computed
        assert found.wasted_tokens == sum(case["computed"]) - fresh
