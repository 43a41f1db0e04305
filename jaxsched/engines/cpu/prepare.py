"""From a row of the batch to a lane before its first round."""

from __future__ import annotations

from typing import NamedTuple

from numba import int64

from jaxsched.engines.cpu.batch import Batch, Scratch
from jaxsched.engines.cpu.layout import (
    FAMILY,
    LATEST,
    NETWORK,
    NEVER,
    RING,
    VOLUME,
    Ends,
    Lane,
    Record,
    Ring,
    Slots,
    jit,
)
from jaxsched.engines.cpu.queues import sort_by
from jaxsched.engines.cpu.rules import START, admission_key, first_estimate, keys_move, reserved
from jaxsched.instance import MAX_MEMORY


class Survey(NamedTuple):
    """What a look at all requests of a lane tells."""

    valid: bool
    exact: bool  # whether every output is the lower bound
    evicts: bool  # whether any is longer
    backlog: bool  # whether all arrive together
    longest: int  # output
    widest: int  # prompt


@jit
def survey_lane(batch: Batch, row: int, count: int, rule: int) -> Survey:
    """Looks once at all that the lane consists of."""
    memory = batch.memory[row]
    valid, exact, evicts, longest, widest = 1 <= memory <= MAX_MEMORY, True, False, 1, 1
    for i in range(count):
        prompt, output, lower = batch.prompt[row, i], batch.output[row, i], batch.lower[row, i]
        valid &= min(prompt, output, lower) >= 1 and prompt + output <= memory
        exact &= output == lower
        evicts |= output > lower
        longest, widest = max(longest, output), max(widest, prompt)
    if rule == FAMILY and batch.params[row, START] != 0:
        for i in range(count):
            valid &= batch.lower[row, i] <= batch.upper[row, i]
    signs = differ = int64(0)
    for i in range(count):
        signs |= batch.arrival[row, i]
        differ |= batch.arrival[row, i] ^ batch.arrival[row, 0]
    return Survey(valid and signs >= 0, exact, evicts, differ == 0, longest, widest)


@jit
def view_lane(
    batch: Batch,
    row: int,
    count: int,
    rule: int,
    max_batch: int,
    survey: Survey,
    scratch: Scratch,
) -> Lane:
    """The lane's view of the batch and the scratch memory."""
    ring = 64
    while ring <= survey.longest and ring < RING:
        ring *= 2
    ends, slots, memory = scratch.ends, scratch.slots, int64(batch.memory[row])
    return Lane(
        rule=rule,
        memory=memory,
        headroom=min(int64(batch.headroom[row]), memory),
        max_rounds=int64(batch.max_rounds[row]),
        max_batch=max_batch,
        moving=keys_move(rule, batch.params[row]),
        clocked=batch.clock.shape[1] > 0,
        mask=ring - 1,
        longest=survey.longest,
        widest=survey.widest,
        requests=scratch.requests[: count + 1],
        arrival=batch.arrival[row],
        key=scratch.key,
        order=scratch.order,
        coming=scratch.coming[:count],
        fresh=scratch.spare,
        heap=scratch.heap,
        ends=Ends(ends[0], ends[1], ends[2]),
        slots=Slots(slots[0], slots[1], slots[2], slots[3], slots[4]),
        ring=Ring(scratch.bucket[:ring], scratch.bits[: ring // 64]),
        params=batch.params[row],
        clock=batch.clock[row],
        completion=batch.completion[row, :count],
        first_admission=batch.first_admission[row],
        preemptions=batch.preemptions[row],
        times=batch.times[row],
        history=batch.history[row],
    )


@jit
def prepare(
    lane: Lane, state: Record, batch: Batch, row: int, survey: Survey, scratch: Scratch
) -> None:
    """Fills the queues and puts the state before the first arrival."""
    _clear(lane, state)
    _load(lane, batch, row)
    state.evicts = survey.evicts
    if lane.rule == VOLUME or lane.rule == FAMILY or lane.rule == NETWORK:
        _choose(lane, state, batch, row)
    if state.evicts:
        lane.slots.key[:] = NEVER
        lane.slots.request[:] = NEVER
        lane.slots.estimate[:] = NEVER
    count, state.backlog = lane.coming.shape[0], lane.coming.shape[0]
    if not survey.backlog:
        sort_by(lane.arrival, lane.coming, count, scratch.spare, scratch.counts)
        state.backlog = _first_to_arrive(lane)
    if lane.rule != LATEST:
        sort_by(lane.key, lane.order, state.backlog, scratch.spare, scratch.counts)
    else:
        for k in range(count):
            lane.key[lane.coming[k]] = k
    state.time = lane.arrival[lane.coming[0]]
    state.now = 0 if lane.clocked else state.time
    state.arrived, state.next_end = state.backlog, NEVER


@jit
def _load(lane: Lane, batch: Batch, row: int) -> None:
    """Fills in the requests and what the lower bound means to the simplest policies."""
    count = lane.coming.shape[0]
    for i in range(count):
        request, prompt = lane.requests[i], batch.prompt[row, i]
        request.prompt, request.output, request.start = prompt, batch.output[row, i], -1
        request.estimate = batch.lower[row, i]
        request.reserve = min(batch.lower[row, i], lane.memory - prompt)
    for i in range(count):
        lane.key[i] = batch.lower[row, i]
        lane.coming[i] = lane.order[i] = i


@jit
def _choose(lane: Lane, state: Record, batch: Batch, row: int) -> None:
    """Replaces estimates, reserves and keys by those of a policy that computes them."""
    rule, params, memory = lane.rule, lane.params, lane.memory
    evicts, largest = False, int64(0)
    for i in range(lane.coming.shape[0]):
        request, prompt = lane.requests[i], int64(batch.prompt[row, i])
        estimate = first_estimate(rule, params, int64(batch.lower[row, i]), batch.upper[row, i])
        reserve = reserved(rule, params, memory, prompt, estimate)
        evicts |= batch.output[row, i] > reserve
        largest = max(largest, estimate)
        request.estimate, request.reserve = estimate, min(reserve, memory - prompt)
        lane.key[i] = admission_key(rule, params, memory, prompt, estimate)
    state.evicts, state.largest = evicts, largest


@jit
def _first_to_arrive(lane: Lane) -> int:
    """Puts those that arrive first in the order of the backlog; returns how many they are."""
    count, first = 0, lane.arrival[lane.coming[0]]
    while count < lane.coming.shape[0] and lane.arrival[lane.coming[count]] == first:
        lane.order[count] = lane.coming[count]
        count += 1
    return count


@jit
def _clear(lane: Lane, state: Record) -> None:
    state.now = state.active = state.level = state.low = state.high = state.head = state.heaped = 0
    state.finished = state.alone = state.prompts = state.fresh = state.evicts = state.largest = 0
    state.total_latency = state.evictions = state.wasted_tokens = 0
    state.memory_time = state.peak_memory = state.rounds = 0
    lane.ends.end[:] = NEVER
    lane.ring.bucket[:] = lane.coming.shape[0]
    lane.ring.bits[:] = 0
