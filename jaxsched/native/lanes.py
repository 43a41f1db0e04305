"""The compiled entry point: one call simulates a range of lanes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from jaxsched.instance import MAX_MEMORY
from jaxsched.native.events import run_events
from jaxsched.native.layout import (
    BLOCK,
    FINISHED,
    INVALID,
    LATEST,
    NEVER,
    OPTIONS,
    REQUEST,
    RING,
    SMALLEST,
    Ends,
    Ints,
    Lane,
    Record,
    Ring,
    Slots,
    jit,
)
from jaxsched.native.queues import sort_by
from jaxsched.native.scan import run_scan


class Batch(NamedTuple):
    """Lanes to simulate, and where their results go; int32 but for the totals."""

    prompt: Ints  # [lanes, n], like the next three
    output: Ints
    arrival: Ints
    estimate: Ints
    num_requests: NDArray  # [lanes], like the next two
    memory: Ints
    max_rounds: Ints
    completion: Ints  # [lanes, n], like the next two
    first_admission: Ints
    preemptions: Ints
    totals: NDArray  # STATE [lanes]


class Scratch(NamedTuple):
    """Memory that one thread uses for lane after lane."""

    requests: NDArray
    order: Ints
    coming: Ints
    spare: Ints
    counts: Ints
    heap: NDArray[np.int64]
    ends: Ints  # [3, places]
    slots: Ints  # [3, places]
    bucket: Ints
    bits: NDArray[np.uint64]


def scratch(n: int, longest: int) -> Scratch:
    """Memory for lanes of up to n requests with outputs of up to `longest` tokens."""
    ring = min(RING, max(64, 1 << int(longest).bit_length()))
    return Scratch(
        requests=np.zeros(n + 1, REQUEST),
        order=np.zeros(n, np.int32),
        coming=np.zeros(n, np.int32),
        spare=np.zeros(n, np.int32),
        counts=np.zeros(1 << 11, np.int32),
        heap=np.zeros(n + 2, np.int64),
        ends=np.zeros((3, 2 * n + 512 + BLOCK), np.int32),
        slots=np.zeros((3, n + BLOCK), np.int32),
        bucket=np.zeros(ring, np.int32),
        bits=np.zeros(ring // 64, np.uint64),
    )


def _compile(sources: int) -> Callable[..., None]:
    """Compiles the entry point, or loads it from numba's cache.

    The cache watches the file and the closure of the function it holds, not the files of the
    functions called: `sources`, a hash of them all, is in the closure for that.
    """

    @njit(**OPTIONS, cache=True)
    def run_lanes(
        batch: Batch, first: int, last: int, rule: int, max_batch: int, scratch: Scratch
    ) -> None:
        """Simulates lanes [first, last) of the batch."""
        if sources:
            for row in range(first, last):
                _run_lane(batch, row, rule, max_batch, scratch)

    return run_lanes


@jit
def _run_lane(batch: Batch, row: int, rule: int, max_batch: int, scratch: Scratch) -> None:
    state, count = batch.totals[row], batch.num_requests[row]
    batch.completion[row, :] = -1
    batch.first_admission[row, :] = -1
    batch.preemptions[row, :] = 0
    state.status = INVALID
    if not 0 <= count <= batch.prompt.shape[1]:
        return
    valid, evicts, exact, longest = _survey(batch, row, count)
    if not valid:
        return
    state.status = FINISHED
    if count == 0:
        return
    lane = _lane(batch, row, count, rule, max_batch, evicts, longest, scratch)
    _prepare(lane, state, batch, row, scratch)
    if exact and rule == SMALLEST and state.backlog == count <= max_batch:
        if run_scan(lane, state):
            return
        batch.completion[row, :] = -1
        batch.first_admission[row, :] = -1
        _prepare(lane, state, batch, row, scratch)
    run_events(lane, state)


@jit
def _survey(batch: Batch, row: int, count: int) -> tuple[bool, bool, bool, int]:
    """Whether a lane is valid, evictions are possible, and estimates exact; its longest output."""
    memory = batch.memory[row]
    valid, evicts, exact, longest = 1 <= memory <= MAX_MEMORY, False, True, 1
    for i in range(count):
        prompt, output = batch.prompt[row, i], batch.output[row, i]
        estimate, arrival = batch.estimate[row, i], batch.arrival[row, i]
        valid &= min(prompt, output, estimate) >= 1 and arrival >= 0 and prompt + output <= memory
        evicts |= output > estimate
        exact &= output == estimate
        longest = max(longest, output)
    return valid, evicts, exact, longest


@jit
def _lane(
    batch: Batch,
    row: int,
    count: int,
    rule: int,
    max_batch: int,
    evicts: bool,
    longest: int,
    scratch: Scratch,
) -> Lane:
    """The lane's view of the batch and the scratch memory."""
    ring = 64
    while ring <= longest and ring < RING:
        ring *= 2
    return Lane(
        rule,
        batch.memory[row],
        batch.max_rounds[row],
        max_batch,
        evicts,
        ring - 1,
        scratch.requests[: count + 1],
        scratch.order,
        scratch.coming[:count],
        scratch.heap,
        Ends(scratch.ends[0], scratch.ends[1], scratch.ends[2]),
        Slots(scratch.slots[0], scratch.slots[1], scratch.slots[2]),
        Ring(scratch.bucket[:ring], scratch.bits[: ring // 64]),
        batch.completion[row, :count],
        batch.first_admission[row],
        batch.preemptions[row],
    )


@jit
def _prepare(lane: Lane, state: Record, batch: Batch, row: int, scratch: Scratch) -> None:
    """Fills the queues and puts the state before the first arrival."""
    _load(lane, batch, row)
    _clear(lane, state)
    count, first = lane.coming.shape[0], 0
    sort_by(batch.arrival[row], lane.coming, count, scratch.spare, scratch.counts)
    state.now = lane.requests[lane.coming[0]].arrival
    while first < count and lane.requests[lane.coming[first]].arrival == state.now:
        lane.order[first] = lane.coming[first]
        first += 1
    if lane.rule != LATEST:
        sort_by(batch.estimate[row], lane.order, first, scratch.spare, scratch.counts)
    state.backlog = state.arrived = first
    state.next_end = NEVER


@jit
def _load(lane: Lane, batch: Batch, row: int) -> None:
    for i in range(lane.coming.shape[0]):
        request = lane.requests[i]
        request.prompt, request.output = batch.prompt[row, i], batch.output[row, i]
        request.arrival, request.estimate = batch.arrival[row, i], batch.estimate[row, i]
        request.start = -1
        lane.coming[i] = i


@jit
def _clear(lane: Lane, state: Record) -> None:
    state.active = state.level = state.low = state.high = state.head = state.heaped = 0
    state.finished = state.total_latency = state.evictions = state.wasted_tokens = 0
    state.memory_time = state.peak_memory = state.rounds = 0
    lane.ends.end[:] = NEVER
    lane.ring.bucket[:] = lane.coming.shape[0]
    lane.ring.bits[:] = 0
    if lane.evicts:
        lane.slots.key[:] = NEVER
        lane.slots.request[:] = NEVER
        lane.slots.start[:] = 0


def _sources() -> int:
    texts = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return int.from_bytes(hashlib.sha256(texts).digest()[:7], "big") | 1


run_lanes = _compile(_sources())
