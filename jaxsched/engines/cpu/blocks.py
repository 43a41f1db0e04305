"""The worker of a serving engine: memory in blocks, prompts in chunks, tokens that are kept.

The rules are those of docs/model.md. What makes jumps possible: a request whose prompt is computed
has s + g = prompt - start + t tokens in the cache of round t, where `start` is the round less its
tokens. So its blocks, its completion and its expected end are known, and in a round the blocks that
all of them need more are a count of one remainder. At most one running request is in the middle of
its prompt, the one last admitted; then rounds are run one by one.

In a round the order of the running requests decides nothing but whose grant is fixed first: first
those that decode, who need a block or none, then the one in the middle of its prompt.
"""

from __future__ import annotations

from typing import NamedTuple

from numba import int32, int64, uint64

from jaxsched.engines.cpu.clock import run_rounds
from jaxsched.engines.cpu.events import (
    next_arrival,
    next_waiting,
    note_eviction,
    see_arrivals,
    wait_in_line,
)
from jaxsched.engines.cpu.layout import (
    LAST_TICK,
    NEVER,
    ROUND_LIMIT,
    CpuLane,
    Ends,
    Ints,
    Record,
    call,
    jit,
)
from jaxsched.engines.cpu.lookahead import ends_insert, ends_pass, ends_remove
from jaxsched.engines.cpu.queues import heap_pop, ring_add, ring_drop, ring_next
from jaxsched.engines.cpu.slots import first_with, least_key, slot_drop, smallest_key


class BlockLane(NamedTuple):
    """What a lane on such a worker has besides; arrays by request unless said otherwise."""

    block: int  # tokens in a block
    shift: int  # block = 1 << shift; -1 if it is no power of two
    blocks: int
    cap: int  # running requests
    budget: int  # tokens
    watermark: int  # blocks
    generated: Ints  # tokens kept by those that wait, or are in the middle of their prompts
    due: Ints  # round in which it completes, or has generated its quantum
    full: Ints  # round in which its prompt was computed
    crossing: Ints  # decoding requests by (prompt - start) mod block, [block]
    until: Ints  # expected end of the request in a slot, 0 in the middle of a prompt, [slots]


@jit
def run_blocks(lane: CpuLane, own: BlockLane, state: Record) -> None:
    """Simulates a lane whose queues are filled and whose state is that before its first round."""
    count = lane.completion.shape[0]
    _begin(lane, own, state)
    while True:
        late = state.now >= lane.max_rounds or state.time >= LAST_TICK
        if state.next_end == state.now:
            _finish(lane, own, state, late)
        if state.finished == count or late:
            break
        see_arrivals(lane, state)
        ends_pass(lane.ends, state)
        _go_on(lane, own, state)
        wake = _admit(lane, own, state)
        if state.active > 0:
            state.peak_memory = max(state.peak_memory, state.used * own.block)
        _pass(lane, own, state, wake)
    if state.finished < count:
        _cut(lane, own, state)


@jit
def _begin(lane: CpuLane, own: BlockLane, state: Record) -> None:
    state.evicts, state.used, state.middle, state.computed, state.unmet = 1, 0, -1, 0, 0
    lane.slots.key[:] = NEVER
    lane.slots.request[:] = NEVER
    own.until[:] = 0
    own.crossing[:] = 0
    own.generated[:] = 0


@jit
def _ceil(own: BlockLane, tokens: int) -> int:
    """Blocks for so many tokens."""
    more = tokens + own.block - 1
    return more >> own.shift if own.shift >= 0 else more // own.block


@jit
def _remainder(own: BlockLane, tokens: int) -> int:
    """Of an amount that may be negative, from 0 on."""
    if own.shift >= 0:
        return tokens & (own.block - 1)
    return (tokens % own.block + own.block) % own.block


