"""The worker of a serving engine in the engines, against the reference in all that `Result` says."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxsched as js
from jaxsched import workers
from jaxsched.instance import MAX_ROUND
from jaxsched.policies import Policy
from jaxsched.policies.arithmetic import over, where
from jaxsched.simulate import _native_works
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

ENGINES = ["jax", *(["native"] if _native_works() else [])]


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

FAMILY = js.a_min_family(js.FamilyParams(admit_prompt=0.3, run_growth=0.5, evict_growth=0.2))

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


def compare(policy: Policy, engine: str, seed: int, arrivals: bool, clocked: bool) -> int:
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
    result = js.simulate(instance, policy, engine=engine, **options)
    check_result(instance, result, by_hand(policy), **options)
    return int(np.sum(result.evictions))
