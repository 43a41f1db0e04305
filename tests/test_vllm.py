"""The worker of vLLM against vLLM's own scheduler, version 0.33.0: streams that it was run on.

`tests/record_vllm.py` made them.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxsched as js
from jaxsched.engines import reference
from jaxsched.metrics import chunks

STREAMS = Path(__file__).parent / "data" / "vllm_0_33.jsonl.gz"
POLICIES = {"fcfs": js.fcfs(), "priority": js.priority()}


def streams():
    with gzip.open(STREAMS, "rt") as file:
        return [json.loads(line) for line in file]


def batch(cases):
    """The streams as lanes, and the worker of each."""
    width = max(len(case["requests"]) for case in cases)
    columns = np.ones((4, len(cases), width), np.int32)
    columns[0] = 0
    for lane, case in enumerate(cases):
        columns[:, lane, : len(case["requests"])] = np.array(case["requests"]).T
    arrival, prompt, output, priority = columns
    instance = js.Instance(
        prompt=prompt, output=output, lower=output, upper=output, point=priority, arrival=arrival,
        memory=np.array([case["blocks"] * case["worker"]["block"] for case in cases]),
        num_requests=np.array([len(case["requests"]) for case in cases]),
    )  # fmt: skip
    names = ("block", "max_num_seqs", "budget")
    numbers = {name: np.array([case["worker"][name] for case in cases]) for name in names}
    return instance, js.workers.vllm(**numbers)


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


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("engine", ["native", "jax"])
def test_an_engine_does_what_vllm_did(engine, policy):
    cases = [case for case in streams() if case["policy"] == policy]
    instance, worker = batch(cases)
    result = js.simulate(instance, POLICIES[policy], worker=worker, engine=engine, history=True)
    found = jax.tree.map(np.asarray, result)
    for lane, case in enumerate(cases):
        n = len(case["requests"])
        assert found.completion[lane, :n].tolist() == case["done"]
        assert found.first_token[lane, :n].tolist() == case["first"]
        assert found.preemptions[lane, :n].tolist() == case["preempted"]
        # the last token of each is never computed
        fresh = np.array(case["requests"])[:, 1:3].sum() - n
        assert found.wasted_tokens[lane] == sum(case["computed"]) - fresh
        own = js.workers.vllm(**case["worker"])
        memory = case["blocks"] * case["worker"]["block"]
        load = chunks.round_loads(chunks.stays(instance, result, lane), own, memory)
        computed = load.prompt_tokens + load.decodes
        assert computed[computed > 0].tolist() == case["computed"]  # nobody is there in the others
