"""`jaxsched.vllm` inside vLLM against the simulator: `./scripts/test-vllm`, no GPU, no model.

The ordinary tests do not collect this file, which needs vLLM; they check that the simulator says
what is recorded here (tests/test_served.py).
"""

from __future__ import annotations

import importlib
import json
import logging
import random
import statistics
import tempfile
from typing import Any

import numpy as np
import pytest

import jaxsched as js
from tests import record_vllm
from tests.test_served import STREAMS as RULED
from tests.test_served import as_simulated, lines
from tests.test_vllm import STREAMS as PLAIN

OWN = """
import jaxsched as js
from jaxsched.policies.arithmetic import least, over, where

def longest_first(r):
    return -r.prompt - least(r.estimate, 50) + over(r.arrival, 3)

def most_held(r):
    return where(r.generated > r.lower, 2 * r.prompt, r.prompt - r.admitted) + r.evictions

mcf = js.mcf()
mixed = js.Policy("mixed", estimate=lambda r: r.point, admission_key=longest_first,
                  eviction_key=most_held, reserve=lambda r: over(r.estimate, 2) + r.generated,
                  headroom=lambda r: r.lower)
starving = js.Policy("starving", estimate=lambda r: 1, admission_key=lambda r: r.prompt,
                     reserve=lambda r: 1)

fails = js.Policy("fails", estimate=lambda r: 1, eviction_key=lambda r: 9 // (r.generated // 999))
"""
RULES = (
    *record_vllm.RULES, "svf:point", "svf:upper", "tuned:lmsys_classes", "tuned:sharegpt_one",
    "tuned:vllm_sharegpt_one_live", "tuned:vllm_sharegpt_relative_live",
    "remaining_volume", "remaining_volume:lower", "remaining_volume:age=20", "random_victim", "tie",
    "trail", "past_future", "a_max", "mc_sf", "no_evict", "fcfs:watermark=0.1",
    "a_min:random_ties", "a_min_family:start=0.3,admit_prompt=2,evict_progress=1,run_growth=1.5",
    "OWN:mcf", "OWN:mixed",
)  # fmt: skip
RESERVING = {"a_max", "no_evict", "fcfs:watermark=0.1"}
"""Policies that hardly ever preempt."""


@pytest.fixture(scope="session")
def model() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        yield record_vllm.model_in(folder)


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("own") / "own.py"
    path.write_text(OWN)
    return str(path)


@pytest.mark.parametrize("rule", RULES)
def test_it_does_what_was_simulated(rule: str, model: Any, own: str) -> None:
    rng = random.Random(rule)
    cases = [record_vllm.ruled_stream(rng, rule.replace("OWN", own)) for _ in range(12)]
    found = [record_vllm.recorded(case, model) for case in cases]
    simulated = [as_simulated(case) for case in cases]
    for case, one in zip(found, simulated, strict=True):
        assert one == {name: case[name] for name in one}
    preempted = sum(sum(case["preempted"]) for case in found)
    assert preempted > 0 or rule in RESERVING


def test_the_files_are_what_it_does(model: Any) -> None:
    for path in (PLAIN, RULED):
        for case in lines(path):
            assert json.loads(json.dumps(record_vllm.recorded(case, model))) == case


def backlog(n: int, rule: str | None) -> dict[str, Any]:
    """Requests of ShareGPT's lengths at once, on the papers' memory."""
    import jax

    drawn = js.workloads.make(
        jax.random.key(1), n=n, memory=16_480, lanes=1,
        lengths=js.workloads.embedded.sharegpt().truncated(max_total=4030),
        intervals=js.workloads.intervals.relative(0.5),
    )  # fmt: skip
    names = ("prompt", "output", "lower", "upper")
    columns = [np.asarray(getattr(drawn, name))[0].tolist() for name in names]
    worker = {"block": 16, "max_num_seqs": 256, "budget": 2048, "watermark": 0}
    case = {"blocks": 1030, "worker": worker, "policy": "fcfs"}
    if rule is None:
        return case | {"requests": [[0, p, o, 1] for p, o, _, _ in zip(*columns, strict=True)]}
    requests = [[0, p, o, low, high, high] for p, o, low, high in zip(*columns, strict=True)]
    return case | {"requests": requests, "rule": rule}


