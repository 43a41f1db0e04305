"""Orders and queues: a radix sort, a heap of those that wait, a ring of completions."""

from __future__ import annotations

from numba import int64, uint64
from numpy.typing import NDArray

from jaxsched.engines.cpu.layout import NEVER, Ring, jit, trailing_zeros

DIGIT = 11  # bits
_LAST = 2**63 - 1


@jit
def sort_by(key: NDArray, items: NDArray, count: int, spare: NDArray, counts: NDArray) -> None:
    """Sorts items[:count] by key[item], stably."""
    if _in_order(key, items, count):
        return
    low, high = int64(key[items[0]]), int64(key[items[0]])
    for k in range(count):
        low, high = min(low, int64(key[items[k]])), max(high, int64(key[items[k]]))
    shift, source, target = int64(0), items, spare
    while (high - low) >> shift > 0:
        _sort_digit(key, low, shift, source, target, count, counts)
        source, target = target, source
        shift += DIGIT
    if (shift // DIGIT) & 1:
        for k in range(count):
            items[k] = spare[k]


@jit
def _in_order(key: NDArray, items: NDArray, count: int) -> bool:
    for k in range(1, count):
        if key[items[k]] < key[items[k - 1]]:
            return False
    return True


@jit
def _sort_digit(
    key: NDArray,
    low: int,
    shift: int,
    source: NDArray,
    target: NDArray,
    count: int,
    counts: NDArray,
) -> None:
    counts[:] = 0
    digits = (1 << DIGIT) - 1
    for k in range(count):
        counts[((int64(key[source[k]]) - low) >> shift) & digits] += 1
    place = 0
    for digit in range(1 << DIGIT):
        place, counts[digit] = place + counts[digit], place
    for k in range(count):
        digit = ((int64(key[source[k]]) - low) >> shift) & digits
        target[uint64(counts[digit])] = source[k]
        counts[digit] += 1


@jit
def heap_push(heap: NDArray, size: int, item: int) -> None:
    """Adds an item to a heap of the given size."""
    place = size
    while place > 0:
        above = (place - 1) >> 1
        if heap[uint64(above)] <= item:
            break
        heap[uint64(place)] = heap[uint64(above)]
        place = above
    heap[uint64(place)] = item


@jit
def heap_pop(heap: NDArray, size: int) -> None:
    """Removes the smallest item of a heap of the given size."""
    size -= 1
    item = heap[uint64(size)]
    heap[uint64(size)] = _LAST  # so that whatever has one child has two
    place, below = 0, 1
    while below < size:  # a hole sinks to the bottom: one hard to predict branch less a level
        below += int64(heap[uint64(below + 1)] < heap[uint64(below)])
        heap[uint64(place)] = heap[uint64(below)]
        place, below = below, 2 * below + 1
    heap_push(heap, place, item)


@jit
def ring_add(ring: Ring, mask: int, requests: NDArray, i: int, end: int) -> None:
    """Puts request i into the bucket of its completion round."""
    place, none = uint64(end & mask), requests.shape[0] - 1
    first = ring.bucket[place]
    requests[uint64(i)].after = first
    requests[uint64(i)].before = none
    requests[uint64(first)].before = i
    ring.bucket[place] = i
    ring.bits[place >> uint64(6)] |= uint64(1) << (place & uint64(63))


@jit
def ring_drop(ring: Ring, mask: int, requests: NDArray, i: int, end: int) -> None:
    """Takes request i out of the bucket of its completion round."""
    place, none = uint64(end & mask), requests.shape[0] - 1
    after, before = requests[uint64(i)].after, requests[uint64(i)].before
    requests[uint64(after)].before = before
    if before != none:
        requests[uint64(before)].after = after
        return
    ring.bucket[place] = after
    if after == none:
        ring.bits[place >> uint64(6)] ^= uint64(1) << (place & uint64(63))


@jit
def ring_next(ring: Ring, mask: int, now: int) -> int:
    """The first round after `now` whose bucket is not empty, if any is."""
    place = (now + 1) & mask
    bits = ring.bits[uint64(place >> 6)] >> uint64(place & 63)
    if bits != uint64(0):
        return now + 1 + int64(trailing_zeros(bits))
    words = (mask + 1) >> 6
    for k in range(1, words + 1):
        bits = ring.bits[uint64(((place >> 6) + k) & (words - 1))]
        if bits != uint64(0):
            return now + 1 - (place & 63) + 64 * k + int64(trailing_zeros(bits))
    return int64(NEVER)
