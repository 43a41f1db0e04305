"""The worker of a serving engine in the engines, against the reference: all of `Result`."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsched as js
from jaxsched import workers
from jaxsched.instance import MAX_ROUND
from jaxsched.machine.optional import can_import
from jaxsched.policies import Policy
from jaxsched.policies.arithmetic import over, where
from jaxsched.testing import (
    KINDS,
    as_arrays,
    check_result,
    in_whole_blocks,
    random_requests,
    random_worker,
)
from jaxsched.testing.contract import WIDTH
from jaxsched.workers import Worker
from tests import oracle
from tests.test_clock import random_clock

LANES = 28

ENGINES = ["jax", *(["native"] if can_import("jaxsched.engines.cpu") else [])]


# ---- a policy of one's own, with all there is, and one that only JAX can run


def halfway(r: Any) -> Any:
    return over(r.lower + r.upper, 2)


def few_left(r: Any) -> Any:
    """Reads the tokens that a waiting request has kept."""
    return r.estimate + 2 * r.evictions - r.generated


def part_of_output(r: Any) -> Any:
    return over(2 * r.estimate, 3) + r.generated


def least_done(r: Any) -> Any:
    """Moves in every round."""
    return 3 * r.generated - r.admitted + over(r.prompt, 2)


def share(r: Any) -> Any:
    return where(r.prompt > 2, over(r.memory, 4), 0) + r.generated


def slice_of(r: Any) -> Any:
    return over(r.estimate, 2) + r.evictions + 2


def in_floats(r: Any) -> Any:
    return jnp.floor(jnp.asarray(r.lower, jnp.float64) * 1.5 + 0.25).astype(jnp.int64)


OWN = Policy(
    "own", estimate=halfway, admission_key=few_left, reserve=part_of_output,
    eviction_key=least_done, headroom=share, quantum=slice_of, evict_largest=True,
)  # fmt: skip

FLOATS = Policy("floats", estimate=in_floats)

FAMILY = js.a_min_family(
    js.FamilyParams(
        admit_prompt=0.3, run_growth=0.5, evict_growth=0.2, admit_estimate=0.5, progress=0.7,
        age=0.1, evict_arrival=0.4,
    )
)  # fmt: skip

POLICIES = {
    **{name: js.policy(name) for name in oracle.ALL},
    "watermark": js.fcfs(watermark=0.1),
    "family": FAMILY,
    "own": OWN,
}


def by_hand(policy: Policy) -> Policy:
    return policy if policy in (OWN, FLOATS) else oracle.rule_for(policy)


# ---- random instances, each lane with a worker of its own


def draw(rng: random.Random, lanes: int = LANES) -> tuple[js.Instance, Worker]:
    kinds, drawn, chosen = list(KINDS), [], []
    for i in range(lanes):
        worker = random_worker(rng)
        requests, memory = random_requests(rng, kinds[i % len(kinds)])
        whole = in_whole_blocks(memory, worker)
        drawn.append((requests, whole + rng.randint(0, worker.block - 1)))
        chosen.append(worker)
    arrays = as_arrays(drawn)
    spare = WIDTH - arrays["prompt"].shape[1]
    wide = {k: np.pad(v, ((0, 0), (0, spare))) if v.ndim == 2 else v for k, v in arrays.items()}
    return js.Instance(**wide), together(chosen)


def together(chosen: Sequence[Worker]) -> Worker:
    """Workers as lanes."""
    columns = zip(*(worker.numbers for worker in chosen), strict=True)
    return workers.vllm(*(np.array(column) for column in columns))


def in_time(rng: random.Random, instance: js.Instance, clock: js.Clock) -> js.Instance:
    """Arrivals at, before and after the starts of rounds."""
    round_ = js.clocks.ticks(clock)
    unit = int(round_.fixed) + 5 * int(round_.per_request)
    late = np.array([rng.choice((0, 0, 1, unit // 3)) for _ in range(WIDTH)])
    due = np.asarray(instance.arrival) * (rng.choice((0.5, 1.0)) * unit)
    return instance.replace(arrival=np.minimum(np.rint(due) + late, 4e18) / 1e12)


PLANS = {
    # Interpreted, with so few of everything that lanes change kernels and wait.
    "kernel": dict(kernel="interpret", slots=(8, WIDTH), chunk=16, buffer=16, pool=5),
    # In the form that a step has on a TPU.
    "wide": dict(wide=True, window=18),
}


def compare(
    policy: Policy, engine: str, seed: int, arrivals: bool, clocked: bool, plan: Any = None
) -> int:
    """Compares one batch; returns its evictions."""
    rng = random.Random(f"{policy.name} {seed}")
    instance, worker = draw(rng)
    options: dict[str, Any] = {
        "max_rounds": rng.choice((MAX_ROUND, MAX_ROUND, 30)), "max_batch": rng.choice((2, 5, 40)),
        "worker": worker,
    }  # fmt: skip
    if clocked:
        options["clock"] = random_clock(rng)
        instance = in_time(rng, instance, options["clock"])
    if not arrivals:
        instance = instance.replace(arrival=None)
    result = js.simulate(instance, policy, engine=engine, plan=plan, **options)
    check_result(instance, result, by_hand(policy), **options)
    return int(np.sum(result.evictions))


# A policy is a program of its own on JAX, and dear to compile: few stand for all there.
@pytest.mark.parametrize(
    ("name", "engine", "arrivals", "clocked"),
    [
        ("own", "kernel", True, True),
        ("a_min:every_round", "wide", True, False),
        *((name, "native", name != "sorted_f:lower", clocked)
          for name in POLICIES if not name.startswith("sorted_f") or name == "sorted_f:lower"
          for clocked in (False, True) if "native" in ENGINES),
    ],
)  # fmt: skip
def test_equals_the_reference(name: str, engine: str, arrivals: bool, clocked: bool) -> None:
    plan = PLANS.get(engine)
    engine = "jax" if plan else engine
    found = [compare(POLICIES[name], engine, seed, arrivals, clocked, plan) for seed in range(2)]
    assert name in ("h_sf", "svf:output") or sum(found) > 0


def test_a_function_without_a_program_runs_on_jax() -> None:
    assert FLOATS.choices.unknown is not None
    assert compare(FLOATS, "jax", 1, arrivals=False, clocked=False) > 0


@pytest.mark.parametrize("engine", ENGINES)
def test_traced_workers_run_as_lanes_and_bad_ones_mark_theirs(engine: str) -> None:
    """Under `jit` and `vmap`, each equal to the reference by itself."""
    rng, policy = random.Random(5), POLICIES["sorted_f:lower"]
    instance = draw(rng, 8)[0].replace(arrival=None)
    instance = instance.replace(memory=instance.memory + 16)
    numbers = [(1, 1, 1, 0), (3, 4, 4, 1), (4, 40, 60, 0), (16, 9, 30, 0), (16, 9, 30, 3)]
    bad = [(0, 9, 30, 0), (4, 0, 30, 0), (4, 9, 8, 0), (4, 9, 30, -1), (2**16 + 1, 9, 30, 0)]
    run = jax.jit(jax.vmap(lambda worker: js.simulate(
        instance, policy, worker=Worker("vllm", *worker), engine=engine
    )))  # fmt: skip
    found = run(jnp.asarray(numbers + bad))
    for i, own in enumerate(numbers):
        result = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), found)
        check_result(instance, result, by_hand(policy), worker=workers.vllm(*own))
    assert (np.asarray(found.status)[len(numbers) :] == js.Status.INVALID).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_history_lists_every_preempted_run(engine: str) -> None:
    """And at the end the runs that completed; with the cap the first pass is compiled already."""
    rng = random.Random("history")
    instance, worker = draw(rng)
    policy = POLICIES["a_min:every_round"]
    options: dict[str, Any] = {"worker": worker, "max_batch": 40}
    result = js.simulate(instance, policy, engine=engine, history=True, **options)
    evicted = np.asarray(result.history)[:, :-WIDTH, 0] >= 0
    assert evicted.sum() == np.sum(result.evictions) > 9
    check_result(instance, result, by_hand(policy), **options)


def test_a_fault_names_the_worker_of_its_lane() -> None:
    instance, worker = draw(random.Random(1), 3)
    result = js.simulate(instance, js.fcfs(), worker=worker, max_rounds=99)
    wrong = result.replace(peak_memory=np.asarray(result.peak_memory) + np.array([0, 1, 0]))
    own = Worker("vllm", *(int(number[1]) for number in worker.numbers))
    with pytest.raises(AssertionError) as caught:
        check_result(instance, wrong, by_hand(js.fcfs()), worker=worker, max_rounds=99)
    assert "lane 1: peak_memory" in str(caught.value)
    assert str(caught.value).endswith(f"max_rounds=99, worker={own!r})")


def test_tensorrt_llm_has_the_same_rules() -> None:
    """With numbers of its own."""
    rng = np.random.default_rng(3)
    output, prompt = rng.integers(1, 200, (2, 60))
    instance = js.Instance(
        prompt=prompt, output=output, lower=np.ones_like(output), upper=output, memory=1024
    )
    one, other = (
        js.simulate(instance, js.no_evict(), worker=worker)
        for worker in (workers.trtllm(), workers.vllm(32, 256, 8192))
    )
    assert (one.completion == other.completion).all() and one.evictions == other.evictions
    assert str(workers.trtllm()) == "trtllm:block=32,max_num_seqs=256,budget=8192"
    assert workers.worker_named("trtllm") == workers.trtllm()


def test_gaps_between_tokens_add_up() -> None:
    """As many as tokens after the first, and together the time from first to last token."""
    rng = np.random.default_rng(5)
    output, prompt = rng.integers(1, 60, (2, 3, 40))
    arrival = np.sort(rng.uniform(0, 20, (3, 40)), axis=1)
    instance = js.Instance(
        prompt=prompt, output=output, lower=np.ones_like(output), upper=output, arrival=arrival,
        memory=256,
    )  # fmt: skip
    worker, clock = workers.vllm(4, 8, 12), js.Clock(0.05, 1e-3, 1e-3, 1e-5, 2e-3, 10)
    result = js.simulate(
        instance, js.a_min(), clock=clock, worker=worker, history=True, engine=ENGINES[-1]
    )
    assert (result.evictions > 0).all()
    itl = js.metrics.serving(instance, result, clock, worker=worker, names=["itl"]).itl
    assert itl.count.tolist() == (output - 1).sum(axis=1).tolist()
    seen = (result.completion_seconds - result.first_token_seconds).sum(axis=1)
    np.testing.assert_allclose(itl.mean * itl.count, seen, rtol=1e-12)