def test_it_costs_little(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside vLLM's own scheduler, in processor time of one process; equal to the simulator too."""
    rules = (None, "fcfs", "lcf", "svf:lower", "a_min:every_round", "tuned:sharegpt_relative")
    spent: dict[str | None, list[float]] = {rule: [] for rule in rules}
    found = {}
    for _ in range(5):
        for rule in rules:
            found[rule] = record_vllm.recorded(backlog(150, rule), model)
            spent[rule].append(record_vllm.seconds[-1])
    each = {}
    for rule in rules:
        scheduled = sum(request[2] for request in found[rule]["requests"])
        each[rule] = 1e6 * statistics.median(spent[rule]) / scheduled
        with capsys.disabled():
            name = rule or "vLLM's own fcfs"
            print(
                f"\n{name:24} {each[rule]:6.1f} us a token, {each[rule] / each[None]:.2f}", end=""
            )
        if rule is not None:
            simulated = as_simulated(found[rule])
            assert simulated == {name: found[rule][name] for name in simulated}
    assert all(found["fcfs"][name] == found[None][name] for name in ("first", "done", "preempted"))
    assert max(each.values()) <= 1.2 * each[None]


def test_a_policy_that_fails_is_followed_by_fcfs_and_said_once(
    model: Any, own: str, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("vllm").propagate = True
    case = record_vllm.ruled_stream(random.Random(11), f"{own}:fails")
    found = record_vllm.recorded(case, model)
    assert min(found["done"]) > 0 and sum(found["preempted"]) > 0
    said = [x for x in caplog.records if "served by fcfs from now on" in x.getMessage()]
    assert len(said) == 1 and said[0].exc_info[0] is ZeroDivisionError


def test_nobody_waits_for_longer_than_max_wait_while_others_are_served(
    model: Any, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The least prompt first: a long prompt waits for the end of a stream of short ones."""
    from jaxsched.vllm import scheduler

    requests = [[0, 20, 5, 1, 9, 5], *([t // 2, 10, 6, 1, 9, 5] for t in range(200))]
    requests.sort(key=lambda request: request[0])
    worker = {"block": 1, "max_num_seqs": 4, "budget": 64, "watermark": 0}
    case = {"blocks": 26, "worker": worker, "policy": "fcfs", "requests": requests}
    case["rule"] = f"{own}:starving"
    starved = record_vllm.recorded(case, model)
    assert starved["first"][0] > 300

    calls = iter(range(10**9))
    monkeypatch.setattr(scheduler._Chosen, "now", staticmethod(lambda: next(calls) / 1000))
    capped = record_vllm.recorded(case | {"settings": {"max_wait": 0.1}}, model)
    assert capped["first"][0] < 100


def test_a_request_tells_what_is_predicted_or_a_predictor_does(
    model: Any, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.request import Request

    from jaxsched import cli

    words = ["predict", "train", "configs/predictor_sharegpt.toml", "--data", "sample", "--columns",
             "prompt=num_prefill_tokens,output=num_decode_tokens"]  # fmt: skip
    assert cli.main([*words, "--out", str(tmp_path / "p")]) == 0
    settings = {"predictor": str(tmp_path / "p"), "level": 0.3, "coverage": 0.8}
    case = record_vllm.ruled_stream(random.Random(3), "svf:lower") | {"settings": settings}
    scheduler = record_vllm.scheduler_of(case, model)

    def seen(extra: dict[str, Any] | None) -> tuple[int, int, int]:
        sampling = SamplingParams(max_tokens=70, extra_args=extra)
        request = Request("a", [3] * 40, sampling, None, arrival_time=0.0)
        found = scheduler.seen(request)
        return found.lower, found.upper, found.point

    assert seen({"jaxsched_lower": 7, "jaxsched_upper": 9, "jaxsched_point": 8}) == (7, 9, 8)
    assert seen({"jaxsched_lower": "7"}) == (7, 70, 70)
    kept = js.predict.load(tmp_path / "p")
    lower, (_, upper) = kept.lower(np.array([40]), 0.3), kept.interval(np.array([40]), 0.8)
    assert seen(None)[:2] == (lower[0], max(lower[0], upper[0]))
    assert seen({"jaxsched_lower": -1}) == (1, 70, 70)
    assert seen({"jaxsched_lower": 1.5}) == (1, 70, 70)
    assert sum("cannot be used" in x.getMessage() for x in caplog.records) == 1


def test_what_needs_more_than_one_request_is_refused(model: Any) -> None:
    case = record_vllm.ruled_stream(random.Random(3), "fcfs")
    for rule, why in {
        "svf:output": "true output", "sorted_f:lower": "orders a whole backlog",
        "gsa_spec": "after a quantum|whole backlog|true output", "best:hindsight": "in hindsight",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=why):
            record_vllm.scheduler_of(case | {"rule": rule}, model)


def test_an_asynchronous_engine_serves_everybody(model: Any, monkeypatch: Any) -> None:
    """vLLM's default runs one step ahead; here, with what it has planned two calls ago."""
    from vllm.sampling_params import SamplingParams
    from vllm.v1.outputs import ModelRunnerOutput
    from vllm.v1.request import Request

    import jaxsched.vllm

    monkeypatch.setattr(jaxsched.vllm, "Scheduler", jaxsched.vllm.AsyncScheduler, raising=False)
    for seed in range(8):
        case = record_vllm.ruled_stream(random.Random(seed), "svf:lower")
        scheduler, plans, made = record_vllm.scheduler_of(case, model), [], []
        for i, (_, prompt, output, *told) in enumerate(case["requests"]):
            extra = dict(zip(record_vllm.PREDICTED, told, strict=True))
            sampling = SamplingParams(max_tokens=output, ignore_eos=True, extra_args=extra)
            made.append(Request(str(i), [3] * prompt, sampling, None, arrival_time=0.0))
            scheduler.add_request(made[-1])
        for _ in range(20_000):
            if not scheduler.has_unfinished_requests():
                break
            plans.append(scheduler.schedule())
            if len(plans) > 1 or not plans[-1].total_num_scheduled_tokens:
                plan = plans.pop(0)
                ids = list(plan.num_scheduled_tokens)
                whole = [not made[int(x)].is_prefill_chunk for x in ids]
                out = ModelRunnerOutput(
                    req_ids=ids, req_id_to_index={x: k for k, x in enumerate(ids)},
                    sampled_token_ids=[[5] if w else [] for w in whole], logprobs=None,
                    prompt_logprobs_dict={}, pooler_output=[],
                )  # fmt: skip
                scheduler.update_from_output(plan, out)
        assert [x.num_output_tokens for x in made] == [x[2] for x in case["requests"]]
    assert sum(x.num_preemptions for x in made) > 0


def test_moved_internals_are_an_error_that_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.core.sched import scheduler as vllm_scheduler

    from jaxsched.vllm import scheduler

    assert scheduler.VERSION in scheduler.TRIED and scheduler.moved() == []

    def schedule(self: Any) -> None:
        """Another one."""

    monkeypatch.setattr(vllm_scheduler.Scheduler, "schedule", schedule)
    with pytest.raises(ImportError, match=r"does not fit vLLM 0\.33.*allocate_slots"):
        importlib.reload(scheduler)
    monkeypatch.undo()
    importlib.reload(scheduler)


def test_vllm_serve_finds_the_class(model: Any) -> None:
    """The words of docs/vllm.md, as far as they lead without a GPU: to the class, configured."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.common.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    given = parser.parse_args([
        "--model", str(model.model), "--skip-tokenizer-init", "--no-async-scheduling",
        "--no-enable-prefix-caching", "--scheduler-cls", "jaxsched.vllm.Scheduler",
        "--additional-config", '{"jaxsched": "tuned:sharegpt_relative"}',
    ])  # fmt: skip
    config = AsyncEngineArgs.from_cli_args(given).create_engine_config()
    found = config.scheduler_config.get_scheduler_cls()
    assert (found.__module__, found.__name__) == ("jaxsched.vllm.scheduler", "Scheduler")
    assert config.additional_config == {"jaxsched": "tuned:sharegpt_relative"}
