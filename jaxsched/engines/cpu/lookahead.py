"""The look-ahead test, without looking at every round ahead.

Expected memory only grows between two expected ends, so a candidate of prompt s and reserve r,
admitted at round t, is safe if it fits at every end T in (t, t + r] and at its own end t + r. With
the heights of `Ends` the first reads: t >= min(T, height + s - memory). The largest of these is the
first round in which the candidate can fit, so the event loop sleeps until then.
"""

from __future__ import annotations

from numba import int32, int64, uint64

from jaxsched.engines.cpu.layout import NEVER, Ends, Record, jit, whole_blocks


@jit
def earliest(
    ends: Ends, state: Record, prompt: int, reserve: int, memory: int, headroom: bool
) -> tuple[int, int]:
    """First round from now on in which the candidate fits if nobody leaves early.

    Under a headroom those that last longer than the candidate may themselves hold too much of
    `memory`, which is then less than they were tested against.

    Returns:
        The round, and the place of the first end after the candidate's own if it is now.
    """
    start, slack = state.now, prompt - memory
    while True:
        round_, place = _first_fit(ends, state, start + reserve, slack)
        if round_ <= start and place < state.high:
            end, height = int64(ends.end[uint64(place)]), int64(ends.height[uint64(place)])
            own = height - end - ends.lasting[uint64(place)] * (end - start - reserve)
            if own + prompt + reserve > memory:
                round_ = min(end, height + slack)
        if headroom:
            round_ = max(round_, _crowded_until(ends, state, place, memory))
        if round_ <= start:
            return start, place
        start = round_


@jit
def _crowded_until(ends: Ends, state: Record, place: int, memory: int) -> int:
    """The last end from a place on at which more than the memory is expected to be in use."""
    for j in range(state.high - 1, place - 1, -1):
        if int64(ends.height[uint64(j)]) - ends.end[uint64(j)] > memory:
            return int64(ends.end[uint64(j)])
    return int64(0)


@jit
def _first_fit(ends: Ends, state: Record, last: int, slack: int) -> tuple[int, int]:
    """First round in which the candidate fits at all ends up to `last`, and the place after."""
    found, count = int32(0), int32(0)
    last, slack = int32(last), int32(slack)
    low = uint64(state.low & ~7)
    for j in range(low, low + uint64(whole_blocks(state.high - (state.low & ~7)))):
        end = ends.end[j]
        bound = min(end, int32(ends.height[j] + slack))
        found = max(found, bound if end <= last else int32(0))
        count = int32(count + int32(end <= last))
    return int64(found), (state.low & ~7) + count


@jit
def ends_add(ends: Ends, state: Record, place: int, end: int, level: int) -> None:
    """Adds a request that ends at `end`, with level = prompt - start; see `earliest` for place."""
    _raise(ends, state.low, place, end, level, int64(1))
    if place > state.low and ends.end[uint64(place - 1)] == end:
        return
    place -= _make_room(ends, state)
    height, lasting = 2 * end + level, int64(1)
    if place < state.high:
        later, longer = int64(ends.end[uint64(place)]), int64(ends.lasting[uint64(place)])
        height += ends.height[uint64(place)] - later - longer * (later - end)
        lasting += longer
    for j in range(state.high - place):
        _copy(ends, state.high - j - 1, state.high - j)
    _set(ends, place, end, height, lasting)
    state.high += 1


@jit
def ends_drop(ends: Ends, state: Record, end: int, level: int) -> None:
    """Takes out a request that was added with this end, which lies ahead."""
    place = _raise(ends, state.low, state.high, end, level, int64(-1)) - 1
    longer = 0
    if place + 1 < state.high:
        longer = ends.lasting[uint64(place + 1)]
    if ends.lasting[uint64(place)] > longer:
        return
    for j in range(state.high - place):
        _copy(ends, place + j + 1, place + j)
    state.high -= 1


@jit
def ends_pass(ends: Ends, state: Record) -> None:
    """Forgets the ends that are not ahead any more."""
    while state.low < state.high and ends.end[uint64(state.low)] <= state.now:
        state.low += 1


@jit
def _raise(ends: Ends, low: int, high: int, end: int, level: int, sign: int) -> int:
    """Adds (sign 1) or removes (-1) a request at every end up to its own; returns their count."""
    count = int32(0)
    end, level, sign = int32(end), int32(level), int32(sign)
    start = uint64(low & ~7)
    for j in range(start, start + uint64(whole_blocks(high - (low & ~7)))):
        here = ends.end[j]
        step = sign if here <= end else int32(0)
        ends.height[j] = int32(ends.height[j] + int32(step * int32(level + here)))
        ends.lasting[j] = int32(ends.lasting[j] + step)
        count = int32(count + int32(here <= end))
    return (low & ~7) + count


@jit
def ends_append(ends: Ends, state: Record, end: int, height: int) -> None:
    """Adds an end after all others; who counts none that outlast a candidate needs no `lasting`."""
    _make_room(ends, state)
    _set(ends, state.high, end, height, int64(0))
    state.high += 1


@jit
def _make_room(ends: Ends, state: Record) -> int:
    """Moves everything to the front once half is behind; returns how far it moved."""
    by = state.low
    if by < 256 or 2 * by < state.high:
        return 0
    for j in range(state.high - by):
        _copy(ends, j + by, j)
    for j in range(state.high - by, state.high):
        ends.end[uint64(j)] = NEVER
    state.low, state.high = 0, state.high - by
    return by


@jit
def _copy(ends: Ends, source: int, target: int) -> None:
    source, target = uint64(source), uint64(target)
    ends.end[target] = ends.end[source]
    ends.height[target] = ends.height[source]
    ends.lasting[target] = ends.lasting[source]


@jit
def _set(ends: Ends, place: int, end: int, height: int, lasting: int) -> None:
    place = uint64(place)
    ends.end[place], ends.height[place], ends.lasting[place] = end, height, lasting


@jit
def ends_insert(ends: Ends, state: Record, place: int, end: int, height: int, lasting: int) -> None:
    """Puts an end at a place.

    `ends_add` and `ends_drop` do not call this and the next one: it took 15 % of the whole loop.
    """
    place -= _make_room(ends, state)
    for j in range(state.high - place):
        _copy(ends, state.high - j - 1, state.high - j)
    _set(ends, place, end, height, lasting)
    state.high += 1


@jit
def ends_remove(ends: Ends, state: Record, place: int) -> None:
    """Takes the end at a place out."""
    for j in range(state.high - place):
        _copy(ends, place + j + 1, place + j)
    state.high -= 1
