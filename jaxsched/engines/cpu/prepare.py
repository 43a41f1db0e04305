"""From a row of the batch to a lane before its first round."""

from __future__ import annotations

from typing import NamedTuple

from numba import int32, int64

from jaxsched.engines.cpu import layout
from jaxsched.engines.cpu.batch import CpuBatch, Scratch
from jaxsched.engines.cpu.blocks import BlockLane
from jaxsched.engines.cpu.layout import (
    NEVER,
    RING,
    Compiled,
    CpuLane,
    CpuSlots,
    Ends,
    Record,
    Ring,
    address,
    call,
    jit,
)
from jaxsched.engines.cpu.queues import sort_by


class Survey(NamedTuple):
    """What a look at all requests of a lane tells."""

    backlog: bool  # whether all arrive together
    longest: int  # output


@jit
def survey_lane(batch: CpuBatch, row: int, count: int) -> Survey:
    """Looks once at all that the lane consists of."""
    longest, differ = int32(1), int64(0)
    for i in range(count):
        longest = max(longest, batch.output[row, i])
    for i in range(count):
        differ |= batch.arrival[row, i] ^ batch.arrival[row, 0]
    return Survey(differ == 0, int64(longest))


@jit
def view_lane(
    batch: CpuBatch, row: int, count: int, policy: Compiled, survey: Survey, scratch: Scratch
) -> CpuLane:
    """The lane's view of the batch and the scratch memory."""
    ring = 64
    while ring <= survey.longest and ring < RING:
        ring *= 2
    ends, slots, own = scratch.ends, scratch.slots, scratch.of_requests
    admitted = scratch.of_slots[0] if batch.worker.shape[1] > 0 else slots[3]
    lane = CpuLane(
        memory=int64(batch.memory[row]),
        max_rounds=batch.max_rounds,
        max_batch=batch.max_batch,
        policy=policy,
        narrow_until=batch.narrow_until[row],
        clocked=batch.clock.shape[1] > 0,
        mask=ring - 1,
        context=address(scratch.context),
        requests=scratch.requests[: count + 1],
        arrival=batch.arrival[row],
        key=own[0],
        standing=own[1],
        headroom=own[2],
        quantum=own[3],
        turn=own[4],
        order=scratch.order,
        coming=scratch.coming[:count],
        fresh=scratch.spare,
        heap=scratch.heap,
        ends=Ends(ends[0], ends[1], ends[2]),
        slots=CpuSlots(slots[0], slots[1], slots[2], slots[3], slots[4], admitted),
        ring=Ring(scratch.bucket[:ring], scratch.bits[: ring // 64]),
        clock=batch.clock[row],
        completion=batch.completion[row, :count],
        first_admission=batch.first_admission[row],
        preemptions=batch.preemptions[row],
        times=batch.times[row],
        history=batch.history[row],
        width=batch.completion.shape[1],
    )
    _fill_context(lane, batch, row, scratch)
    return lane


@jit
def view_blocks(batch: CpuBatch, row: int, scratch: Scratch) -> BlockLane:
    """What the lane has besides on a worker with blocks."""
    block, seqs, budget, watermark = batch.worker[row]
    shift = int64(0)
    while (int64(1) << shift) < block:
        shift += 1
    return BlockLane(
        block=int64(block),
        shift=shift if (int64(1) << shift) == block else int64(-1),
        blocks=int64(batch.memory[row]) // int64(block),
        cap=min(int64(seqs), int64(batch.max_batch)),
        budget=int64(budget),
        watermark=int64(watermark),
        generated=scratch.of_blocks[0],
        due=scratch.of_blocks[1],
        full=scratch.of_blocks[2],
        crossing=scratch.crossing[:block],
        until=scratch.of_slots[1],
    )


@jit
def _fill_context(lane: CpuLane, batch: CpuBatch, row: int, scratch: Scratch) -> None:
    """Tells the functions of the policy where everything is."""
    context = scratch.context
    context[layout.MEMORY] = batch.memory[row]
    context[layout.PARAMS] = address(batch.params[row])
    context[layout.PROMPT] = address(batch.prompt[row])
    context[layout.OUTPUT] = address(batch.output[row])
    context[layout.LOWER] = address(batch.lower[row])
    context[layout.UPPER] = address(batch.upper[row])
    context[layout.POINT] = address(batch.point[row])
    context[layout.ARRIVAL] = address(lane.turn)
    context[layout.RANK] = address(batch.rank[row])
    context[layout.EVICTIONS] = address(lane.preemptions)
    context[layout.REQUESTS] = address(lane.requests)
    context[layout.KEY] = address(lane.key)
    context[layout.STANDING] = address(lane.standing)
    context[layout.HEADROOM] = address(lane.headroom)
    context[layout.QUANTUM] = address(lane.quantum)
    context[layout.SLOT_KEY] = address(lane.slots.key)
    context[layout.SLOT_REQUEST] = address(lane.slots.request)
    context[layout.SLOT_ESTIMATE] = address(lane.slots.estimate)
    context[layout.SLOT_START] = address(lane.slots.start)
    context[layout.SLOT_PROMPT] = address(lane.slots.prompt)
    context[layout.SLOT_ADMITTED] = address(lane.slots.admitted)


@jit
def prepare(
    lane: CpuLane, state: Record, batch: CpuBatch, row: int, survey: Survey, scratch: Scratch
) -> bool:
    """Fills the queues and puts the state before the first arrival.

    Returns:
      Whether requests enter in order of their outputs, which are what they reserve.
    """
    _clear(lane, state)
    _load(lane, batch, row)
    count, state.backlog = lane.coming.shape[0], lane.coming.shape[0]
    if not survey.backlog:
        sort_by(lane.arrival, lane.coming, count, scratch.spare, scratch.counts)
        state.backlog = _first_to_arrive(lane)
    if lane.policy.reads_arrival:
        _count_turns(lane)
    call(lane.policy.start, lane.context, int64(count), int64(0), int64(0))
    in_order = _look_ahead(lane, state)
    if state.evicts:
        lane.slots.key[:] = NEVER
        lane.slots.request[:] = NEVER
    sort_by(lane.key, lane.order, state.backlog, scratch.spare, scratch.counts)
    state.time = lane.arrival[lane.coming[0]]
    state.now = 0 if lane.clocked else state.time
    state.arrived, state.next_end = state.backlog, NEVER
    return in_order and survey.backlog


@jit
def _load(lane: CpuLane, batch: CpuBatch, row: int) -> None:
    for i in range(lane.coming.shape[0]):
        request = lane.requests[i]
        request.prompt, request.output = batch.prompt[row, i], batch.output[row, i]
        request.start = -1
        lane.coming[i] = lane.order[i] = i


@jit
def _look_ahead(lane: CpuLane, state: Record) -> bool:
    """Notes whether anybody can outrun a reservation; returns whether all are what they look."""
    evicts, exact, largest = False, True, int32(0)
    for i in range(lane.coming.shape[0]):
        request = lane.requests[i]
        evicts |= request.output > request.reserve
        exact &= request.output == request.reserve and lane.key[i] == request.output
        largest = max(largest, request.estimate)
    state.evicts, state.largest = evicts or lane.policy.quanta, largest
    return exact


@jit
def _first_to_arrive(lane: CpuLane) -> int:
    """Puts those that arrive first in the order of the backlog; returns how many they are."""
    count, first = 0, lane.arrival[lane.coming[0]]
    while count < lane.coming.shape[0] and lane.arrival[lane.coming[count]] == first:
        lane.order[count] = lane.coming[count]
        count += 1
    return count


@jit
def _count_turns(lane: CpuLane) -> None:
    """What a policy sees of arrivals: the round, or the number of different ones before."""
    turn, before = -1, int64(-1)
    for k in range(lane.coming.shape[0]):
        i = lane.coming[k]
        turn += int64(lane.arrival[i] != before)
        before = lane.arrival[i]
        lane.turn[i] = turn if lane.clocked else before


@jit
def _clear(lane: CpuLane, state: Record) -> None:
    state.now = state.active = state.level = state.low = state.high = state.head = state.heaped = 0
    state.finished = state.spent = state.prompts = state.fresh = state.evicts = state.largest = 0
    state.total_latency = state.evictions = state.wasted_tokens = 0
    state.memory_time = state.peak_memory = state.rounds = 0
    lane.ends.end[:] = NEVER
    lane.ring.bucket[:] = lane.coming.shape[0]
    lane.ring.bits[:] = 0
