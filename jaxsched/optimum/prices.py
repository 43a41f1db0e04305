"""Lower bounds from prices of memory: what a start in round p costs, and the best sum.

Everybody pays lambda_t for a token in round t, and mu_t for being the one of the unary row of round
t (see docs/optimum.md for why that bounds the total latency). Prices are 0 from round H on, the
length of the arrays; a row is `alpha` and `beta`, the offsets of a request's interval.
"""

from __future__ import annotations

import numpy as np

from jaxsched.optimum.compiled import borrowing, compiled

PATIENCE, SMOOTH, ROW_SCALE = 25, 0.75, 0.5
"""Steps without progress before they become shorter; weight of the last direction in the next; how
far prices of the row go beside those of memory. Found by trial."""


@compiled()
def unary_row(prompt, output, memory, level):
    """Offsets alpha, beta: the intervals [p + alpha, p + beta) of no two requests can meet.

    Any `level` is right. Requests whose interval is empty take no part.
    """
    alpha = np.maximum(0, level - prompt)
    beta = np.minimum(output, 2 * output + prompt + level - memory)
    takes = beta > alpha
    return np.where(takes, alpha, 0), np.where(takes, beta, 0)


@compiled()
def sums(prices, length):
    """Running sums of prices and of t times prices, with 0 in front, padded to `length`."""
    total = np.zeros(length, prices.dtype)
    moment = np.zeros(length, prices.dtype)
    rounds = len(prices)
    for t in range(rounds):
        total[t + 1] = total[t] + prices[t]
        moment[t + 1] = moment[t] + prices[t] * t
    total[rounds + 1 :] = total[rounds]
    moment[rounds + 1 :] = moment[rounds]
    return total, moment


@borrowing()
def costs(first, last, unit, prompt, output, alpha, beta, L, W, U, cost):
    """Fills cost[p - first], first <= p <= last, of one request: the time of its end and its fees.

    In units of 1 / `unit`; L, W and U are `sums` of the prices of memory and of the row.
    """
    # Lines as a whole, counted from 0: that is what the compiler makes vectors of.
    stop, beta_stop, alpha_stop = last + 1, last + 1 + beta, last + 1 + alpha
    L_end, L_start = L[first + output : stop + output], L[first:stop]
    W_end, W_start = W[first + output : stop + output], W[first:stop]
    U_end, U_start = U[first + beta : beta_stop], U[first + alpha : alpha_stop]
    end, held = unit * (first + output), prompt + 1 - first
    for k in range(stop - first):
        cost[k] = (
            end
            + unit * k
            + (held - k) * (L_end[k] - L_start[k])
            + (W_end[k] - W_start[k])
            + (U_end[k] - U_start[k])
        )


@compiled()
def best_starts(prompt, output, arrival, memory, alpha, beta, unit, lam, mu, best, cost, start):
    """The value of the relaxation; `best` and `start` get every request's least cost and where.

    Exact if all is in integers. A start from round H on costs just its end, so that none later than
    the first of them is ever better.
    """
    n, rounds = len(prompt), len(lam)
    width = max(rounds, arrival.max()) + output.max() + 2
    L, W = sums(lam, width)
    U, _ = sums(mu, width)
    value = -memory * L[rounds] - U[rounds]
    for i in range(n):
        a, last = arrival[i], max(arrival[i], rounds)
        costs(a, last, unit, prompt[i], output[i], alpha[i], beta[i], L, W, U, cost)
        least = cost[0]
        for k in range(1, last - a + 1):
            least = min(least, cost[k])
        k = 0
        while cost[k] != least:
            k += 1
        best[i], start[i] = least, a + k
        value += least - unit * a
    return value


