"""The event loop: from one round in which something can happen to the next."""

from __future__ import annotations

from numba import int64, uint64

from jaxsched.engines.cpu.clock import run_rounds
from jaxsched.engines.cpu.layout import LAST_TICK, NEVER, ROUND_LIMIT, CpuLane, Record, call, jit
from jaxsched.engines.cpu.lookahead import earliest, ends_add, ends_drop, ends_pass
from jaxsched.engines.cpu.queues import heap_pop, heap_push, ring_add, ring_drop, ring_next
from jaxsched.engines.cpu.slots import (
    first_spent,
    first_with,
    least_key,
    slot_add,
    slot_drop,
    smallest_key,
)


@jit
def run_events(lane: CpuLane, state: Record) -> None:
    """Simulates a lane whose queues are filled and whose state is that before its first round."""
    count = lane.completion.shape[0]
    while True:
        state.peak_memory = max(state.peak_memory, state.level + state.active * state.now)
        if state.next_end == state.now:
            _complete(lane, state)
        late = state.now >= lane.max_rounds or state.time >= LAST_TICK
        if state.finished == count or late:
            break
        see_arrivals(lane, state)
        ends_pass(lane.ends, state)
        if state.spent > 0:
            _give_up(lane, state)
        if state.level + state.active * (state.now + 1) > lane.memory:
            _make_fit(lane, state)
        wake = _admit(lane, state)
        event, arrival = _next_event(lane, state, wake), next_arrival(lane, state)
        if lane.clocked:
            cache = state.level + state.active * (state.now + 1)
            run_rounds(lane, state, event, arrival, cache)
        else:
            state.now = state.time = min(event, arrival)
    if state.finished < count:
        _cut(lane, state)


@jit
def _complete(lane: CpuLane, state: Record) -> None:
    """Lets the requests that end now leave, and counts those that have to give their place up;
    others in the bucket end a lap of the ring later."""
    i = int64(lane.ring.bucket[uint64(state.now & lane.mask)])
    while i < lane.completion.shape[0]:
        request = lane.requests[uint64(i)]
        after = int64(request.after)
        if request.start + request.output == state.now:
            lane.completion[uint64(i)] = state.rounds = state.now
            if lane.clocked:
                lane.times[uint64(i), uint64(2)] = state.time
            state.finished += 1
            _leave(lane, state, i)
        elif request.start + _most_tokens(lane, i) == state.now:
            state.spent += 1
        i = after
    state.next_end = ring_next(lane.ring, lane.mask, state.now)


@jit
def _most_tokens(lane: CpuLane, i: int) -> int:
    """What request i generates in a run that nothing cuts short."""
    output = int64(lane.requests[uint64(i)].output)
    if not lane.policy.quanta:
        return output
    return min(output, int64(lane.quantum[uint64(i)]))


@jit
def _leave(lane: CpuLane, state: Record, i: int) -> None:
    """Frees the place of request i and books its run."""
    request = lane.requests[uint64(i)]
    start, prompt = int64(request.start), int64(request.prompt)
    tokens = state.now - start
    state.active -= 1
    state.level -= prompt - start
    state.memory_time += prompt * tokens + tokens * (tokens + 1) // 2
    ring_drop(lane.ring, lane.mask, lane.requests, i, start + _most_tokens(lane, i))
    if state.evicts:
        slot_drop(lane, state, i)
    end = start + request.reserve
    if end > state.now:
        ends_drop(lane.ends, state, end, prompt - start)
    request.start = -1


@jit
def see_arrivals(lane: CpuLane, state: Record) -> None:
    """Moves requests that are known by now to the heap of those that wait."""
    while state.arrived < lane.coming.shape[0]:
        i = int64(lane.coming[state.arrived])
        if lane.arrival[uint64(i)] > state.time:
            break
        wait_in_line(lane, state, i)
        state.arrived += 1


@jit
def wait_in_line(lane: CpuLane, state: Record, i: int) -> None:
    """Puts request i on the heap of those that wait."""
    heap_push(lane.heap, state.heaped, _place_in_line(lane, i))
    state.heaped += 1


@jit
def _place_in_line(lane: CpuLane, i: int) -> int:
    """Key and index in one integer; the smallest is admitted first."""
    return (int64(lane.key[uint64(i)]) << 32) | i


@jit
def _give_up(lane: CpuLane, state: Record) -> None:
    """Evicts those that have generated their quantum."""
    if lane.policy.moving:
        smallest_key(lane, state)
    while state.spent > 0:
        _send_back(lane, state, first_spent(lane, state))
        state.spent -= 1
    state.next_end = ring_next(lane.ring, lane.mask, state.now)


