"""What a relaxed simulation with its gradient takes, beside an exact one."""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import jaxsched as js
from experiments.relaxation import estimators as by
from experiments.relaxation.cases import SPACE, WORKLOADS
from jaxsched.engines import soft as relaxation

SIZES, STEPS = (128, 256, 512), (48, 128)
LANES, EXACT_LANES, REPEATS = 32, 1024, 5

ADVANCES = len(SIZES) * len(STEPS)


def table(advance: Callable[[], None]) -> pd.DataFrame:
    """Processor seconds and bytes for each instance, at A_min moved into the box."""
    workload, rows = WORKLOADS[0], []
    z = workload.points()["A_min"]
    policy = js.a_min_family(jax.tree.map(float, SPACE.params(z)))
    for n in SIZES:
        many = workload.draw(EXACT_LANES, seed=8, n=n)
        exact = processor_seconds(lambda many=many: js.simulate(many, policy)) / EXACT_LANES
        few = by.lanes_of(many, np.arange(LANES))
        result = js.simulate(few, policy)
        for steps in STEPS:
            relaxed = _relaxed(z, few, relaxation.event_timeline(result, steps))
            times = {"exact_seconds": exact, "times": relaxed["seconds"] / exact}
            rows.append({"n": n, "steps": steps} | relaxed | times)
            advance()
    return pd.DataFrame(rows)


def _relaxed(
    z: by.Vectors, instance: js.Instance, timeline: relaxation.Timeline
) -> dict[str, float]:
    at = jnp.asarray(z, jnp.float32), jnp.float32(1.0), instance, timeline
    start = time.process_time()
    compiled = by.soft_gradients.lower(*at).compile()
    compiling = time.process_time() - start
    seconds = processor_seconds(lambda: jax.block_until_ready(compiled(*at)))
    kept = compiled.memory_analysis().temp_size_in_bytes
    return {
        "seconds": seconds / LANES,
        "bytes": kept / LANES,
        "compile_seconds": compiling,
    }


def processor_seconds(call: Callable[[], object]) -> float:
    """The least of some calls, after one that compiles."""
    call()
    taken = []
    for _ in range(REPEATS):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return min(taken)
