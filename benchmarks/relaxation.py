"""What a relaxed simulation with its gradient costs, beside an exact one."""

from __future__ import annotations

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.compiled import compiled_elsewhere
from benchmarks.instances import SEED
from benchmarks.scale import Scale
from benchmarks.section import Job, Row, Section
from benchmarks.timing import processor_turns, simulation
from jaxsched import FamilyParams, Instance, policy, relaxation, simulate, workloads

STEPS = {128: 48, 512: 128}
"""Requests -> steps, of which fewer spoil the totals (docs/relaxation.md)."""
TEMPERATURE = 1.0
LANES, EXACT_LANES, GPU_LANES = 32, 1024, 1024
MEMORY = 4096
RULE = "a_min:on_eviction"


def _jobs(scale: Scale) -> list[Job]:
    sizes = sorted({min(n, scale.n) for n in STEPS})
    return [Job(f"n = {n}", functools.partial(_row, scale, n)) for n in sizes]


def _draw(n: int, lanes: int) -> Instance:
    """A backlog with embedded ShareGPT lengths, predicted by classes of 100 tokens."""
    return workloads.make(
        jax.random.key(SEED),
        lengths=workloads.embedded.sharegpt().truncated(max_total=MEMORY),
        intervals=workloads.intervals.classes(width=100, count=18),
        n=n,
        lanes=lanes,
        memory=MEMORY,
    )


def _row(scale: Scale, n: int) -> list[Row]:
    many, few = (_draw(n, min(lanes, scale.wide)) for lanes in (EXACT_LANES, LANES))
    steps = next(steps for most, steps in STEPS.items() if n <= most)
    timeline = relaxation.event_timeline(simulate(few, policy(RULE)), steps)
    at = FamilyParams(), jnp.float32(TEMPERATURE), few, timeline
    begun = time.process_time()
    run = relaxed_gradient.lower(*at).compile()
    compiling = time.process_time() - begun
    runs = {
        "exact": simulation(many, RULE, "native"),
        "gradient": lambda: jax.block_until_ready(run(*at)),
    }
    there = compiled_elsewhere("benchmarks.compile_relaxed", GPU_LANES, n, steps)
    took = processor_turns(runs, 3 * scale.repeats)
    exact, gradient = took["exact"] / many.lanes[0], took["gradient"] / few.lanes[0]
    return [
        {
            "n": n,
            "steps": steps,
            "exact_ms": 1e3 * np.median(exact),
            "gradient_ms": 1e3 * np.median(gradient),
            "ratio": np.median(gradient / exact),
            "compile_s": compiling,
            "kilobytes": run.memory_analysis().temp_size_in_bytes / few.lanes[0] / 1e3,
            "kernels": there.get("kernels"),
            "searches": " + ".join(map(str, there.get("searches", ()))),
            "note": there.get("missing", ""),
        }
    ]


@jax.jit
@jax.grad
def relaxed_gradient(
    rule: FamilyParams, temperature: jax.Array, instance: Instance, timeline: relaxation.Timeline
) -> jax.Array:
    """Of ln(mean latency), the mean over the instances."""
    soft = relaxation.soft_simulate(instance, rule, temperature, timeline)
    return jnp.mean(jnp.log(soft.mean_latency))


RELAXATION = Section(
    name="relaxation",
    title="The relaxation",
    note=(
        f"Processor time per instance, medians of turns, the ratio too: a relaxed simulation of "
        f"A_min with the gradient of ln(mean latency) in fourteen numbers, {LANES} instances of "
        f"ShareGPT lengths in a call, beside an exact one by the native engine, {EXACT_LANES:,} in "
        f"a call; M = {MEMORY:,}, T = {TEMPERATURE:g}. Last, compiled for an H100, where nothing "
        f"of it has run: kernels launched in a step, forth and back, and in one pass of each of "
        f"its searches."
    ),
    columns={
        "n": ("n", ",d"),
        "steps": ("steps", ",d"),
        "exact_ms": ("exact, ms", ".4f"),
        "gradient_ms": ("relaxed, with its gradient", ".2f"),
        "ratio": ("ratio", ".0f"),
        "compile_s": ("compile, s", ".1f"),
        "kilobytes": ("memory, kB", ",.0f"),
        "kernels": ("kernels, H100", ",d"),
        "searches": ("in a search", ""),
        "note": ("note", ""),
    },
    jobs=_jobs,
)
