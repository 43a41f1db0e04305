"""What a step is on an H100 and a TPU v5e, compiled and counted without one, and an estimate."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import steps
from benchmarks.instances import draw
from benchmarks.scale import Scale
from benchmarks.section import Job, Row, Section
from benchmarks.timing import simulation
from jaxsched.engines.xla.fold import Loops
from jaxsched.engines.xla.inputs import Inputs, Queue
from jaxsched.engines.xla.plan import CHUNK, KERNEL_CHUNK, TPU_POOL, make_plan
from jaxsched.engines.xla.state import DONE, NEVER, Event, Lane, LoopPlan, Stepper, narrower
from jaxsched.engines.xla.step import ANY_ORDER
from jaxsched.policies.program import Choices

PYTHON = "BENCHMARKS_COMPILER_PYTHON"
"""Environment variable: a Python with jax and the compilers; by default, this one."""

LANES = 2**14

PROCESSORS, SCHEDULERS, HERTZ, USED = 132, 4, 1.7e9, 0.5
"""Of an H100: each scheduler of each multiprocessor issues one instruction a cycle for a warp at
most; half of that is taken to be used."""

BANDWIDTH = 819e9
"""Bytes a second of a v5e's memory that is not on the chip."""


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
        # The loop over chunks stands last, behind one over steps for each number of slots.
        body, copies, condition = max(found["loops"][:-1])
        each = {"kernels": body + condition, "copies": copies}
        note = ", ".join(f"{number} {name}" for name, number in found["fusions"].items())
        return [row | each | _on_tpu(scale, name, found) | {"note": f"a loop of XLA: {note}"}]
    # The loop over chunks is the only one left; what it launches serves a chunk of steps.
    body, _, condition = max(found["loops"])
    row["kernels"] = (body + condition) / KERNEL_CHUNK
    taken = _taken(scale, name)
    native = _native(scale, name)
    rows = [_estimate(kernel, taken) for kernel in found["kernels"]]
    mean = sum(each["share"] * each["warps"] * each["instructions"] for each in rows)
    rows.append({"instructions": mean, "steps": taken.steps, "estimate": _rate(mean, taken),
                 "share": 1.0, "native": native, "note": "all, by their shares"})  # fmt: skip
    return [row | each for each in rows]


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


class Counting(Loops):
    """Loops of XLA that note when a kernel would not branch around something.

    Attributes:
      taken: Whether, in the order of the program.
    """

    def __init__(self, one: jax.Array) -> None:
        super().__init__(one)
        self.taken = list[jax.Array]()
        self._within = list[jax.Array]()

    def when(self, condition: jax.Array, function: Callable[[Any], Any], state: Any) -> Any:
        self._within.append(condition)
        self.taken.append(functools.reduce(jnp.logical_and, self._within))
        state = function(state)
        self._within.pop()
        return state

    def first_places(self, free: jax.Array, count: int, several: jax.Array) -> list[jax.Array]:
        self.when(several, lambda state: state, None)
        return super().first_places(free, count, several)

    def put_all(self, old: Any, places: Sequence[jax.Array], new: Sequence[Any]) -> Any:
        self.when(places[1] < np.int32(old.end.shape[-1]), lambda state: state, None)
        return super().put_all(old, places, new)


BITS = 12
"""More than a step has branches."""


def _counted(
    lane: Lane, queue: Queue, inputs: Inputs, choices: Choices, plan: LoopPlan
) -> tuple[Lane, Event]:
    """A step that logs the branches it takes, and above these the slots in use behind it."""
    home = Counting(inputs.table.one)
    inputs = inputs._replace(home=home)
    after, event = ANY_ORDER.step(lane, queue, inputs, choices, plan)
    taken = [mark.astype(np.int32) << np.int32(i) for i, mark in enumerate(home.taken)]
    return after, event.replace(lost=functools.reduce(jnp.bitwise_or, taken) | after.used << BITS)


@dataclasses.dataclass(frozen=True)
class Taken:
    """Steps of an instance, mean.

    Attributes:
      steps: All.
      often: Share of them that takes each branch.
      slots: Number of slots -> share of the steps that a kernel of that number takes.
    """

    steps: float
    often: list[float]
    slots: dict[int, float]


