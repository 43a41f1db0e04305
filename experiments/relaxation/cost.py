"""What a relaxed simulation with its gradient takes, beside an exact one."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import jaxsched as js
from benchmarks.timing import processor_turns
from experiments.relaxation import estimators as by
from experiments.relaxation.cases import SPACE, WORKLOADS
from jaxsched.engines import soft as relaxation

SIZES, STEPS = (128, 256, 512), (48, 128)
LANES, EXACT_LANES, TURNS = 32, 1024, 25

ADVANCES = len(SIZES) * len(STEPS)


def table(advance: Callable[[], None]) -> pd.DataFrame:
    """Processor seconds and bytes for each instance, at A_min moved into the box; medians."""
    workload, rows = WORKLOADS[0], []
    z = workload.points()["A_min"]
    policy = js.a_min_family(jax.tree.map(float, SPACE.params(z)))
    for n in SIZES:
        many = workload.draw(EXACT_LANES, seed=8, n=n)
        few = by.lanes_of(many, np.arange(LANES))
        result = js.simulate(few, policy)
        for steps in STEPS:
            timeline = relaxation.event_timeline(result, steps)
            at = jnp.asarray(z, jnp.float32), jnp.float32(1.0), few, timeline
            start = time.process_time()
            compiled = by.soft_gradients.lower(*at).compile()
            compiling = time.process_time() - start
            turns = processor_turns(
                {
                    "exact": functools.partial(js.simulate, many, policy),
                    "relaxed": lambda at=at, run=compiled: jax.block_until_ready(run(*at)),
                },
                TURNS,
            )
            exact, relaxed = turns["exact"] / EXACT_LANES, turns["relaxed"] / LANES
            rows.append(
                {
                    "n": n,
                    "steps": steps,
                    "seconds": np.median(relaxed),
                    "bytes": compiled.memory_analysis().temp_size_in_bytes / LANES,
                    "compile_seconds": compiling,
                    "exact_seconds": np.median(exact),
                    "times": np.median(relaxed / exact),
                }
            )
            advance()
    return pd.DataFrame(rows)
