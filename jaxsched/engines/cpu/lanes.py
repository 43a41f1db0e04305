"""The compiled entry point: one call simulates a range of lanes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from numba import njit

from jaxsched.engines.cpu.batch import CpuBatch, Scratch
from jaxsched.engines.cpu.blocks import run_blocks
from jaxsched.engines.cpu.events import run_events
from jaxsched.engines.cpu.layout import FINISHED, INVALID, OPTIONS, Compiled, CpuLane, Record, jit
from jaxsched.engines.cpu.prepare import prepare, survey_lane, view_blocks, view_lane
from jaxsched.engines.cpu.scan import run_scan


def _compile(run: Callable[..., None], sources: int) -> Callable[..., None]:
    """Compiles an entry point, or loads it from numba's cache.

    The cache watches the file and the closure of the function it holds, not the files of the
    functions called: `sources`, a hash of them all, is in the closure for that, and in the name, so
    that what an older version left there is not even opened. Nothing else may be in the closure: a
    compiled function there differs from process to process.
    """
    run.__qualname__ = f"{run.__name__}_{sources:x}"
    return njit(**OPTIONS, cache=True)(run)


def _on_papers_worker(sources: int) -> Callable[..., None]:
    def run_lanes(
        batch: CpuBatch, first: int, last: int, policy: Compiled, scratch: Scratch
    ) -> None:
        """Simulates lanes [first, last) of the batch."""
        if sources:
            for row in range(first, last):
                _run_lane(batch, row, policy, scratch)

    return _compile(run_lanes, sources)


def _on_blocks(sources: int) -> Callable[..., None]:
    def run_block_lanes(
        batch: CpuBatch, first: int, last: int, policy: Compiled, scratch: Scratch
    ) -> None:
        """The same on the worker of a serving engine."""
        if sources:
            for row in range(first, last):
                _run_block_lane(batch, row, policy, scratch)

    return _compile(run_block_lanes, sources)


@jit
def _run_lane(batch: CpuBatch, row: int, policy: Compiled, scratch: Scratch) -> None:
    """On the papers' worker."""
    state, count = batch.totals[row], batch.num_requests[row]
    if not _begin(batch, row):
        return
    survey = survey_lane(batch, row, count)
    lane = view_lane(batch, row, count, policy, survey, scratch)
    scan = count <= batch.max_batch and not (policy.headroom or policy.quanta or lane.clocked)
    while True:
        scan &= prepare(lane, state, batch, row, survey, scratch)
        if not scan:
            break
        if run_scan(lane, state):
            return
        _clear_results(batch, row)
        scan = False
    run_events(lane, state)
    if not lane.clocked:
        _sum_latencies(lane, state)


@jit
def _run_block_lane(batch: CpuBatch, row: int, policy: Compiled, scratch: Scratch) -> None:
    """On the worker of a serving engine."""
    state, count = batch.totals[row], batch.num_requests[row]
    if not _begin(batch, row):
        return
    survey = survey_lane(batch, row, count)
    lane = view_lane(batch, row, count, policy, survey, scratch)
    own = view_blocks(batch, row, scratch)
    prepare(lane, state, batch, row, survey, scratch)
    run_blocks(lane, own, state)
    if not lane.clocked:
        _sum_latencies(lane, state)


@jit
def _begin(batch: CpuBatch, row: int) -> bool:
    """Clears a row's results; whether there is anything to simulate."""
    state, count = batch.totals[row], batch.num_requests[row]
    _clear_results(batch, row)
    state.status = INVALID if count < 0 else FINISHED
    return count > 0


@jit
def _clear_results(batch: CpuBatch, row: int) -> None:
    batch.completion[row, :] = -1
    batch.first_admission[row, :] = -1
    batch.preemptions[row, :] = 0


@jit
def _sum_latencies(lane: CpuLane, state: Record) -> None:
    for i in range(lane.completion.shape[0]):
        if lane.completion[i] >= 0:
            state.total_latency += lane.completion[i] - lane.arrival[i]


def _sources() -> int:
    texts = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return int.from_bytes(hashlib.sha256(texts).digest()[:7], "big") | 1


run_lanes, run_block_lanes = _on_papers_worker(_sources()), _on_blocks(_sources())
