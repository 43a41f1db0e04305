"""The active requests as plain arrays, and which of them an overflow evicts."""

from __future__ import annotations

from numba import int32, int64, uint64

from jaxsched.engines.cpu.layout import (
    FAMILY,
    NETWORK,
    NEVER,
    Lane,
    Record,
    Slots,
    jit,
    whole_blocks,
)
from jaxsched.engines.cpu.network import EVICT, network_key
from jaxsched.engines.cpu.rules import (
    EVICT_ESTIMATE,
    EVICT_PROGRESS,
    EVICT_PROMPT,
    RUN_GROWTH,
    keys_are_narrow,
    narrow_key,
    running_key,
    standing_key,
)


@jit
def slot_add(lane: Lane, state: Record, i: int) -> None:
    """Gives request i, admitted now, the next slot."""
    request, slots, place = lane.requests[uint64(i)], lane.slots, uint64(state.active)
    request.slot = state.active
    slots.request[place] = i
    if lane.moving:
        slots.estimate[place] = request.estimate
        slots.start[place] = state.now
        slots.prompt[place] = request.prompt
    else:
        slots.key[place] = standing_key(lane, i, state.now)


@jit
def slot_drop(lane: Lane, state: Record, i: int) -> None:
    """Frees the slot of request i; the last one moves into it. `active` counts it no more."""
    slots, place, last = lane.slots, uint64(lane.requests[uint64(i)].slot), uint64(state.active)
    moved = slots.request[last]
    lane.requests[uint64(moved)].slot = place
    slots.request[place], slots.request[last] = moved, NEVER
    slots.key[place], slots.key[last] = slots.key[last], NEVER
    if lane.moving:
        slots.estimate[place], slots.estimate[last] = slots.estimate[last], NEVER
        slots.start[place] = slots.start[last]
        slots.prompt[place] = slots.prompt[last]


@jit
def smallest_key(lane: Lane, state: Record) -> int:
    """The smallest eviction key of this round; keys that move are brought up to it."""
    slots, params = lane.slots, lane.params
    if not lane.moving:
        return least(slots, state.active)
    if lane.rule == NETWORK:
        return _move_network(lane, state.active, state.now)
    if lane.rule != FAMILY:
        return _move_estimates(slots, state.active, state.now)
    numbers = (
        params[EVICT_ESTIMATE],
        params[EVICT_PROGRESS],
        params[EVICT_PROMPT],
        params[RUN_GROWTH],
    )
    if keys_are_narrow(lane, state.largest):
        return _move_narrow(slots, state.active, state.now, numbers)
    return _move_wide(slots, state.active, state.now, numbers)


@jit
def _move_estimates(slots: Slots, count: int, now: int) -> int:
    best, now = int32(NEVER), int32(now)
    for j in range(whole_blocks(count)):
        slots.key[j] = key = max(slots.estimate[j], int32(now - slots.start[j]))
        best = min(best, key)
    return int64(best)


@jit
def _move_narrow(slots: Slots, count: int, now: int, numbers: tuple[int, int, int, int]) -> int:
    a, b, c, d = numbers
    narrow, now = (int32(a), int32(b), int32(c), int32(d)), int32(now)
    best, never = int32(NEVER), int32(NEVER)
    for j in range(whole_blocks(count)):
        estimate, tokens = slots.estimate[j], int32(now - slots.start[j])
        running = narrow_key(narrow, estimate, tokens, slots.prompt[j])
        slots.key[j] = key = running if estimate != never else never
        best = min(best, key)
    return int64(best)


@jit
def _move_wide(slots: Slots, count: int, now: int, numbers: tuple[int, int, int, int]) -> int:
    best = int64(NEVER)
    for j in range(count):
        tokens = now - slots.start[j]
        slots.key[j] = key = running_key(numbers, slots.estimate[j], tokens, slots.prompt[j])
        best = min(best, key)
    return best


@jit
def _move_network(lane: Lane, count: int, now: int) -> int:
    best, slots = int64(NEVER), lane.slots
    for j in range(count):
        prompt, state = int64(slots.prompt[j]), int64(slots.estimate[j])
        tokens = now - slots.start[j]
        key = network_key(EVICT, lane.params, lane.memory, prompt, state, tokens)
        slots.key[j] = key
        best = min(best, key)
    return best


@jit
def least(slots: Slots, count: int) -> int:
    best = int32(NEVER)
    for j in range(whole_blocks(count)):
        best = min(best, slots.key[j])
    return int64(best)


@jit
def first_with(slots: Slots, count: int, key: int, last: bool) -> int:
    """Of the active requests with this key the one of the lowest index, or the highest."""
    tie, flip, key = int32(NEVER), int32(-1 if last else 0), int32(key)  # ~i falls as i grows
    for j in range(whole_blocks(count)):
        tie = min(tie, int32(slots.request[j] ^ flip) if slots.key[j] == key else int32(NEVER))
    return int64(tie ^ flip)
