"""The active requests as plain arrays, and which of them an overflow evicts."""

from __future__ import annotations

from numba import int32, int64, uint64
from numpy.typing import NDArray

from jaxsched.native.layout import (
    LATEST,
    NEVER,
    SMALLEST_RUNNING,
    Lane,
    Record,
    jit,
    whole_blocks,
)


@jit
def slot_add(lane: Lane, state: Record, i: int) -> None:
    """Gives request i, admitted now, the next slot."""
    request, place = lane.requests[uint64(i)], uint64(state.active)
    lane.slots.key[place] = -state.now if lane.rule == LATEST else request.estimate
    lane.slots.start[place] = state.now
    lane.slots.request[place] = i
    request.slot = state.active


@jit
def slot_drop(lane: Lane, state: Record, i: int) -> None:
    """Frees the slot of request i; the last one moves into it. `active` counts it no more."""
    slots, place, last = lane.slots, lane.requests[uint64(i)].slot, uint64(state.active)
    moved = slots.request[last]
    lane.requests[uint64(moved)].slot = place
    slots.request[uint64(place)], slots.request[last] = moved, NEVER
    slots.key[uint64(place)], slots.key[last] = slots.key[last], NEVER
    slots.start[uint64(place)], slots.start[last] = slots.start[last], 0


@jit
def first_to_evict(lane: Lane, state: Record) -> int:
    """The active request that is first in the eviction order of the lane's rule."""
    slots = lane.slots
    if lane.rule == SMALLEST_RUNNING:
        return _smallest_running(slots.key, slots.start, slots.request, state.active, state.now)
    flip = -1 if lane.rule == LATEST else 0  # ~i falls as i grows
    return _smallest(slots.key, slots.request, state.active, flip)


@jit
def _smallest(key: NDArray, request: NDArray, count: int, flip: int) -> int:
    best, tie, flip = int32(NEVER), int32(NEVER), int32(flip)
    for j in range(whole_blocks(count)):
        best = min(best, key[j])
    for j in range(whole_blocks(count)):
        tie = min(tie, int32(request[j] ^ flip) if key[j] == best else int32(NEVER))
    return int64(tie ^ flip)


@jit
def _smallest_running(key: NDArray, start: NDArray, request: NDArray, count: int, now: int) -> int:
    best, tie, now = int32(NEVER), int32(NEVER), int32(now)
    for j in range(whole_blocks(count)):
        best = min(best, max(key[j], int32(now - start[j])))
    for j in range(whole_blocks(count)):
        running = max(key[j], int32(now - start[j]))
        tie = min(tie, request[j] if running == best else int32(NEVER))
    return int64(tie)
