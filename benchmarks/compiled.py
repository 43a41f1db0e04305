"""What a step is on an H100 and a TPU v5e, compiled and counted without one, and an estimate."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks import steps
from benchmarks.instances import draw
from benchmarks.scale import Scale
from benchmarks.section import Job, Row, Section
from benchmarks.timing import simulation
from jaxsched.engines.xla.plan import KERNEL_CHUNK
from jaxsched.engines.xla.state import DONE, NEVER, LoopPlan

PYTHON = "BENCHMARKS_COMPILER_PYTHON"
"""Environment variable: a Python with jax and the compilers; by default, this one."""

LANES = 2**14

PROCESSORS, SCHEDULERS, HERTZ, USED = 132, 4, 1.7e9, 0.5
"""Of an H100: each scheduler of each multiprocessor issues one instruction a cycle for a warp at
most; half of that is taken to be used."""


def _jobs(scale: Scale) -> list[Job]:
    return [
        Job(f"{name} for a {kind}", functools.partial(_rows, scale, kind, name))
        for name in scale.some
        for kind in ("gpu", "tpu")
    ]


def _rows(scale: Scale, kind: str, name: str) -> list[Row]:
    found = compiled_elsewhere("benchmarks.compile_for", kind, name, LANES, scale.n)
    row = {"device": {"gpu": "H100", "tpu": "TPU v5e"}[kind], "policy": name}
    if "missing" in found:
        return [row | {"note": found["missing"]}]
    row["gigabytes"] = found["gigabytes"]
    if kind == "tpu":
        # The loop over chunks is the largest; the next is over the steps of the widest lanes.
        body, copies, condition = sorted(found["loops"])[-2]
        each = {"kernels": body + condition, "copies": copies}
        return [row | each | {"note": "a loop of XLA"}]
    # The loop over chunks is the only one left; what it launches serves a chunk of steps.
    body, _, condition = max(found["loops"])
    row["kernels"] = (body + condition) / KERNEL_CHUNK
    taken = _taken(scale, name)
    native = _native(scale, name)
    return [row | _estimate(kernel, taken) | {"native": native} for kernel in found["kernels"]]


def compiled_elsewhere(module: str, *words: object) -> dict[str, Any]:
    """What a program prints, in JSON, that is run by the Python with the compilers."""
    python = os.environ.get(PYTHON, sys.executable)
    command = [python, "-m", module, *map(str, words)]
    path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"PYTHONPATH": path}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if run.returncode:
        raise RuntimeError(run.stderr.strip().splitlines()[-1])
    answer: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return answer


@dataclasses.dataclass(frozen=True)
class Taken:
    """Steps of an instance, mean.

    Attributes:
      steps: All.
      leave: Those in which a request is evicted.
      enter: Those in which requests are admitted.
      several: Those in which more than one is.
    """

    steps: float
    leave: float
    enter: float
    several: float


@functools.cache
def _taken(scale: Scale, name: str) -> Taken:
    """Counts the steps of lanes that wait for no others, as in a kernel."""
    chosen, plan, table = steps.prepare(scale, name, scale.settings[0])
    party = 1 if plan.party == 1 else LoopPlan.party  # of a kernel, not of this machine's CPU
    driver = steps.Driver(table, chosen, dataclasses.replace(plan, pool=1, party=party))
    state, counts = driver.start(), np.zeros(4)
    while bool(jnp.any(state.lanes.halt != DONE)) or int(state.next_row) < steps.INSTANCES:
        state, log = driver.step(state)
        admitted = [np.asarray(row) != NEVER for row in log.admitted]
        marks = [np.asarray(log.time) != NEVER, np.asarray(log.evicted) != NEVER, admitted[0],
                 admitted[min(1, len(admitted) - 1)]]  # fmt: skip
        counts += [mark.sum() for mark in marks]
    counts /= steps.INSTANCES
    return Taken(*counts) if plan.party > 1 else Taken(counts[0], 0, 0, 0)


def _estimate(kernel: dict[str, Any], taken: Taken) -> Row:
    """The branches of a step are those who leave, who enter, more than one, who waits again."""
    often = [taken.leave, taken.enter, taken.several, taken.leave]
    branches = kernel.pop("branches")
    extra = sum(size * n for size, n in zip(branches, often, strict=False)) / taken.steps
    instructions = kernel["least"] + extra
    each = kernel["warps"] * instructions * taken.steps
    return kernel | {
        "instructions": instructions,
        "steps": taken.steps,
        "estimate": PROCESSORS * SCHEDULERS * HERTZ * USED / each,
        "branches": " + ".join(map(str, branches)),
    }


@functools.cache
def _native(scale: Scale, name: str) -> float:
    """Instances a second of the native engine on all cores of this machine."""
    instance = draw(scale.settings[0], scale.wide, scale.n, scale.memory)
    run = simulation(instance, name, "native")
    run()
    begun = time.perf_counter()
    run()
    return scale.wide / (time.perf_counter() - begun)


COMPILED = Section(
    name="compiled",
    title="Compiled for accelerators that are not here",
    note=(
        "Counted in what the compilers for an H100 and a TPU v5e make of it, with "
        f"{LANES:,} lanes; nothing of it has run. `least` instructions are of a step in which "
        "nobody leaves or enters, `branches` what is added if somebody leaves, enters, more than "
        "one enters, and who left waits again, in this order; `instructions` is the mean, by how "
        "often each happens in the steps of an instance. The estimate of instances a second is "
        f"{PROCESSORS} multiprocessors × {SCHEDULERS} instructions a cycle × {HERTZ / 1e9} GHz × "
        f"{USED} used / (warps × instructions × steps), if all lanes had so many slots. `native` "
        "is the native engine on all cores of the machine that wrote this."
    ),
    columns={
        "device": ("device", "s"),
        "policy": ("policy", "s"),
        "slots": ("slots", ",d"),
        "warps": ("warps", "d"),
        "kernels": ("kernels per step", ".3g"),
        "copies": ("of them copies", "d"),
        "gigabytes": ("GB", ".2f"),
        "registers": ("registers", "d"),
        "spills": ("spilled bytes", "d"),
        "barriers": ("barriers", "d"),
        "least": ("least", ",d"),
        "branches": ("branches", "s"),
        "instructions": ("instructions per step", ",.0f"),
        "steps": ("steps per instance", ",.0f"),
        "estimate": ("estimate, instances/s", ",.0f"),
        "native": ("native, instances/s", ",.0f"),
        "note": ("note", "s"),
    },
    jobs=_jobs,
)
