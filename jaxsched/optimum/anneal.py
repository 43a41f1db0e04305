"""Searches over schedules: orders of requests at their earliest fit, some of them held back."""

from __future__ import annotations

import numpy as np

from jaxsched.optimum.compiled import borrowing, compiled
from jaxsched.optimum.profile import add, copy_into, earliest_start, place


@compiled()
def room_for(prompt, output, arrival):
    """Rounds that no schedule of earliest fits runs beyond."""
    return arrival.max() + output.sum() + output.max() + 1


@compiled()
def anneal(prompt, output, arrival, memory, order, known, moves, seed, start):
    """Improves an order by `moves` moves of simulated annealing.

    `order` and `known`, the rounds before which requests may not start, are changed; `start` gets
    the best starts found. A move puts a request to another place, holds it back by some rounds, or
    lets it go again. Returns the sum of the best starts.
    """
    n = len(order)
    np.random.seed(seed)
    block = max(1, int(np.sqrt(n)))
    now = place(
        np.zeros(room_for(prompt, output, known), np.int32),
        memory, prompt, output, known, order, start,
    )  # fmt: skip
    length = 0
    for i in range(n):
        length = max(length, start[i] + output[i])
    longest = length + length // 4 + output.max() + 1
    room = longest + output.max()
    # The memory in use by the first 0, 1, 2, ... blocks of the order.
    kept = np.zeros(((n + block - 1) // block, room), np.int32)
    _keep(kept, 0, block, prompt, output, order, start)
    used = np.zeros(room, np.int32)
    at, best_start, best = start.copy(), start.copy(), now
    hot = max(1.0, 0.1 * now / n)
    cold = min(0.25, hot)
    for move in range(moves):
        heat = hot * (cold / hot) ** (move / moves)
        kind = np.random.random()
        k = np.random.randint(n)
        i, j = order[k], k
        before = known[i]
        if kind < 0.75 and n > 1:
            reach = n if kind < 0.1 else max(3, n // 8)
            j = min(n - 1, max(0, k + np.random.randint(-reach, reach + 1)))
            if j == k:
                continue
            _shift(order, k, j)
        elif before > arrival[i] and kind < 0.9:
            known[i] = arrival[i]
        else:
            known[i] = start[i] + 1 + np.random.randint(max(2, min(40, output[i])))
        first = min(j, k)
        b = first // block
        used[:] = kept[b]
        for m in range(b * block, first):
            i_ = order[m]
            add(used, prompt[i_], output[i_], start[i_])
        total = _again(used, memory, prompt, output, known, order, first, longest, start, at, now)
        if total >= 0 and total <= now - heat * np.log(1.0 - np.random.random()):
            now = total
            for m in range(first, n):
                start[order[m]] = at[order[m]]
            _keep(kept, b, block, prompt, output, order, start)
            if now < best:
                best = now
                best_start[:] = start
        else:
            known[i] = before
            _shift(order, j, k)
    start[:] = best_start
    return best


@borrowing()
def _again(used, memory, prompt, output, known, order, first, longest, start, at, total):
    """Starts the requests of the order from place `first` on again; the new sum, -1 if too long."""
    for m in range(first, len(order)):
        i = order[m]
        if known[i] > longest:
            return -1
        at[i] = earliest_start(used, memory, prompt[i], output[i], known[i])
        if at[i] + output[i] > longest:
            return -1
        add(used, prompt[i], output[i], at[i])
        total += at[i] - start[i]
    return total


@borrowing()
def _shift(order, k, j):
    """Moves what stands at place k to place j."""
    item, step = order[k], 1 if j > k else -1
    while k != j:
        order[k] = order[k + step]
        k += step
    order[j] = item


@borrowing()
def _keep(kept, b, block, prompt, output, order, start):
    """Brings the memory in use by the blocks after the b-th up to date."""
    for c in range(b + 1, len(kept)):
        copy_into(kept[c], kept[c - 1])
        for m in range((c - 1) * block, c * block):
            i = order[m]
            add(kept[c], prompt[i], output[i], start[i])
