"""Paths through packings: the same bound as of `paths`, from states that say more.

A packing is what the active requests use, each of them, without saying who they are. A state of
`paths` is a number of requests and a sum; a packing has the sum of every state that it may be, so
that a path through packings is one through those states as well, and the bound is no lower. There
are as many packings as partitions of the memory, so only those are looked at that a path of at
most the known total latency can be in: with the prices of `paths` few are left. See
docs/optimum.md.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jaxsched.optimum.compiled import borrowing, compiled

FAR = 2**60
"""The cost of what is not allowed; sums of real costs stay far below."""


class Moves(NamedTuple):
    """States, by number of active requests, and where they lead; -1 is nowhere."""

    active: NDArray[np.int64]  # of shape [states]
    used: NDArray[np.int64]  # of shape [states]
    grow: NDArray[np.int32]  # after a round, of shape [states]
    add: NDArray[np.int32]  # after a start of each kind of prompt, of shape [kinds, states]
    at: NDArray[np.int64]  # where the ends of a state are in the two below, of shape [states + 1]
    part: NDArray[np.int32]  # what a request uses that may end
    to: NDArray[np.int32]  # the state after it


class Live(NamedTuple):
    """States of every round that are looked at, in ascending order: [at[t], at[t + 1])."""

    start_at: NDArray[np.int64]  # before (more) requests start, of shape [T + 1]
    start: NDArray[np.int32]
    end_at: NDArray[np.int64]  # before (more) of them end, of shape [T + 2]
    end: NDArray[np.int32]


NO_MOVES = Moves(
    *(np.zeros(0, np.int64) for _ in range(2)), np.zeros(0, np.int32), np.zeros((0, 0), np.int32),
    np.zeros(0, np.int64), *(np.zeros(0, np.int32) for _ in range(2)),
)  # fmt: skip
NONE_LIVE = Live(*(np.zeros(0, kind) for kind in (np.int64, np.int32) * 2))


@compiled()
def how_many(memory, least, largest, most):
    """The number of packings of at most so many parts; in floating point, as it may be large."""
    ways = np.zeros((most + 1, memory + 1))
    ways[0, 0] = 1.0
    for v in range(least, largest + 1):
        for a in range(1, most + 1):
            for u in range(v, memory + 1):
                ways[a, u] += ways[a - 1, u - v]
    return ways.sum()


@compiled()
def packings(memory, least, largest, most, prompts, count):
    """All of them and their moves, as `Moves` has them."""
    child = np.full((count, largest - least + 1), -1, np.int32)
    parent, last = np.zeros(count, np.int32), np.zeros(count, np.int32)
    active, used = np.zeros(count, np.int64), np.zeros(count, np.int64)
    # A packing is one of a part less and a last part, which is the smallest.
    last[0], known, ends = largest, 1, 0
    for x in range(count):
        if active[x] < most:
            for v in range(least, min(last[x], memory - used[x]) + 1):
                child[x, v - least] = known
                parent[known], last[known] = x, v
                active[known], used[known] = active[x] + 1, used[x] + v
                known += 1
    grow = np.full(count, -1, np.int32)
    add = np.full((len(prompts), count), -1, np.int32)
    at = np.zeros(count + 1, np.int64)
    parts, other = np.zeros(most + 1, np.int64), np.zeros(most + 1, np.int64)
    for again in range(2):
        if again:
            part, to = np.zeros(ends, np.int32), np.zeros(ends, np.int32)
        ends = 0
        for x in range(count):
            size, y = active[x], x
            for m in range(size - 1, -1, -1):
                parts[m], y = last[y], parent[y]
            at[x] = ends
            for m in range(size):
                if m == 0 or parts[m] != parts[m - 1]:
                    if again:
                        other[:m], other[m : size - 1] = parts[:m], parts[m + 1 : size]
                        part[ends], to[ends] = parts[m], _find(child, least, other, size - 1)
                    ends += 1
            if again:
                continue
            if used[x] + size <= memory and (size == 0 or parts[0] < largest):
                other[:size] = parts[:size] + 1
                grow[x] = _find(child, least, other, size)
            for k in range(len(prompts)):
                v = prompts[k] + 1
                if used[x] + v <= memory and size < most:
                    m = 0
                    while m < size and parts[m] >= v:
                        m += 1
                    other[:m], other[m], other[m + 1 : size + 1] = parts[:m], v, parts[m:size]
                    add[k, x] = _find(child, least, other, size + 1)
        at[count] = ends
    return active, used, grow, add, at, part, to


@borrowing()
def _find(child, least, parts, size):
    x = 0
    for m in range(size):
        x = child[x, parts[m] - least]
    return x


@compiled()
def numbers_and_sums(memory, floor, prompts, sizes):
    """The states of `paths` as `Moves`: that of `active` and `used` is active (M + 1) + used."""
    width = memory + 1
    count = len(floor) * width
    active, used = np.zeros(count, np.int64), np.zeros(count, np.int64)
    grow = np.full(count, -1, np.int32)
    add = np.full((len(prompts), count), -1, np.int32)
    at = np.zeros(count + 1, np.int64)
    part, to = np.zeros(count * len(sizes), np.int32), np.zeros(count * len(sizes), np.int32)
    ends = 0
    for x in range(count):
        a, u = x // width, x % width
        active[x], used[x], at[x] = a, u, ends
        if u + a <= memory:
            grow[x] = x + a
        for k in range(len(prompts)):
            if a + 1 < len(floor) and u + prompts[k] + 1 <= memory:
                add[k, x] = x + width + prompts[k] + 1
        for size in sizes:
            if a > 0 and u - size >= floor[a - 1] and (a > 1 or u == size):
                part[ends], to[ends] = size, x - width - size
                ends += 1
    at[count] = ends
    return active, used, grow, add, at, part[:ends], to[:ends]


@compiled()
def near_states(moves, so_far, to_go, limit, most):
    """As `Live`: packings whose number and sum are in a path of at most this cost.

    None at all if there are more than `most` of them.
    `so_far` and `to_go` are pairs (starting, ending) of `paths`.
    """
    rounds, count = len(so_far[0]) - 1, len(moves.active)
    start_at, end_at = np.zeros(rounds + 1, np.int64), np.zeros(rounds + 2, np.int64)
    shape = so_far[0].shape[1:]
    same = np.zeros(shape, np.int64)
    for x in range(count):
        same[moves.active[x], moves.used[x]] += 1
    near = np.zeros((2, rounds + 1, *shape), np.bool_)
    for t in range(rounds + 1):
        if t < rounds:
            near[0, t] = so_far[0][t] + to_go[0][t] <= limit
            start_at[t + 1] = start_at[t] + (near[0, t] * same).sum()
        near[1, t] = so_far[1][t] + to_go[1][t] <= limit
        end_at[t + 1] = end_at[t] + (near[1, t] * same).sum()
    size = start_at[rounds] + end_at[rounds + 1]
    if size > most:
        return start_at, np.zeros(0, np.int32), end_at, np.zeros(0, np.int32)
    start, end = np.zeros(start_at[rounds], np.int32), np.zeros(end_at[rounds + 1], np.int32)
    for t in range(rounds + 1):
        starts, ends = start_at[t], end_at[t]
        for x in range(count):
            a, u = moves.active[x], moves.used[x]
            if near[0, t, a, u]:
                start[starts] = x
                starts += 1
            if near[1, t, a, u]:
                end[ends] = x
                ends += 1
    return start_at, start, end_at, end


@borrowing()
def place_of(at, state, t, x):
    """Where state x of round t is in a list; -1 if it is not."""
    low, high = at[t], at[t + 1]
    while low < high:
        middle = (low + high) // 2
        if state[middle] < x:
            low = middle + 1
        else:
            high = middle
    return low if low < at[t + 1] and state[low] == x else np.int64(-1)


@compiled()
def packed_cost_to_go(
    moves, live, kind_of, end, late, may_start, begin, lam, nu, starting, ending
):  # fmt: skip
    """Fills the least cost of the rest of a path for the states of `live`.

    `kind_of[v]` is the kind of request that may end at a usage of v, -1 if there is none.
    """
    rounds, count = len(lam), len(moves.active)
    here, ended = np.full(count, FAR, ending.dtype), np.full(count, FAR, ending.dtype)
    later, price = np.full(count, FAR, ending.dtype), np.empty(len(kind_of), ending.dtype)
    far = here[0]
    for j in range(live.end_at[rounds], live.end_at[rounds + 1]):
        x = live.end[j]
        a = moves.active[x]
        ending[j] = 0
        if a > 0:
            ending[j] = a * late if late < far else far
        later[x] = ending[j]
    for t in range(rounds - 1, -1, -1):
        for j in range(live.start_at[t + 1] - 1, live.start_at[t] - 1, -1):
            x = live.start[j]
            least = later[x] - lam[t] * moves.used[x] - nu[t] * moves.active[x]
            for k in range(len(may_start[t])):
                y = moves.add[k, x]
                if may_start[t, k] and y >= 0:
                    least = min(least, here[y] - begin[t, k])
            here[x] = starting[j] = min(least, far)
        for v in range(len(kind_of)):
            price[v] = end[t, kind_of[v]] if kind_of[v] >= 0 else far
        for j in range(live.end_at[t], live.end_at[t + 1]):
            x = live.end[j]
            least = here[moves.grow[x]] if moves.grow[x] >= 0 else far
            for m in range(moves.at[x], moves.at[x + 1]):
                least = min(least, ended[moves.to[m]] + price[moves.part[m]])
            ended[x] = ending[j] = min(least, far)
        for j in range(live.end_at[t + 1], live.end_at[t + 2]):
            later[live.end[j]] = far
        for j in range(live.end_at[t], live.end_at[t + 1]):
            later[live.end[j]], ended[live.end[j]] = ending[j], far
        for j in range(live.start_at[t], live.start_at[t + 1]):
            here[live.start[j]] = far


@borrowing()
def walk(
    moves, live, kind_of, end, may_start, begin, starting, ending, in_use, number, begun, ends
):  # fmt: skip
    """A path of least cost, as that of `paths`; how many are late."""
    x = 0
    ends[:], begun[:] = 0, 0
    for t in range(len(begin)):
        moved = t > 0
        while moved:
            moved = False
            least = ending[place_of(live.end_at, live.end, t, x)]
            y = moves.grow[x]
            there = place_of(live.start_at, live.start, t, y)
            if there >= 0 and starting[there] == least:
                break
            for m in range(moves.at[x], moves.at[x + 1]):
                k = kind_of[moves.part[m]]
                there = place_of(live.end_at, live.end, t, moves.to[m])
                if k >= 0 and there >= 0 and ending[there] + end[t, k] == least:
                    x, moved = moves.to[m], True
                    ends[t, k] += 1
                    break
        if t > 0:
            x = moves.grow[x]
        moved = True
        while moved:
            moved = False
            least = starting[place_of(live.start_at, live.start, t, x)]
            for k in range(len(may_start[t])):
                y = moves.add[k, x]
                there = place_of(live.start_at, live.start, t, y)
                if may_start[t, k] and there >= 0 and starting[there] - begin[t, k] == least:
                    x, moved = y, True
                    begun[t, k] += 1
                    break
        in_use[t], number[t] = moves.used[x], moves.active[x]
    return moves.active[x]


@compiled()
def packed_arcs(
    moves, live, kind_of, end, may_start, begin, lam, nu, starting, ending, limit
):  # fmt: skip
    """What `paths.arcs` returns, and the states that are in a path of at most this cost."""
    rounds, count = len(lam), len(moves.active)
    start_arc, end_arc = np.full(may_start.shape, FAR), np.full(end.shape, FAR)
    spare, late_arc = np.full(end.shape, FAR), FAR
    start_at, end_at = np.zeros_like(live.start_at), np.zeros_like(live.end_at)
    start, stop = np.zeros_like(live.start), np.zeros_like(live.end)
    starts, stops = 0, 0
    # The least costs up to here, and, for the states of this round, from here on.
    before, after = np.full(count, FAR), np.full(count, FAR)
    growing, there = np.full(count, FAR), np.full(count, FAR)
    before[0] = 0
    for t in range(rounds + 1):
        for j in range(live.end_at[t], live.end_at[t + 1]):
            after[live.end[j]] = ending[j]
        if t < rounds:
            for j in range(live.start_at[t], live.start_at[t + 1]):
                there[live.start[j]] = starting[j]
        end_at[t] = stops
        for j in range(live.end_at[t + 1] - 1, live.end_at[t] - 1, -1):
            x = live.end[j]
            if before[x] >= FAR or t == rounds:
                continue
            for m in range(moves.at[x], moves.at[x + 1]):
                k, y = kind_of[moves.part[m]], moves.to[m]
                if k >= 0 and end[t, k] < FAR and after[y] < FAR:
                    before[y] = min(before[y], before[x] + end[t, k])
                    on = end[t, k] + after[y]
                    end_arc[t, k] = min(end_arc[t, k], before[x] + on)
                    if before[x] + after[x] <= limit:
                        spare[t, k] = min(spare[t, k], on - after[x])
            y = moves.grow[x]
            if y >= 0 and there[y] < FAR:
                growing[y] = min(growing[y], before[x])
        for j in range(live.end_at[t], live.end_at[t + 1]):
            x = live.end[j]
            if before[x] < FAR and after[x] < FAR:
                if t == rounds and moves.active[x] > 0:
                    late_arc = min(late_arc, before[x] + after[x])
                if before[x] + after[x] <= limit:
                    stop[stops] = x
                    stops += 1
            before[x], after[x] = FAR, FAR
        if t == rounds:
            break
        start_at[t] = starts
        for j in range(live.start_at[t], live.start_at[t + 1]):
            x = live.start[j]
            now = growing[x]
            if now < FAR:
                before[x] = now - lam[t] * moves.used[x] - nu[t] * moves.active[x]
                for k in range(len(may_start[t])):
                    y = moves.add[k, x]
                    if may_start[t, k] and y >= 0 and there[y] < FAR:
                        growing[y] = min(growing[y], now - begin[t, k])
                        on = there[y] - begin[t, k]
                        start_arc[t, k] = min(start_arc[t, k], now + on)
                if there[x] < FAR and now + there[x] <= limit:
                    start[starts] = x
                    starts += 1
        for j in range(live.start_at[t], live.start_at[t + 1]):
            growing[live.start[j]], there[live.start[j]] = FAR, FAR
        _forget(before, live, t, moves)
    start_at[rounds], end_at[rounds + 1] = starts, stops
    kept = start_at, start[:starts].copy(), end_at, stop[:stops].copy()
    return start_arc, end_arc, late_arc, spare, kept


@borrowing()
def _forget(before, live, t, moves):
    """Takes away what is known of states that are not looked at in the next round."""
    j, last = live.end_at[t + 1], live.end_at[t + 2]
    for m in range(live.start_at[t], live.start_at[t + 1]):
        x = live.start[m]
        while j < last and live.end[j] < x:
            j += 1
        if j == last or live.end[j] != x:
            before[x] = FAR
