"""Branch and bound over schedules, round by round, with prices in exact integers.

A node is a round t, the requests started so far, and an index: in a round requests start in the
order of their indices, so that every set of starts is tried once. What is left out:

1. a start or a round whose bound is above the best total less 1. A node's bound is that of the
   relaxation (`paths`) in which the path is that of the started requests up to now, each has paid
   for its start, and prices of the row are dropped for rounds that are over, as they pass.
2. a request that could have started a round earlier when all rounds until its end are known: the
   schedule is not the best. So is one with a request left for later that fits into rounds that are
   over.
3. a state that was seen before at no higher cost: the same requests left and the same memory in
   use from here on. While requests are still to arrive, at the same round; after that at any, as
   what follows can be shifted. The table compares whole states, not fingerprints.

2 leaves out no best schedule, and so nothing that 3 relies on: if the later state leads to a best
schedule, so does the earlier one, by the same starts, which no rule then has left out.
"""

from __future__ import annotations

import numpy as np

from jaxsched.optimum.compiled import borrowing
from jaxsched.optimum.packings import FAR, place_of
from jaxsched.optimum.profile import add, copy_into, drop

# Slots of the numbers that live from one call of `search` to the next.
DEPTH, ROUND, NEXT, BOUND, LEFT, BEST, NODES, SPENT, ACTIVE, DONE, STATE = range(11)
COUNTERS = 11

ENDS = 12
"""A state whose active requests end in more different rounds is not remembered."""

WORDS = ENDS + 3
"""Of a remembered state: requests left, round, cost, and what ends when."""


@borrowing()
def search(
    numbers, prompt, output, arrival, memory, alpha, beta, unit, table, least, lam, nu, mu, kind,
    begin, g, late, moves, at, states, to_go, used, cover, start, best_start, frames, memo, state,
    twin, rest, seen, nodes,
):  # fmt: skip
    """Goes on with a search for at most so many nodes; whether it is at its end stands in DONE.

    `table[t, i]` is the cost of starting i in round t, FAR if that is ruled out, and `least[t, i]`
    the least of it from t on, in units of 1 / `unit`; for a start the path gets back `begin[t, i]`.
    `g[i, t]` is what the end of i in round t costs beside its start, and `late` what an end after
    all prices does. `to_go` is the least cost of a path from the states in `states` on, `at[t]` ...
    `at[t + 1] - 1` for round t, and a bound here is without it; `kind[i]` is that of i's prompt
    among those of `moves`. `frames[d]` is (i, or -1 for a round that passed; index to go on from;
    bound; active requests; state of the path). `twin[i]` is a request that has to start no later,
    or -1. In `rest` is by kind of prompt what a path costs after a start, and in `seen` the node
    for which that was looked up.
    """
    n = len(prompt)
    rounds = table.shape[0]
    depth, t, following = numbers[DEPTH], numbers[ROUND], numbers[NEXT]
    bound, left, best = numbers[BOUND], numbers[LEFT], numbers[BEST]
    spent, active, last = numbers[SPENT], numbers[ACTIVE], arrival[0]
    for i in range(n):
        last = max(last, arrival[i])
    x = numbers[STATE]
    one = np.int64(1)
    limit = unit * (best - 1)
    tried = 0
    seen[:] = 0
    while tried < nodes:
        tried += 1
        # The next request that may start in this round.
        i = following
        while i < n:
            if left >> i & 1 and table[t, i] < FAR:
                more = table[t, i] - least[t, i]
                if t < len(lam):
                    k = kind[i]
                    if seen[k] != tried:
                        seen[k] = tried
                        rest[k] = _rest(moves, at, states, to_go, t, moves.add[k, x])
                    more += rest[k] - begin[t, i]
                has_twin = twin[i] >= 0 and left >> twin[i] & 1
                if (
                    bound + more <= limit
                    and not has_twin
                    and _fits(used, memory, prompt[i], output[i], t)
                ):
                    break
            i += 1
        if i < n:
            frames[depth] = i, i + 1, bound, active, x
            depth += 1
            active += 1
            bound += table[t, i] - least[t, i]
            if t < len(lam):
                bound -= begin[t, i]
                x = moves.add[kind[i], x]
            left ^= one << i
            start[i] = t
            spent += t
            add(used, prompt[i], output[i], t)
            for r in range(t + alpha[i], t + beta[i]):
                cover[r] += 1
            following = i + 1
            if left != 0:
                continue
            total = spent
            for j in range(n):
                total += output[j] - arrival[j]
            if total < best:
                best = total
                limit = unit * (best - 1)
                copy_into(best_start, start)
        else:
            later, going_on, ended, y = _passed(
                n, t, bound, active, left, limit, prompt, output, arrival, memory, least, lam, nu,
                mu, g, late, moves, at, states, to_go, x, used, cover, start, rounds,
            )  # fmt: skip
            # What follows from the state before, with nothing to choose, is as new as that was.
            moved = ended or (depth > 0 and frames[depth - 1, 0] >= 0)
            if later < FAR and (
                not moved
                or _is_new(memo, state, n, t + 1, left, spent, prompt, output, start, last)
            ):
                frames[depth] = -1, 0, bound, active, x
                depth += 1
                bound, active, x, t, following = later, going_on, y, t + 1, 0
                continue
        # Back to the last start, and on from there without it.
        while depth > 0:
            depth -= 1
            i = frames[depth, 0]
            bound, active, x = frames[depth, 2], frames[depth, 3], frames[depth, 4]
            if i >= 0:
                left |= one << i
                spent -= t
                drop(used, prompt[i], output[i], t)
                for r in range(t + alpha[i], t + beta[i]):
                    cover[r] -= 1
                following = frames[depth, 1]
                break
            t -= 1
        else:
            numbers[DONE] = 1
            break
    numbers[DEPTH], numbers[ROUND], numbers[NEXT] = depth, t, following
    numbers[BOUND], numbers[LEFT], numbers[BEST] = bound, left, best
    numbers[SPENT], numbers[ACTIVE], numbers[STATE] = spent, active, x
    numbers[NODES] += tried


