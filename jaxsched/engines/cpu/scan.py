"""A backlog in an order that never changes, with exact estimates: one pass over the requests.

Nobody is evicted and nobody leaves before the expected end, and as estimates ascend, so do the
ends: a new one is the last. What remains of the event loop is to find, request by request, the
round in which it starts.
"""

from __future__ import annotations

from numba import int32, int64, uint64

from jaxsched.engines.cpu.layout import NEVER, CpuLane, Ends, Record, jit, whole_blocks
from jaxsched.engines.cpu.lookahead import ends_append


@jit
def run_scan(lane: CpuLane, state: Record) -> bool:
    """Simulates a lane as `run_events` does; False, half done, if the round limit would bind."""
    wake, count = state.now, state.backlog
    for k in range(count):
        i = int64(lane.order[uint64(k)])
        request = lane.requests[uint64(i)]
        if wake > state.now:
            state.now = wake
            _pass(lane.ends, state)
        end = state.now + request.output
        if end > lane.max_rounds:
            return False
        following = lane.requests[uint64(lane.order[uint64(min(k + 1, count - 1))])]
        wake = _start(lane.ends, state, request, end, int64(following.prompt) - lane.memory)
        lane.first_admission[uint64(i)], lane.completion[uint64(i)] = state.now, end
    state.now = NEVER
    _pass(lane.ends, state)
    state.finished = count
    return True


@jit
def _start(ends: Ends, state: Record, request: Record, end: int, slack: int) -> int:
    """Starts a request now; returns the first round in which the following one fits."""
    level, output = request.prompt - state.now, int64(request.output)
    wake = _raise_and_look(ends, state, end, level, slack)
    if state.low == state.high or ends.end[uint64(state.high - 1)] != end:
        height = 2 * end + level
        ends_append(ends, state, end, height)
        wake = max(wake, min(end, height + slack))
    state.total_latency += end - state.time
    state.memory_time += request.prompt * output + output * (output + 1) // 2
    state.rounds = max(state.rounds, end)
    return wake


@jit
def _raise_and_look(ends: Ends, state: Record, last: int, level: int, slack: int) -> int:
    """Adds a request at every end (none is after its own) and looks ahead for the following."""
    found, level, slack, last = int32(0), int32(level), int32(slack), int32(last)
    low = uint64(state.low & ~7)
    for j in range(low, low + uint64(whole_blocks(state.high - (state.low & ~7)))):
        end = ends.end[j]
        height = int32(ends.height[j] + int32(level + end))
        ends.height[j] = height
        found = max(found, min(end, int32(height + slack)) if end <= last else int32(0))
    return int64(found)


@jit
def _pass(ends: Ends, state: Record) -> None:
    """Forgets the ends that are not ahead any more; memory in use peaks just before each."""
    while state.low < state.high and ends.end[uint64(state.low)] <= state.now:
        peak = int64(ends.height[uint64(state.low)]) - ends.end[uint64(state.low)]
        state.peak_memory = max(state.peak_memory, peak)
        state.low += 1