@jit
def _block_time(own: BlockLane, tokens: int) -> int:
    """Sum of the blocks for 1, 2, ..., that many tokens."""
    whole = tokens // own.block
    return own.block * (whole * (whole + 1) // 2) + (tokens - whole * own.block) * (whole + 1)


@jit
def _finish(lane: CpuLane, own: BlockLane, state: Record, late: bool) -> None:
    """Lets those leave that have all their tokens, and preempts who has generated its quantum,
    unless it is too `late` for that."""
    i = int64(lane.ring.bucket[uint64(state.now & lane.mask)])
    while i < lane.completion.shape[0]:
        request = lane.requests[uint64(i)]
        after = int64(request.after)
        if own.due[uint64(i)] == state.now:
            if request.start + request.output == state.now:
                lane.completion[uint64(i)] = state.rounds = state.now
                if lane.clocked:
                    lane.times[uint64(i), uint64(2)] = state.time
                state.finished += 1
                _note_last_run(lane, state, i)
                _leave(lane, own, state, i)
            elif not late:
                _preempt(lane, own, state, i)
        i = after
    state.next_end = ring_next(lane.ring, lane.mask, state.now)


@jit
def _note_last_run(lane: CpuLane, state: Record, i: int) -> None:
    """The runs that complete stand after those that are evicted, a row for each request."""
    if lane.history.shape[0] > 0:
        run = lane.history[uint64(lane.history.shape[0] - lane.width + i)]
        admitted = lane.slots.admitted[uint64(lane.requests[uint64(i)].slot)]
        run[0], run[1], run[2] = i, admitted, state.now
        run[3] = lane.requests[uint64(i)].output


@jit
def _leave(lane: CpuLane, own: BlockLane, state: Record, i: int) -> None:
    """Takes request i, whose prompt is computed, off the worker before its round is granted."""
    request = lane.requests[uint64(i)]
    base = int64(request.prompt) - int64(request.start)
    held = base + state.now - 1
    state.active -= 1
    state.level -= base
    state.used -= _ceil(own, held)
    since = base + int64(own.full[uint64(i)]) - 1
    state.memory_time += own.block * (_block_time(own, held) - _block_time(own, since))
    own.crossing[uint64(_remainder(own, base))] -= 1
    due = int64(own.due[uint64(i)])
    ring_drop(lane.ring, lane.mask, lane.requests, i, due)
    end = int64(own.until[uint64(request.slot)])
    _drop_slot(lane, own, state, i)
    if end > state.now:
        _unreserve(lane.ends, own, state, end, base)
    request.start = -1


@jit
def _drop_slot(lane: CpuLane, own: BlockLane, state: Record, i: int) -> None:
    place = uint64(lane.requests[uint64(i)].slot)
    slot_drop(lane, state, i)
    own.until[place] = own.until[uint64(state.active)]
    own.until[uint64(state.active)] = 0
    lane.slots.admitted[place] = lane.slots.admitted[uint64(state.active)]
    if not lane.policy.moving:
        lane.slots.start[place] = lane.slots.start[uint64(state.active)]
        lane.slots.prompt[place] = lane.slots.prompt[uint64(state.active)]


@jit
def _preempt(lane: CpuLane, own: BlockLane, state: Record, i: int) -> None:
    """Sends request i back to the queue, with its tokens."""
    request = lane.requests[uint64(i)]
    admitted = int64(lane.slots.admitted[uint64(request.slot)])
    if i == state.middle:
        generated, lost = int64(own.generated[uint64(i)]), state.computed
        state.used -= _ceil(own, lost)
        state.active -= 1
        state.middle = -1
        _drop_slot(lane, own, state, i)
        request.start = -1
    else:
        generated = state.now - int64(request.start)
        lost = request.prompt + generated - 1
        due = int64(own.due[uint64(i)])
        own.generated[uint64(i)] = generated
        _leave(lane, own, state, i)
        if due == state.next_end and due > state.now:
            state.next_end = ring_next(lane.ring, lane.mask, state.now)
    estimate = call(lane.policy.refine, lane.context, i, generated, generated)
    state.largest = max(state.largest, estimate)
    note_eviction(lane, state, i, admitted, lost, generated)
    wait_in_line(lane, state, i)


@jit
def _go_on(lane: CpuLane, own: BlockLane, state: Record) -> None:
    """Grants the running requests what they lack, and preempts where blocks are missing."""
    state.unmet = 0
    needed = int64(own.crossing[uint64(_remainder(own, 1 - state.now))])
    if state.used + needed > own.blocks:
        state.unmet = 1
        key = smallest_key(lane, state)
        while True:
            _preempt(
                lane, own, state, first_with(lane.slots, state.active, key, lane.policy.largest)
            )
            needed = int64(own.crossing[uint64(_remainder(own, 1 - state.now))])
            if state.used + needed <= own.blocks:
                break
            key = least_key(lane.slots, state.active)
    if state.middle >= 0:
        _compute_prompt(lane, own, state, needed)
    state.used += int64(own.crossing[uint64(_remainder(own, 1 - state.now))])


@jit
def _compute_prompt(lane: CpuLane, own: BlockLane, state: Record, needed: int) -> None:
    """Goes on with the prompt in the middle, after the others, who need so many blocks."""
    i = state.middle
    lacks = lane.requests[uint64(i)].prompt + own.generated[uint64(i)] - state.computed
    grant = min(int64(lacks), own.budget - (state.active - 1))
    more = _ceil(own, state.computed + grant) - _ceil(own, state.computed)
    asked = False
    while state.used + needed + more > own.blocks:
        state.unmet = 1
        key = least_key(lane.slots, state.active) if asked else smallest_key(lane, state)
        asked = True
        victim = first_with(lane.slots, state.active, key, lane.policy.largest)
        _preempt(lane, own, state, victim)
        if victim == i:
            return
        needed = int64(own.crossing[uint64(_remainder(own, 1 - state.now))])
    state.used += more
    state.computed += grant
    state.prompts += grant
    if grant == lacks:
        state.middle = -1
        state.used -= _decode(lane, own, state, i)


@jit
def _decode(lane: CpuLane, own: BlockLane, state: Record, i: int) -> int:
    """From this round on request i, all of whose tokens are computed, generates one a round.

    Returns:
      1 if it counts among those that need a block more in this round, which it has.
    """
    request = lane.requests[uint64(i)]
    generated = int64(own.generated[uint64(i)])
    start = state.now - generated
    base = int64(request.prompt) - start
    request.start = start
    own.full[uint64(i)] = state.now
    due = start + int64(request.output)
    if lane.policy.quanta:
        due = min(due, state.now + int64(lane.quantum[uint64(i)]))
    own.due[uint64(i)] = due
    ring_add(lane.ring, lane.mask, lane.requests, i, due)
    state.next_end = min(state.next_end, due)
    state.level += base
    rest = _remainder(own, base)
    own.crossing[uint64(rest)] += 1
    place = uint64(request.slot)
    lane.slots.start[place] = start
    end = start + int64(request.reserve)
    if end > state.now + 1:
        _reserve(lane, own, state, end, base)
        own.until[place] = end
    else:
        own.until[place] = state.now + 1
    if generated == 0:
        lane.first_admission[uint64(i)] = state.now
        if lane.clocked:
            lane.fresh[uint64(state.fresh)] = i
            state.fresh += 1
    return int64(rest == _remainder(own, 1 - state.now))


@jit
def _admit(lane: CpuLane, own: BlockLane, state: Record) -> int:
    """Admits those that wait, in order, while they fit; returns when the next one may."""
    # one token for each but the one whose prompt was the round's so far
    left = own.budget - state.active - state.prompts + int64(state.prompts > 0)
    while state.heaped > 0 or state.head < state.backlog:
        if state.unmet != 0 or state.middle >= 0 or left <= 0:
            return state.now + 1
        item, heaped = next_waiting(lane, state)
        i = item & NEVER
        request = lane.requests[uint64(i)]
        generated = int64(own.generated[uint64(i)])
        tokens = int64(request.prompt) + generated
        aside = own.watermark if state.active > 0 else int64(0)
        if state.active >= own.cap or state.used + _ceil(own, tokens) > own.blocks - aside:
            return int64(NEVER)  # only somebody leaving can change that
        most = own.blocks
        if lane.policy.headroom and state.active > 0:
            most -= _ceil(own, int64(lane.headroom[uint64(i)]))
        reserve = max(int64(request.reserve) - generated, int64(1))
        wake = _earliest(lane, own, state, tokens, reserve, most)
        if wake > state.now:
            return wake
        if heaped:
            heap_pop(lane.heap, state.heaped)
            state.heaped -= 1
        else:
            state.head += 1
        left -= _enter(lane, own, state, i, left)
    return int64(NEVER)


@jit
def _enter(lane: CpuLane, own: BlockLane, state: Record, i: int, left: int) -> int:
    """Makes request i run; returns the tokens granted to it."""
    request, slots, place = lane.requests[uint64(i)], lane.slots, uint64(state.active)
    generated = int64(own.generated[uint64(i)])
    request.slot, request.start = state.active, state.now - generated
    slots.request[place], slots.admitted[place] = i, state.now
    slots.estimate[place], slots.prompt[place] = request.estimate, request.prompt
    slots.start[place] = state.now - generated
    if lane.policy.latest:
        slots.key[place] = -state.now - 1 if lane.policy.largest else state.now
    elif lane.policy.entering:
        call(lane.policy.keys, lane.context, state.active, state.active + 1, state.now)
    elif not lane.policy.moving:
        slots.key[place] = lane.standing[uint64(i)]
    if lane.clocked and lane.times[uint64(i), uint64(0)] < 0:
        lane.times[uint64(i), uint64(0)] = state.time
    state.active += 1
    tokens = int64(request.prompt) + generated
    grant = min(tokens, left)
    state.prompts += grant
    state.used += _ceil(own, grant)
    if grant == tokens:
        _decode(lane, own, state, i)
    else:
        own.until[place] = 0
        state.middle, state.computed = i, grant
    return grant


@jit
def _earliest(
    lane: CpuLane, own: BlockLane, state: Record, tokens: int, reserve: int, most: int
) -> int:
    """First round from now on in which the look-ahead test may pass if nobody leaves early.

    Args:
      lane: The lane.
      own: What it has besides.
      state: Its state; nobody is in the middle of a prompt.
      tokens: Those that the candidate has to compute.
      reserve: Tokens of output still to come.
      most: Blocks that may be in use.
    """
    if state.used + _ceil(own, tokens) > most or _ceil(own, tokens + reserve - 1) > most:
        return int64(NEVER)
    ends, start = lane.ends, state.now
    while True:
        found, own_end, beyond = int64(0), start + reserve, int64(NEVER)
        shared = False
        for j in range(state.low, state.high):
            end, height = int64(ends.end[uint64(j)]), int64(ends.height[uint64(j)])
            if end <= own_end:
                # the candidate has room if tokens - 1 - round + end fit into what is left
                bound = tokens - 1 + end - own.block * (most - height)
                found = max(found, min(end, bound))
                shared |= end == own_end
            else:
                beyond = min(beyond, end)
                if height > most:
                    found = max(found, end)
        if found <= start and not shared and beyond < NEVER:
            held = _held_until(lane, own, state, own_end)
            if held + _ceil(own, tokens + reserve - 1) > most:
                found = beyond - reserve + 1
        if found <= start:
            return start
        start = found


@jit
def _held_until(lane: CpuLane, own: BlockLane, state: Record, end: int) -> int:
    """Blocks in the round before `end` of the running requests that are expected to last to it."""
    held, end = int32(0), int32(end)
    more = int32(end - 1 + own.block - 1)
    slots = lane.slots
    if own.shift >= 0:
        shift = int32(own.shift)
        for j in range(state.active):
            tokens = int32(slots.prompt[j] - slots.start[j] + more)
            held += int32(tokens >> shift) if own.until[j] >= end else int32(0)
    else:
        for j in range(state.active):
            if own.until[j] >= end:
                held += int32((slots.prompt[j] - slots.start[j] + more) // own.block)
    return int64(held)


@jit
def _reserve(lane: CpuLane, own: BlockLane, state: Record, end: int, base: int) -> None:
    """Adds a request that is expected to last to `end`, whose slot does not say so yet."""
    ends = lane.ends
    place, there = _raise(ends, own, state, end, base, int64(1))
    if there:
        ends.lasting[uint64(place - 1)] += 1
        return
    height = _held_until(lane, own, state, end) + _ceil(own, base + end - 1)
    ends_insert(ends, state, place, end, height, int64(1))


@jit
def _unreserve(ends: Ends, own: BlockLane, state: Record, end: int, base: int) -> None:
    """Takes out a request that was added so; `end` lies ahead."""
    place, _ = _raise(ends, own, state, end, base, int64(-1))
    ends.lasting[uint64(place - 1)] -= 1
    if ends.lasting[uint64(place - 1)] == 0:
        ends_remove(ends, state, place - 1)


@jit
def _raise(
    ends: Ends, own: BlockLane, state: Record, end: int, base: int, sign: int
) -> tuple[int, bool]:
    """Adds (sign 1) or removes a request's blocks at every end up to its own.

    Returns:
      The place after those ends, and whether its own is among them.
    """
    place, there = state.low, False
    while place < state.high and ends.end[uint64(place)] <= end:
        here = int64(ends.end[uint64(place)])
        ends.height[uint64(place)] += int32(sign * _ceil(own, base + here - 1))
        there = here == end
        place += 1
    return place, there


@jit
def _pass(lane: CpuLane, own: BlockLane, state: Record, wake: int) -> None:
    """Runs this round, and those after it in which nothing happens but decoding."""
    event, arrival = min(state.next_end, wake, lane.max_rounds), next_arrival(lane, state)
    cache = state.level + state.active * state.now
    if state.middle >= 0:
        event = min(event, state.now + 1)
        cache = state.level + (state.active - 1) * state.now + state.computed
        state.memory_time += own.block * _ceil(own, state.computed)
    elif state.active > 0:
        event = min(event, state.now + _rounds_that_fit(own, state, event - state.now))
    before = state.now
    if lane.clocked:
        run_rounds(lane, state, event, arrival, cache)
    else:
        state.fresh = state.prompts = 0
        state.now = state.time = min(event, arrival)
    if state.active > 0 and state.middle < 0:
        _grow(own, state, before, state.now - 1)
    if state.middle >= 0:
        i = uint64(state.middle)
        lane.slots.start[uint64(lane.requests[i].slot)] = state.now - own.generated[i]


@jit
def _rounds_that_fit(own: BlockLane, state: Record, most: int) -> int:
    """Rounds until the blocks do not suffice, this one counted; at most so many."""
    free = own.blocks - state.used
    laps = free // state.active
    rest, rounds = free - laps * state.active, laps * own.block
    while rounds < most:
        rounds += 1
        rest -= int64(own.crossing[uint64(_remainder(own, 1 - state.now - rounds))])
        if rest < 0:
            return rounds
    return most


@jit
def _grow(own: BlockLane, state: Record, now: int, last: int) -> None:
    """Counts the blocks that are held after the rounds up to `last`, from those after `now`."""
    laps = (last - now) // own.block
    state.used += laps * state.active
    for t in range(now + laps * own.block + 1, last + 1):
        state.used += int64(own.crossing[uint64(_remainder(own, 1 - t))])
    state.peak_memory = max(state.peak_memory, state.used * own.block)


@jit
def _cut(lane: CpuLane, own: BlockLane, state: Record) -> None:
    """Books the runs that the round limit cuts short."""
    state.status = ROUND_LIMIT
    for i in range(lane.completion.shape[0]):
        request = lane.requests[i]
        if request.start >= 0 and i != state.middle:
            base = int64(request.prompt) - int64(request.start)
            held, since = base + state.now - 1, base + int64(own.full[i]) - 1
            state.memory_time += own.block * (_block_time(own, held) - _block_time(own, since))