@borrowing()
def _rest(moves, at, states, to_go, t, x):
    """The least cost of the rest of a path from state x of round t on; FAR where none goes on."""
    if x < 0:
        return FAR
    place = at[t] + x if len(states) == 0 else place_of(at, states, t, x)
    return to_go[place] if place >= 0 else FAR


@borrowing()
def _fits(used, memory, prompt, output, start):
    k = output - 1
    while k >= 0:
        if used[start + k] + prompt + 1 + k > memory:
            return False
        k -= 1
    return True


@borrowing()
def _passed(
    n, t, bound, active, left, limit, prompt, output, arrival, memory, least, lam, nu, mu, g, late,
    moves, at, states, to_go, x, used, cover, start, rounds,
):  # fmt: skip
    """The bound after round t, FAR if nothing good can follow; active; one ended; path's state."""
    ended = False
    if t + 1 >= rounds:
        return FAR, active, ended, x
    if t < len(lam):
        bound += mu[t] * (1 - cover[t]) - lam[t] * used[t] - nu[t] * active
    if t + 1 == len(lam):
        bound += late * active
    for i in range(n):
        if left >> i & 1:
            if least[t + 1, i] >= FAR:
                return FAR, active, ended, x
            bound += least[t + 1, i] - least[t, i]
        elif start[i] + output[i] == t + 1:
            active -= 1
            ended = True
            if t + 1 < len(lam):
                bound += g[i, t + 1]
                m = moves.at[x]
                while moves.part[m] != prompt[i] + output[i]:
                    m += 1
                x = moves.to[m]
    rest = 0
    if t + 1 < len(lam):
        x = moves.grow[x]
        rest = _rest(moves, at, states, to_go, t + 1, x)
    if bound + rest > limit:
        return FAR, active, ended, x
    for i in range(n):
        if left >> i & 1:
            # Could it have run in the rounds that end with this one?
            p = t + 1 - output[i]
            if p >= arrival[i] and _fits(used, memory, prompt[i], output[i], p):
                return FAR, active, ended, x
        elif start[i] + output[i] == t + 1 and start[i] > arrival[i]:
            if memory - used[start[i] - 1] > prompt[i]:
                k = start[i]
                while k < t and used[k] < memory:
                    k += 1
                if k == t:
                    return FAR, active, ended, x
    return bound, active, ended, x


@borrowing()
def _is_new(memo, state, n, t, left, spent, prompt, output, start, last):
    """Whether the state before round t is seen for the first time, or at a lower cost than ever."""
    count = 0
    for i in range(n):
        if left >> i & 1 or start[i] + output[i] <= t:
            continue
        # Memory: that of the first round of what is left; what ends together grows together.
        item = (
            ((start[i] + output[i] - t) << 40)
            | (np.int64(1) << 32)
            | (prompt[i] + 1 + t - start[i])
        )
        k = count
        while k > 0 and state[k - 1] >> 40 > item >> 40:
            k -= 1
        if k > 0 and state[k - 1] >> 40 == item >> 40:
            state[k - 1] += item & ((np.int64(1) << 40) - 1)
            continue
        if count == ENDS:
            return True
        for m in range(count, k, -1):
            state[m] = state[m - 1]
        state[k] = item
        count += 1
    # The cost: starts so far, and t for each request that is left, which then starts from 0.
    when, cost = np.int64(t), spent
    if t >= last:
        when = np.int64(-1)
        for i in range(n):
            cost += t * (left >> i & 1)
    for k in range(count, ENDS):
        state[k] = 0
    key = np.uint64(left) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(when + 1)
    for k in range(count):
        key = (key ^ (key >> np.uint64(29)) ^ np.uint64(state[k])) * np.uint64(0xBF58476D1CE4E5B9)
    key ^= key >> np.uint64(32)
    row = memo[np.int64(key & np.uint64(len(memo) - 1))]
    same = row[0] == left and row[1] == when
    for k in range(ENDS):
        same = same and row[3 + k] == state[k]
    if same and row[2] <= cost:
        return False
    row[0], row[1], row[2] = left, when, cost
    for k in range(ENDS):
        row[3 + k] = state[k]
    return True
