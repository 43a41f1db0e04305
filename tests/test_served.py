"""Policies inside vLLM's scheduler: the simulator says what they did; what needs no vLLM of them.

`tests/record_vllm.py --policies` made the file; `./scripts/test-vllm` compares anew.
"""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxsched as js
from jaxsched.engines import reference
from jaxsched.vllm.decisions import Decisions, Seen
from jaxsched.vllm.settings import ServingSettings, prediction_of, serving_settings
from tests.record_vllm import RULES

STREAMS = Path(__file__).parent / "data" / "vllm_policies_0_33.jsonl.gz"


def lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


def as_simulated(case: dict[str, Any]) -> dict[str, list[int]]:
    """What the simulator says of a stream, under a clock whose rounds last a second each."""
    numbers = np.array(case["requests"]).T
    names = ("prompt", "output", "lower", "upper", "point")
    fields = dict(zip(names, numbers[1:], strict=True))
    instance = js.Instance(
        **fields, arrival=numbers[0].astype(float), memory=case["blocks"] * case["worker"]["block"]
    )
    found = js.simulate(
        instance, js.policy(case["rule"]), worker=js.workers.vllm(**case["worker"]),
        clock=js.Clock(fixed=1.0),
    )  # fmt: skip
    return {
        "first": found.first_token_seconds.astype(int).tolist(),
        "done": found.completion_seconds.astype(int).tolist(),
        "preempted": np.asarray(found.preemptions).tolist(),
    }


@pytest.mark.parametrize("rule", RULES)
def test_the_simulator_says_what_a_policy_did_inside_vllm(rule: str) -> None:
    cases = [case for case in lines(STREAMS) if case["rule"] == rule]
    assert len(cases) == 4 and any(sum(case["preempted"]) for case in cases)
    for case in cases:
        simulated = as_simulated(case)
        assert simulated == {name: case[name] for name in simulated}


def test_vllm_is_imported_only_when_a_class_is_asked_for() -> None:
    code = (
        "import sys, jaxsched, jaxsched.vllm\n"
        "assert not {'vllm', 'torch'} & set(sys.modules)\n"
        "sys.modules['vllm'] = None\n"
        "try: jaxsched.vllm.Scheduler\n"
        "except ImportError as error: print(error)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ".[vllm]" in found.stdout


def test_settings() -> None:
    both = {"JAXSCHED_POLICY": "lcf", "JAXSCHED_MAX_WAIT": "30"}
    assert serving_settings({}, both) == ServingSettings("lcf", max_wait=30.0)
    assert serving_settings({"jaxsched": "svf:lower"}, both).policy == "svf:lower"
    own = {"jaxsched": {"policy": "a_min", "level": 0.5}}
    assert serving_settings(own, {}) == ServingSettings("a_min", level=0.5)
    for config, environment, why in (
        ({}, {}, "no policy: set JAXSCHED_POLICY"),
        ({"jaxsched": {"policy": "lcf", "levle": 0.5}}, {}, "did you mean level"),
        ({"jaxsched": {"policy": "lcf", "level": 2.0}}, {}, "level"),
        ({}, {"JAXSCHED_POLICY": "lcf", "JAXSCHED_MAX_WAIT": "soon"}, "JAXSCHED_MAX_WAIT"),
    ):
        with pytest.raises(ValueError, match=why):
            serving_settings(config, environment)


def test_the_prediction_of_a_request() -> None:
    assert prediction_of(None, 90) is None and prediction_of({"other": 1}, 90) is None
    assert prediction_of({"jaxsched_lower": 100}, 90) == (100, 100, 100)
    assert prediction_of({"jaxsched_upper": 50.0, "jaxsched_point": "20"}, 90) == (1, 50, 20)
    for wrong in ({"jaxsched_lower": 0}, {"jaxsched_point": "x"}, {"jaxsched_upper": True},
                  {"jaxsched_lower": 9, "jaxsched_upper": 8}):  # fmt: skip
        with pytest.raises(ValueError, match="jaxsched_"):
            prediction_of(wrong, 90)


@pytest.mark.parametrize(
    ("policy", "why"),
    [(js.svf("output"), "true output"), (js.sorted_f("lower"), "whole backlog"),
     (js.gsa_spec(), "quantum"), (js.policy("best:hindsight"), "hindsight")],
)  # fmt: skip
def test_a_policy_that_needs_more_than_one_request_is_refused(policy: js.Policy, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Decisions(policy, 10, 16)


@pytest.mark.parametrize("rule", ["a_max", "tuned:sharegpt_relative", "fcfs:watermark=0.3"])
def test_decisions_are_those_of_the_reference(rule: str) -> None:
    """Victim and look-ahead test, of states that the reference is put into."""
    rng, policy, fitting, victims = random.Random(rule), js.policy(rule), [], set()
    for _ in range(120):
        n, block = rng.randint(1, 9), rng.choice((1, 3, 16))
        requests = []
        for _ in range(n + 1):
            prompt, lower = rng.randint(1, 60), rng.randint(1, 40)
            requests.append(reference.Request(prompt, 50, lower, lower + rng.randint(0, 40), 0, 30))
        held = [rng.randint(0, 49) for _ in requests]
        full = sum(-(-(r.prompt + k) // block) for r, k in zip(requests, held, strict=True))
        blocks = full + rng.randint(0, 2 + 150 // block)
        args = (requests, blocks * block, policy, None, False, reference.Blocks(block))
        judge, decisions = reference.model._BlockWorker(*args), Decisions(policy, blocks, block)
        seen = []
        for i, request in enumerate(requests):
            told = (request.lower, request.upper, request.point)
            seen.append(Seen(i, 0, request.prompt, told))
            decisions.arrive(seen[i])
            judge.generated[i] = seen[i].generated = tokens = held[i]
            if i < n:  # all of it has been computed
                judge.active[i], seen[i].admitted = i // 2, i // 2
                judge.cached[i] = request.prompt + tokens
        fitting.append(judge.fits(n, 9))
        assert decisions.fits(seen[n], seen[:n]) == fitting[-1]
        first = max if policy.evict_largest else min
        victim = first(judge.active, key=lambda i, judge=judge: judge.eviction_key(i, 9))
        assert decisions.victim(seen[:n]) == victim
        victims.add(victim)
    assert len(set(fitting)) == 2 and len(victims) > 4


def test_who_has_waited_too_long_goes_first_and_leaves_last() -> None:
    decisions = Decisions(js.a_max(), 10, 16)
    seen = [Seen(i, i, 10, (9 - i, 9 - i, 1)) for i in range(3)]
    for each in seen:
        decisions.arrive(each)
    assert decisions.victim(seen) == 2
    seen[2].overdue = True
    assert decisions.victim(seen) == 1
    assert min(seen, key=decisions.admission_key) is seen[2]
    assert decisions.fits(seen[2], seen)


def test_a_policy_that_fails_is_fcfs_from_then_on(caplog: pytest.LogCaptureFixture) -> None:
    failing = js.Policy(
        "failing", estimate=lambda r: 1, eviction_key=lambda r: 6 // (r.generated - 2)
    )
    reordered = []
    decisions = Decisions(failing, 10, 16, lambda: reordered.append(decisions.policy.name))
    seen = [Seen(i, i, 10, (1, 9, 9)) for i in range(3)]
    for place, each in enumerate(seen):
        decisions.arrive(each)
        each.admitted, each.generated = place, place
    for _ in range(2):
        assert decisions.victim(seen) == 2
    assert reordered == ["fcfs"]
    assert [x.getMessage() for x in caplog.records] == [
        "policy failing failed; requests are served by fcfs from now on"
    ]
