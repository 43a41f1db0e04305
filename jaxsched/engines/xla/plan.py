"""Sizes of the fixed-shape state, chosen from the shape of the problem alone."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import jax
import numpy as np

from jaxsched.engines.xla.fold import PARTS
from jaxsched.engines.xla.queue import ALIGNED
from jaxsched.engines.xla.state import LoopPlan

NARROWEST = 128
"""Slots of the cheapest step; fewer cost as much."""

CPU_POOL = 16
"""Lanes side by side on a CPU, out of all that are at work: enough to share the cost of calling
kernels. From 8 to 32 it makes little difference; with more, XLA hands kernels to several threads at
ten times their cost.
"""

GPU_POOL = 2**14
"""Lanes side by side on a GPU, where a kernel costs the same for one lane and for thousands."""

TPU_POOL = 2**12
"""The same on a TPU: the arrays of a step of 1,024 slots fit into the memory of a v5e's chip. Four
times the lanes do not: parts are brought in and out beside the kernels, up to 113 in a step."""

CHUNK = 128
"""Steps between two borders, and room for those that return to the queue meanwhile."""

CPU_SCAN = 16
"""Steps of a scan on a CPU: as fast as a loop that looks after each step whether a lane still runs,
where scans of a whole chunk take a third longer with 300 requests. Elsewhere, where the
host would have to look, a chunk is one scan."""

KERNEL_CHUNK = 1024
"""The same in a kernel, where a lane that stands still costs nothing, and a border 41 kernels."""

MOST_SLOTS = 4096
"""Slots of a lane that the registers of one multiprocessor hold."""

WINDOW = 256
"""Requests of the fresh order that a lane of a TPU has at hand in a chunk, and half as many of each
run: of LMSYS lengths 7 % and 2 % of the chunks of `a_min` take more, and such lanes wait for the
border."""

CPU_PARTY = 2
"""Requests that a step admits at most on a CPU: `a_max`, most of whose steps admit nobody, takes a
quarter longer with 4, and `a_min` as long."""

SHORT_RUN = 4096
"""Returned requests that are merged at once; beyond, a short run is merged into a long one."""

SIZES = (
    "pool", "turn", "slots", "chunk", "scan", "buffer", "runs", "party", "window", "wide", "kernel",
)  # fmt: skip
"""Of a `LoopPlan`, those that a caller may choose: no result depends on them."""

Sizes = tuple[tuple[str, Any], ...]
"""Some of them, by name."""


@functools.cache
def compiler_options(backend: str) -> dict[str, Any] | None:
    """What XLA is told on a CPU: to copy less, and to keep to the order of the program.

    `None` elsewhere, and where this jaxlib does not know the options.
    """
    known = {
        "xla_cpu_copy_insertion_use_region_analysis": True,
        "xla_cpu_enable_concurrency_optimized_scheduler": False,
    }
    if backend != "cpu":
        return None
    try:
        jax.jit(lambda: np.int32(0), compiler_options=known)()
    except RuntimeError:
        return None
    return known


def make_plan(
    n: int,
    lanes: int,
    arrivals: bool,
    clocked: bool = False,
    history: int = 0,
    counts_evictions: bool = False,
    whole: bool = True,
    blocks: bool = False,
    headroom: bool = False,
    backend: str | None = None,
    sizes: Sizes = (),
) -> LoopPlan:
    """Sizes for `lanes` instances of n requests each.

    The numbers are measured on a CPU, see docs/performance.md. They depend on shapes only, so that
    instances of one shape share a compiled program whatever their values.

    Args:
      n: Requests of a lane.
      lanes: Instances.
      arrivals: Whether requests arrive over time.
      clocked: Whether rounds have lengths.
      history: Evicted runs of a lane to keep.
      counts_evictions: Whether the policy reads how often a request was evicted.
      whole: Whether all functions of the policy are programs on whole numbers.
      blocks: Whether the worker is that of a serving engine, a step of which admits one request.
      headroom: Whether the policy has one.
      backend: "cpu", "gpu" or "tpu"; `None` for that of JAX.
      sizes: In place of those of this backend, by name (see `SIZES`).

    Raises:
      ValueError: If a simulation with such sizes could not end, or would be wrong.
    """
    backend = jax.default_backend() if backend is None else backend
    in_kernel = backend == "gpu" and whole and n <= MOST_SLOTS
    plan = LoopPlan(
        n=n,
        pool=min(lanes, {"cpu": lanes, "tpu": TPU_POOL}.get(backend, GPU_POOL)),
        turn=min(lanes, CPU_POOL) if backend == "cpu" else 0,
        slots=_slot_counts(n, in_kernel),
        chunk=KERNEL_CHUNK if in_kernel else CHUNK,
        scan=CPU_SCAN if backend == "cpu" else CHUNK,
        wide=backend == "tpu",
        window=WINDOW if backend == "tpu" else 0,
        buffer=CHUNK,
        party=1 if blocks else CPU_PARTY if backend == "cpu" else LoopPlan.party,
        blocks=blocks,
        headroom=headroom,
        runs=(n,) if n <= SHORT_RUN else (SHORT_RUN, n),
        arrivals=arrivals,
        clocked=clocked,
        history=history,
        counts_evictions=counts_evictions,
        kernel="gpu" if in_kernel else "",
    )
    return _checked(dataclasses.replace(plan, **dict(sizes))) if sizes else plan


def _checked(plan: LoopPlan) -> LoopPlan:
    """The plan, if lanes can do with its sizes."""
    parts, ahead = f"multiples of {PARTS}", 2 * (plan.party + ALIGNED)
    whole = plan.kernel or (plan.scan >= 1 and plan.chunk % plan.scan == 0)
    if plan.kernel == "gpu":
        parts, even = "powers of two", all(x & (x - 1) == 0 for x in plan.slots)
    else:
        even = all(x % PARTS == 0 for x in plan.slots)
    expected = {
        "pool": (plan.pool >= 1, "at least 1"),
        "turn": (plan.turn >= 0, "at least 0"),
        "chunk": (plan.chunk >= 1, "at least 1"),
        "scan": (whole, f"a divisor of chunk, {plan.chunk}"),
        "buffer": (plan.buffer > 0 and plan.buffer % PARTS == 0, f"a multiple of {PARTS}"),
        "party": (plan.party in (1, 2, 4), "1, 2 or 4"),
        "window": (plan.window == 0 or plan.window >= ahead, f"0 or at least {ahead}"),
        "kernel": (plan.kernel in ("", "gpu", "interpret"), "one of '', 'gpu', 'interpret'"),
        "slots": (
            even and _ascend(plan.slots) and plan.slots[-1] >= plan.n,
            f"ascending {parts}, the last at least {plan.n}",
        ),
        "runs": (_ascend(plan.runs) and plan.runs[-1] == plan.n, f"ascending, the last {plan.n}"),
    }
    for name, (good, what) in expected.items():
        if not good:
            raise ValueError(f"plan: {name} is {getattr(plan, name)!r}; expected {what}")
    return plan


def _ascend(sizes: tuple[int, ...]) -> bool:
    return len(sizes) > 0 and all(a < b for a, b in itertools.pairwise((0, *sizes)))


def _slot_counts(n: int, powers: bool) -> tuple[int, ...]:
    """Doubling, up to one slot for every request; all powers of two if need be."""
    if n <= NARROWEST and not powers:
        return (-(-n // PARTS) * PARTS,)
    counts = [NARROWEST]
    while counts[-1] < n:
        counts.append(2 * counts[-1])
    return tuple(counts)