@functools.cache
def _taken(scale: Scale, name: str) -> Taken:
    """Counts the steps of lanes that wait for no others, as in a kernel."""
    chosen, plan, table = steps.prepare(scale, name, scale.settings[0])
    party = 1 if plan.party == 1 else LoopPlan.party  # of a kernel, not of this machine's CPU
    plan = dataclasses.replace(plan, pool=1, party=party, chunk=KERNEL_CHUNK, scan=1)
    advance = None if party == 1 else Stepper(_counted, ANY_ORDER.begin)
    driver = steps.Driver(table, chosen, plan, advance)
    state, logged = driver.start(), list[np.ndarray]()
    while bool(jnp.any(state.lanes.halt != DONE)) or int(state.next_row) < steps.INSTANCES:
        state, log = driver.step(state)
        logged.append(np.asarray(log.lost)[np.asarray(log.time) != NEVER])
    found = np.concatenate(logged)
    total = len(found)
    if advance is None:
        slots = {plan.slots[i]: level.steps / total for i, level in driver.levels.items()}
        return Taken(total / steps.INSTANCES, [], slots)
    often = [float(np.mean(found >> i & 1)) for i in range(BITS)]
    return Taken(total / steps.INSTANCES, often, _slots(found >> BITS, plan))


def _slots(used: np.ndarray, plan: LoopPlan) -> dict[int, float]:
    """Which kernel takes each step, by the slots in use behind it."""
    level, count = 0, Counter[int]()
    for some in used.tolist():
        while some > plan.slots[level]:
            level += 1
        count[plan.slots[level]] += 1
        while some <= narrower(plan.slots, level):
            level -= 1
    return {slots: n / len(used) for slots, n in sorted(count.items())}


def _estimate(kernel: dict[str, Any], taken: Taken) -> Row:
    branches = kernel.pop("branches")
    extra = (size * share for size, share in zip(branches, taken.often, strict=False))
    instructions = kernel["least"] + sum(extra)
    return kernel | {
        "instructions": instructions,
        "steps": taken.steps,
        "share": taken.slots.get(kernel["slots"], 0.0),
        "estimate": _rate(kernel["warps"] * instructions, taken),
        "branches": " + ".join(map(str, branches)),
    }


def _on_tpu(scale: Scale, name: str, found: dict[str, Any]) -> Row:
    """An estimate for a TPU: as if all that its kernels read and write left the chip."""
    taken = _taken(scale, name)
    slots = make_plan(scale.n, LANES, False, backend="tpu").slots
    share = [taken.slots.get(each, 0.0) for each in slots]
    size = sum(s * b for s, (b, _) in zip(share, found["passes"], strict=True)) / TPU_POOL
    steps = taken.steps + CHUNK
    return {"bytes": size, "steps": steps, "estimate": BANDWIDTH / (size * steps),
            "begun": ", ".join(str(copies) for _, copies in found["passes"]),
            "native": _native(scale, name)}  # fmt: skip


def _rate(instructions: float, taken: Taken) -> float:
    return PROCESSORS * SCHEDULERS * HERTZ * USED / (instructions * taken.steps)


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
        f"{LANES:,} lanes; nothing of it has run. `least` instructions of PTX are of a step that "
        "branches around all it can, `branches` what is added by each part: leave, test, wait for "
        "others, enter, look behind, test together, more places, put several, first of the buffer; "
        "`instructions` is the mean, by how often each is taken in the steps of an instance; "
        "`share` says how many steps a kernel of so many slots takes. The estimate of instances a "
        f"second is {PROCESSORS} multiprocessors × {SCHEDULERS} instructions a cycle × "
        f"{HERTZ / 1e9} GHz × {USED} used / (warps × instructions × steps), if all steps had so "
        "many slots, and then by their shares. Of a TPU, "
        f"{TPU_POOL:,} lanes at a time, `bytes` is what the kernels of a step read and write for a "
        f"lane, by the same shares of slots, {CHUNK} steps are added for the chunk in which an "
        f"instance ends, and the estimate is {BANDWIDTH / 1e9:.0f} GB/s / (bytes × steps), as if "
        "nothing stayed on the chip; `begun` are copies begun in a step, by slots. `native` is the "
        "native engine on all cores of the machine that wrote this. Of a loop of XLA the note says "
        "how many fused kernels of a step look up, reduce slots, write slots, and do none of "
        "these, how many must follow each other, and how many copies there are with those that run "
        "beside them."
    ),
    columns={
        "device": ("device", "s"),
        "policy": ("policy", "s"),
        "slots": ("slots", ",d"),
        "warps": ("warps", "d"),
        "kernels": ("kernels per step", ".3g"),
        "copies": ("of them copies", "d"),
        "begun": ("begun", "s"),
        "gigabytes": ("GB", ".2f"),
        "bytes": ("bytes", ",.0f"),
        "registers": ("registers", "d"),
        "spills": ("spilled bytes", "d"),
        "barriers": ("barriers", "d"),
        "least": ("least", ",d"),
        "branches": ("branches", "s"),
        "instructions": ("instructions per step", ",.0f"),
        "steps": ("steps per instance", ",.0f"),
        "share": ("share of the steps", ".0%"),
        "estimate": ("estimate, instances/s", ",.0f"),
        "native": ("native, instances/s", ",.0f"),
        "note": ("note", "s"),
    },
    jobs=_jobs,
)