@compiled()
def fluid(prompt, output, arrival, memory, lam):
    """The mean busy time bound, with arrivals, in whole rounds; `lam` gets its prices.

    Memory is poured over the requests, smallest volume first among those that are there, M a round.
    Sum of the latencies >= sum of the mean times and of the times from there to the ends.
    """
    n = len(prompt)
    size = prompt * output + output * (output + 1) // 2
    order = np.argsort(size, kind="mergesort")
    rank = np.empty(n, np.int64)
    for place_, i in enumerate(order):
        rank[i] = place_
    left = size.copy()
    coming = np.argsort(arrival, kind="mergesort")
    heap = np.empty(n, np.int64)  # ranks of those that are there and not served, a binary heap
    heaped, seen, t = 0, 0, 0
    bound = 0.0
    lam[:] = 0.0
    while True:
        if heaped == 0:
            if seen == n:
                break
            t = max(t, arrival[coming[seen]])
        while seen < n and arrival[coming[seen]] <= t:
            _push(heap, heaped, rank[coming[seen]])
            heaped += 1
            seen += 1
        free = memory
        density = 0.0
        while heaped > 0 and free > 0:
            i = order[heap[0]]
            part = min(free, left[i])
            bound += (t + 0.5) * part / size[i]
            free -= part
            left[i] -= part
            density = 1.0 / size[i]
            if left[i] == 0:
                _pop(heap, heaped)
                heaped -= 1
        if t < len(lam) and free == 0:
            lam[t] = density
        t += 1
    # Between two rounds the price falls by the density of what is served last; it is 0 where
    # memory is left over.
    for t in range(len(lam) - 2, -1, -1):
        if lam[t] > 0.0:
            lam[t] += lam[t + 1]
    for i in range(n):
        s, o = float(prompt[i]), float(output[i])
        moment = s * o * o / 2 + o * (o + 1) * (2 * o + 1) / 6 - o * (o + 1) / 4
        bound += o - moment / size[i] - arrival[i]
    return bound, t


@borrowing()
def _push(heap, count, item):
    at = count
    heap[at] = item
    while at > 0 and heap[(at - 1) // 2] > heap[at]:
        up = (at - 1) // 2
        heap[at], heap[up] = heap[up], heap[at]
        at = up


@borrowing()
def _pop(heap, count):
    count -= 1
    heap[0] = heap[count]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= count:
            return
        if child + 1 < count and heap[child + 1] < heap[child]:
            child += 1
        if heap[at] <= heap[child]:
            return
        heap[at], heap[child] = heap[child], heap[at]
        at = child


@compiled()
def climb(prompt, output, arrival, memory, alpha, beta, upper, lam, mu, steps):
    """Raises the bound by Polyak steps with smoothed gradients; prices are left at the best.

    `upper` is the total latency of some schedule: the length of steps is taken from the distance to
    it. Returns the best value found, in floating point: not a proof.
    """
    n, rounds = len(prompt), len(lam)
    unit = 1.0
    best = np.empty(n)
    cost = np.empty(rounds + 2)
    start = np.empty(n, np.int64)
    rows = False
    for i in range(n):
        rows = rows or beta[i] > alpha[i]
    now_lam, now_mu = lam.copy(), mu.copy()
    way_lam, way_mu = np.zeros(rounds), np.zeros(rounds)
    # Starts go up to H, requests run beyond.
    use, cover = np.empty(rounds + 1), np.empty(rounds + 1)
    found, theta, stuck = -np.inf, 0.5, 0
    for _ in range(steps):
        value = best_starts(
            prompt, output, arrival, memory, alpha, beta, unit, now_lam, now_mu, best, cost, start
        )
        stuck = 0 if value > found + 1e-4 * (upper - value) else stuck + 1
        if value > found:
            found = value
            lam[:], mu[:] = now_lam, now_mu
        if stuck == PATIENCE:
            theta, stuck = theta * 0.8, 0
            now_lam[:], now_mu[:] = lam, mu
        if upper - found < 1.0 - 1e-7 or theta < 1e-3:
            break
        use[:], cover[:] = 0.0, 0.0
        for i in range(n):
            for t in range(start[i], min(start[i] + output[i], rounds)):
                use[t] += prompt[i] + 1 + t - start[i]
            for t in range(start[i] + alpha[i], min(start[i] + beta[i], rounds)):
                cover[t] += 1.0
        norm = 0.0
        for t in range(rounds):
            way_lam[t] = SMOOTH * way_lam[t] + (1 - SMOOTH) * (use[t] / memory - 1.0)
            # A price of 0 that would fall stays; its way does not count.
            if now_lam[t] > 0.0 or way_lam[t] > 0.0:
                norm += way_lam[t] ** 2
            if rows:
                way_mu[t] = SMOOTH * way_mu[t] + (1 - SMOOTH) * ROW_SCALE * (cover[t] - 1.0)
                if now_mu[t] > 0.0 or way_mu[t] > 0.0:
                    norm += way_mu[t] ** 2
        if norm == 0.0:
            break
        step = theta * (upper - value) / norm
        for t in range(rounds):
            now_lam[t] = max(0.0, now_lam[t] + step * way_lam[t] / memory)
            if rows:
                now_mu[t] = max(0.0, now_mu[t] + step * ROW_SCALE * way_mu[t])
    return found
