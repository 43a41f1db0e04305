"""The event loop: from one round in which something can happen to the next."""

from __future__ import annotations

from numba import int64, uint64

from jaxsched.native.layout import LATEST, NEVER, ROUND_LIMIT, Lane, Record, jit
from jaxsched.native.lookahead import earliest, ends_add, ends_drop, ends_pass
from jaxsched.native.queues import heap_pop, heap_push, ring_add, ring_drop, ring_next
from jaxsched.native.slots import first_to_evict, slot_add, slot_drop


@jit
def run_events(lane: Lane, state: Record) -> None:
    """Simulates a lane whose queues are filled and whose state is that before its first round."""
    count = lane.completion.shape[0]
    while True:
        state.peak_memory = max(state.peak_memory, state.level + state.active * state.now)
        if state.next_end == state.now:
            _complete(lane, state)
        if state.finished == count or state.now >= lane.max_rounds:
            break
        _arrive(lane, state)
        ends_pass(lane.ends, state)
        while state.level + state.active * (state.now + 1) > lane.memory:
            _evict(lane, state)
        wake = _admit(lane, state)
        state.now = _next_event(lane, state, wake)
    if state.finished < count:
        _cut(lane, state)


@jit
def _complete(lane: Lane, state: Record) -> None:
    """Lets the requests that end now leave; others in the bucket end a lap of the ring later."""
    i = int64(lane.ring.bucket[uint64(state.now & lane.mask)])
    while i < lane.completion.shape[0]:
        request = lane.requests[uint64(i)]
        after = int64(request.after)
        if request.start + request.output == state.now:
            lane.completion[uint64(i)] = state.rounds = state.now
            state.total_latency += state.now - request.arrival
            state.finished += 1
            _leave(lane, state, i)
        i = after
    state.next_end = ring_next(lane.ring, lane.mask, state.now)


@jit
def _leave(lane: Lane, state: Record, i: int) -> None:
    """Frees the place of request i and books its run."""
    request = lane.requests[uint64(i)]
    start, prompt = int64(request.start), int64(request.prompt)
    tokens = state.now - start
    state.active -= 1
    state.level -= prompt - start
    state.memory_time += prompt * tokens + tokens * (tokens + 1) // 2
    ring_drop(lane.ring, lane.mask, lane.requests, i, start + request.output)
    if lane.evicts:
        slot_drop(lane, state, i)
    end = start + min(int64(request.estimate), lane.memory - prompt)
    if end > state.now:
        ends_drop(lane.ends, state, end, prompt - start)
    request.start = -1


@jit
def _arrive(lane: Lane, state: Record) -> None:
    """Moves requests that are known by now to the heap of those that wait."""
    while state.arrived < lane.coming.shape[0]:
        i = int64(lane.coming[state.arrived])
        if lane.requests[uint64(i)].arrival > state.now:
            break
        _wait(lane, state, i)
        state.arrived += 1


@jit
def _wait(lane: Lane, state: Record, i: int) -> None:
    heap_push(lane.heap, state.heaped, _admission_key(lane, i))
    state.heaped += 1


@jit
def _admission_key(lane: Lane, i: int) -> int:
    """Key and index in one integer; the smallest is admitted first."""
    request = lane.requests[uint64(i)]
    key = request.arrival if lane.rule == LATEST else request.estimate
    return (int64(key) << 32) | i


@jit
def _evict(lane: Lane, state: Record) -> None:
    """Evicts one request and refines its estimate."""
    i = first_to_evict(lane, state)
    request = lane.requests[uint64(i)]
    tokens, end = state.now - request.start, request.start + int64(request.output)
    _leave(lane, state, i)
    state.evictions += 1
    state.wasted_tokens += tokens
    lane.preemptions[uint64(i)] += 1
    if lane.rule != LATEST:
        request.estimate = max(int64(request.estimate), tokens)
    _wait(lane, state, i)
    if end == state.next_end:
        state.next_end = ring_next(lane.ring, lane.mask, state.now)


@jit
def _admit(lane: Lane, state: Record) -> int:
    """Admits those that wait, in order, while they fit; returns when the next one may."""
    while state.heaped > 0 or state.head < state.backlog:
        item, heaped = _next_waiting(lane, state)
        i = item & NEVER
        request = lane.requests[uint64(i)]
        prompt = int64(request.prompt)
        crowded = state.level + state.active * (state.now + 1) + prompt + 1 > lane.memory
        if crowded or state.active == lane.max_batch:
            return int64(NEVER)  # only somebody leaving can change that
        reserve = min(int64(request.estimate), lane.memory - prompt)
        wake, place = earliest(lane.ends, state, prompt, reserve, lane.memory)
        if wake > state.now:
            return wake
        if heaped:
            heap_pop(lane.heap, state.heaped)
            state.heaped -= 1
        else:
            state.head += 1
        ends_add(lane.ends, state, place, state.now + reserve, prompt - state.now)
        _enter(lane, state, i)
    return int64(NEVER)


@jit
def _next_waiting(lane: Lane, state: Record) -> tuple[int, bool]:
    """The waiting request that is first, and whether it is on the heap."""
    if state.head == state.backlog:
        return lane.heap[0], True
    item = _admission_key(lane, int64(lane.order[uint64(state.head)]))
    if state.heaped > 0 and lane.heap[0] < item:
        return lane.heap[0], True
    return item, False


@jit
def _enter(lane: Lane, state: Record, i: int) -> None:
    """Makes request i active."""
    request = lane.requests[uint64(i)]
    request.start = state.now
    if lane.first_admission[uint64(i)] < 0:
        lane.first_admission[uint64(i)] = state.now
    end = state.now + request.output
    ring_add(lane.ring, lane.mask, lane.requests, i, end)
    if lane.evicts:
        slot_add(lane, state, i)
    state.level += request.prompt - state.now
    state.active += 1
    state.next_end = min(state.next_end, end)


@jit
def _next_event(lane: Lane, state: Record, wake: int) -> int:
    """The next round in which somebody completes, arrives, overflows or may be admitted."""
    event = min(state.next_end, wake, lane.max_rounds)
    if state.arrived < lane.coming.shape[0]:
        event = min(event, int64(lane.requests[uint64(lane.coming[state.arrived])].arrival))
    if lane.evicts and state.active > 0:
        event = min(event, (lane.memory - state.level) // state.active)
    return event


@jit
def _cut(lane: Lane, state: Record) -> None:
    """Books the runs that the round limit cuts short."""
    state.status = ROUND_LIMIT
    for i in range(lane.completion.shape[0]):
        request = lane.requests[i]
        if request.start >= 0:
            tokens = state.now - request.start
            state.memory_time += request.prompt * tokens + tokens * (tokens + 1) // 2