@jit
def _make_fit(lane: CpuLane, state: Record) -> None:
    """Evicts until the coming round fits."""
    key = smallest_key(lane, state)
    while True:
        _send_back(lane, state, first_with(lane.slots, state.active, key, lane.policy.largest))
        if state.level + state.active * (state.now + 1) <= lane.memory:
            return
        key = least_key(lane.slots, state.active)


@jit
def _send_back(lane: CpuLane, state: Record, i: int) -> None:
    """Evicts request i: it waits again, with the estimate that the policy now has."""
    start = int64(lane.requests[uint64(i)].start)
    end = start + _most_tokens(lane, i)
    _leave(lane, state, i)
    estimate = call(lane.policy.refine, lane.context, i, state.now - start, int64(0))
    state.largest = max(state.largest, estimate)
    note_eviction(lane, state, i, start, state.now - start, int64(0))
    wait_in_line(lane, state, i)
    if end == state.next_end:
        state.next_end = ring_next(lane.ring, lane.mask, state.now)


@jit
def note_eviction(lane: CpuLane, state: Record, i: int, start: int, lost: int, kept: int) -> None:
    """Books the end of a run that began in round `start`, the tokens it lost and those it keeps."""
    if state.evictions < lane.history.shape[0]:
        run = lane.history[uint64(state.evictions)]
        run[0], run[1], run[2] = i, start, state.now
        if lane.history.shape[1] > 3:
            run[3] = kept
    state.evictions += 1
    state.wasted_tokens += lost
    lane.preemptions[uint64(i)] += 1


@jit
def _admit(lane: CpuLane, state: Record) -> int:
    """Admits those that wait, in order, while they fit; returns when the next one may."""
    while state.heaped > 0 or state.head < state.backlog:
        item, heaped = next_waiting(lane, state)
        i = item & NEVER
        request = lane.requests[uint64(i)]
        prompt, reserve = int64(request.prompt), int64(request.reserve)
        headroom = lane.policy.headroom and state.active > 0
        memory = lane.memory
        if headroom:
            memory -= lane.headroom[uint64(i)]
        crowded = state.level + state.active * (state.now + 1) + prompt + 1 > memory
        if crowded or prompt + reserve > memory or state.active == lane.max_batch:
            return int64(NEVER)  # only somebody leaving can change that
        wake, place = earliest(lane.ends, state, prompt, reserve, memory, headroom)
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
def next_waiting(lane: CpuLane, state: Record) -> tuple[int, bool]:
    """The waiting request that is first, and whether it is on the heap."""
    if state.head == state.backlog:
        return lane.heap[0], True
    item = _place_in_line(lane, int64(lane.order[uint64(state.head)]))
    if state.heaped > 0 and lane.heap[0] < item:
        return lane.heap[0], True
    return item, False


@jit
def _enter(lane: CpuLane, state: Record, i: int) -> None:
    """Makes request i active."""
    request = lane.requests[uint64(i)]
    request.start = state.now
    if lane.first_admission[uint64(i)] < 0:
        lane.first_admission[uint64(i)] = state.now
        if lane.clocked:
            lane.times[uint64(i), uint64(0)] = state.time
            lane.fresh[uint64(state.fresh)] = i
            state.fresh += 1
    end = state.now + _most_tokens(lane, i)
    ring_add(lane.ring, lane.mask, lane.requests, i, end)
    if state.evicts:
        slot_add(lane, state, i)
    state.level += request.prompt - state.now
    state.prompts += request.prompt
    state.active += 1
    state.next_end = min(state.next_end, end)


@jit
def _next_event(lane: CpuLane, state: Record, wake: int) -> int:
    """The next round in which somebody completes, overflows or may be admitted."""
    event = min(state.next_end, wake, lane.max_rounds)
    if state.evicts and state.active > 0:
        event = min(event, (lane.memory - state.level) // state.active)
    return event


@jit
def next_arrival(lane: CpuLane, state: Record) -> int:
    """When the next request arrives; `LAST_TICK` if none will."""
    if state.arrived == lane.coming.shape[0]:
        return int64(LAST_TICK)
    return lane.arrival[uint64(lane.coming[state.arrived])]


@jit
def _cut(lane: CpuLane, state: Record) -> None:
    """Books the runs that the round limit cuts short."""
    state.status = ROUND_LIMIT
    for i in range(lane.completion.shape[0]):
        request = lane.requests[i]
        if request.start >= 0:
            tokens = state.now - request.start
            state.memory_time += request.prompt * tokens + tokens * (tokens + 1) // 2
