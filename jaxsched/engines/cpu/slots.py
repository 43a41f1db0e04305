"""The active requests as plain arrays, and which of them an overflow evicts."""

from __future__ import annotations

from numba import int32, int64, uint64

from jaxsched.engines.cpu.layout import NEVER, CpuLane, CpuSlots, Record, call, jit, whole_blocks


@jit
def slot_add(lane: CpuLane, state: Record, i: int) -> None:
    """Gives request i, admitted now, the next slot."""
    request, slots, place = lane.requests[uint64(i)], lane.slots, uint64(state.active)
    request.slot = state.active
    slots.request[place] = i
    if lane.policy.latest:
        slots.key[place] = -state.now - 1 if lane.policy.largest else state.now
    elif lane.policy.moving or lane.policy.entering:
        slots.estimate[place] = request.estimate
        slots.start[place] = state.now
        slots.prompt[place] = request.prompt
        if lane.policy.entering:
            call(lane.policy.keys, lane.context, state.active, state.active + 1, state.now)
    else:
        slots.key[place] = lane.standing[uint64(i)]


@jit
def slot_drop(lane: CpuLane, state: Record, i: int) -> None:
    """Frees the slot of request i; the last one moves into it. `active` counts it no more."""
    slots, place, last = lane.slots, uint64(lane.requests[uint64(i)].slot), uint64(state.active)
    moved = slots.request[last]
    lane.requests[uint64(moved)].slot = place
    slots.request[place], slots.request[last] = moved, NEVER
    slots.key[place], slots.key[last] = slots.key[last], NEVER
    if lane.policy.moving:
        slots.estimate[place] = slots.estimate[last]
        slots.start[place] = slots.start[last]
        slots.prompt[place] = slots.prompt[last]


@jit
def smallest_key(lane: CpuLane, state: Record) -> int:
    """The smallest eviction key of this round; keys that move are brought up to it."""
    if not lane.policy.moving:
        return least_key(lane.slots, state.active)
    keys = lane.policy.narrow if state.largest <= lane.narrow_until else lane.policy.keys
    return call(keys, lane.context, int64(0), state.active, state.now)


@jit
def least_key(slots: CpuSlots, count: int) -> int:
    best = int32(NEVER)
    for j in range(whole_blocks(count)):
        best = min(best, slots.key[j])
    return int64(best)


@jit
def first_with(slots: CpuSlots, count: int, key: int, last: bool) -> int:
    """Of the active requests with this key the one of the lowest index, or the highest."""
    tie, flip, key = int32(NEVER), int32(-1 if last else 0), int32(key)  # ~i falls as i grows
    for j in range(whole_blocks(count)):
        tie = min(tie, int32(slots.request[j] ^ flip) if slots.key[j] == key else int32(NEVER))
    return int64(tie ^ flip)


@jit
def first_spent(lane: CpuLane, state: Record) -> int:
    """Of the active requests with their quantum generated, the one that is evicted first."""
    best, found = int64(0), int64(-1)
    for j in range(state.active):
        i = int64(lane.slots.request[uint64(j)])
        if lane.requests[uint64(i)].start + int64(lane.quantum[uint64(i)]) <= state.now:
            tie = -i if lane.policy.largest else i
            place = (int64(lane.slots.key[uint64(j)]) << 32) + tie
            if found < 0 or place < best:
                best, found = place, i
    return found
