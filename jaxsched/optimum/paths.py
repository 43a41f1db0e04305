"""Lower bounds from paths: what memory in use and the number of active requests can do together.

Prices alone believe that memory can be full in every round. It cannot: who ends leaves a hole,
which is filled by one token a round of each active request and by starts. So the rounds are walked
through as a path of states (A active requests, U tokens in use), every end of a request and every
start as it pleases the path, and prices make it agree with the requests: lambda_t for a token in
round t, nu_t for an active request, g_i(e) for the end of request i at round e. From round T, the
length of the arrays, there are no prices, and paths may be in any state. See docs/optimum.md.
"""

from __future__ import annotations

import numpy as np

from jaxsched.optimum.compiled import compiled
from jaxsched.optimum.prices import PATIENCE, ROW_SCALE, SMOOTH, costs, sums

FAR = 2**60
"""The cost of what is not allowed; sums of real costs stay far below."""

COUNT_SCALE, END_SCALE = 0.1, 2.0
"""How far prices of requests and of ends go beside those of memory. Found by trial."""

QUICK, THOROUGH = (PATIENCE, 0.7), (40, 0.85)
"""After how many steps without progress they become shorter, and by what: for some hundred steps,
and for some thousand. Found by trial."""


@compiled()
def floor_of(prompt, memory):
    """The least memory that 0, 1, 2, ... active requests can use, as far as they fit."""
    least = np.zeros(len(prompt) + 1, np.int64)
    for k, s in enumerate(np.sort(prompt)):
        least[k + 1] = least[k] + s + 1
        if least[k + 1] > memory:
            return least[: k + 1]
    return least


@compiled()
def cost_to_go(size, prompts, end, may_start, lam, nu, floor, starting, ending):
    """Fills the least cost of the rest of a path, by round, active requests and memory in use.

    `starting` holds before (more) requests start in a round, `ending` before (more) of them end;
    both are to be `FAR` where no path comes, and are so when they were filled before.
    `end[t, k]` is the least price of an end at t among the requests of size[k] = prompt + output,
    and `may_start[t, k]` whether one of prompts[k] may start.
    """
    rounds, memory = len(lam), starting.shape[2] - 1
    # Lines of one number of active requests are taken as a whole: that is where the time goes.
    for active in range(len(floor)):
        low, high = floor[active], memory + 1 if active else 1
        starting[rounds, active, low:high] = 0
        ending[rounds, active, low:high] = 0
    for t in range(rounds - 1, -1, -1):
        for active in range(len(floor) - 1, -1, -1):
            low, high = floor[active], memory + 1 if active else 1
            here, later = starting[t, active, low:high], ending[t + 1, active, low:high]
            for u in range(len(here)):
                here[u] = later[u] - lam[t] * (low + u) - nu[t] * active
            if active + 1 < len(floor):
                for k in range(len(prompts)):
                    if may_start[t, k]:
                        step = prompts[k] + 1
                        _least(here, starting[t, active + 1, low + step : high + step], 0)
        for active in range(len(floor)):
            low, high = floor[active], memory + 1 if active else 1
            here, grown = ending[t, active, low:high], starting[t, active, low + active : high]
            here[: len(grown)] = grown
            here[len(grown) :] = FAR
            for k in range(len(size)):
                if active == 1:
                    if size[k] >= low:
                        here[size[k] - low] = min(here[size[k] - low], ending[t, 0, 0] + end[t, k])
                elif active > 1 and end[t, k] < FAR:
                    first = max(low, size[k] + floor[active - 1])
                    _least(here[first - low :], ending[t, active - 1, first - size[k] :], end[t, k])


@compiled()
def _least(here, there, more):
    """What is in `here`, or less of it in `there` and `more`; `there` may be shorter or longer."""
    for u in range(min(len(here), len(there))):
        here[u] = min(here[u], there[u] + more)


@compiled()
def _walk(size, prompts, end, may_start, lam, nu, floor, starting, ending, in_use, number, ends):
    """A path of least cost: memory in use and active requests of every round, and its ends."""
    rounds, memory = len(lam), starting.shape[2] - 1
    active, used = 0, 0
    ends[:] = 0
    for t in range(rounds):
        moved = t > 0
        while moved:
            moved = False
            here = ending[t, active, used]
            if used + active <= memory and starting[t, active, used + active] == here:
                break
            for k in range(len(size)):
                less = used - size[k]
                if less < 0:
                    break
                if (active > 1 or less == 0) and ending[t, active - 1, less] + end[t, k] == here:
                    active, used, moved = active - 1, less, True
                    ends[t, k] += 1
                    break
        used += active if t else 0
        moved = True
        while moved and active + 1 < len(floor):
            moved = False
            for k in range(len(prompts)):
                more = used + prompts[k] + 1
                if (
                    more <= memory
                    and may_start[t, k]
                    and starting[t, active + 1, more] == starting[t, active, used]
                ):
                    active, used, moved = active + 1, more, True
                    break
        in_use[t], number[t] = used, active


@compiled()
def cheapest_ends(kind, kinds, output, allowed, g):
    """Of every round and kind of request the least price of an end, and whose it is."""
    rounds = g.shape[1]
    least = np.full((rounds, kinds), FAR, g.dtype)
    who = np.zeros((rounds, kinds), np.int64)
    for i in range(len(kind)):
        for t in range(output[i], rounds):
            if allowed[i, t - output[i]] and g[i, t] < least[t, kind[i]]:
                least[t, kind[i]], who[t, kind[i]] = g[i, t], i
    return least, who


@compiled()
def distinct(values):
    """The different values, ascending, and which of them each is."""
    different = np.unique(values)
    return different, np.searchsorted(different, values)


@compiled()
def starts_of(which, kinds, allowed):
    """Whether any request of a kind may start, by round and kind."""
    may = np.zeros((allowed.shape[1], kinds), np.bool_)
    for i in range(len(which)):
        for t in range(allowed.shape[1]):
            may[t, which[i]] |= allowed[i, t]
    return may


@compiled()
def start_costs(prompt, output, alpha, beta, unit, lam, nu, mu, g, first, last, table):
    """Fills table[i, p], first[i] <= p <= last, of all requests: the end in `unit`s, and all fees.

    `last` may be beyond the last priced round.
    """
    rounds = len(lam)
    width = last + output.max() + 2
    tokens, moments = sums(lam, width)
    requests, _ = sums(nu, width)
    row, _ = sums(mu, width)
    for i in range(len(prompt)):
        s, o, a = prompt[i], output[i], first[i]
        costs(a, last, unit, s, o, alpha[i], beta[i], tokens, moments, row, table[i, a:])
        for p in range(a, last + 1):
            table[i, p] += requests[p + o] - requests[p]
            if p + o < rounds:
                table[i, p] -= g[i, p + o]


@compiled()
def climb_with_paths(
    prompt, output, arrival, memory, alpha, beta, upper, lam, mu, nu, g, allowed, steps,
    patience, slower,
):  # fmt: skip
    """Raises the bound by Polyak steps along smoothed gradients; prices are left at the best.

    Only starts that are `allowed[i, p]`, p < T, are looked at, and all from T on. Returns the best
    value, in floating point: not a proof.
    """
    n, rounds = len(prompt), len(lam)
    size, kind = distinct(prompt + output)
    prompts, which = distinct(prompt)
    floor = floor_of(prompt, memory)
    may_start = starts_of(which, len(prompts), allowed)
    shape = (rounds + 1, len(floor), memory + 1)
    starting, ending = np.full(shape, float(FAR)), np.full(shape, float(FAR))
    in_use, number = np.zeros(rounds), np.zeros(rounds)
    ends = np.zeros((rounds, len(size)))
    last = max(rounds, arrival.max())
    table = np.empty((n, last + 1))
    best_lam, best_mu, best_nu, best_g = lam.copy(), mu.copy(), nu.copy(), g.copy()
    way_lam, way_mu, way_nu = np.zeros(rounds), np.zeros(rounds), np.zeros(rounds)
    raw_lam, raw_mu, raw_nu = np.zeros(rounds), np.zeros(rounds), np.zeros(rounds)
    way_g, raw_g = np.zeros_like(g), np.zeros_like(g)
    found, theta, stuck = -np.inf, 1.0, 0
    for _ in range(steps):
        end, who = cheapest_ends(kind, len(size), output, allowed, g)
        cost_to_go(size, prompts, end, may_start, lam, nu, floor, starting, ending)
        _walk(size, prompts, end, may_start, lam, nu, floor, starting, ending, in_use, number, ends)
        raw_lam[:], raw_nu[:], raw_mu[:] = -in_use / memory, -number, -1.0
        raw_g[:] = 0.0
        for t in range(rounds):
            for k in range(len(size)):
                raw_g[who[t, k], t] += ends[t, k]
        value = starting[0, 0, 0] - mu.sum()
        start_costs(prompt, output, alpha, beta, 1.0, lam, nu, mu, g, arrival, last, table)
        for i in range(n):
            p, least = -1, np.inf
            for k in range(arrival[i], last + 1):
                if (k >= rounds or allowed[i, k]) and table[i, k] < least:
                    p, least = k, table[i, k]
            value += least - arrival[i]
            e = p + output[i]
            for t in range(p, min(e, rounds)):
                raw_lam[t] += (prompt[i] + 1 + t - p) / memory
                raw_nu[t] += 1.0
            for t in range(p + alpha[i], min(p + beta[i], rounds)):
                raw_mu[t] += 1.0
            if e < rounds:
                raw_g[i, e] -= 1.0
        stuck = 0 if value > found + 1e-4 * (upper - value) else stuck + 1
        if value > found:
            found = value
            best_lam[:], best_mu[:], best_nu[:], best_g[:] = lam, mu, nu, g
        if stuck == patience:
            theta, stuck = theta * slower, 0
            lam[:], mu[:], nu[:], g[:] = best_lam, best_mu, best_nu, best_g
        if upper - found < 1.0 - 1e-7 or theta < 1e-2:
            break
        norm = (END_SCALE**2) * (raw_g**2).sum()
        for t in range(rounds):
            norm += raw_lam[t] ** 2 + (COUNT_SCALE * raw_nu[t]) ** 2
            if mu[t] > 0.0 or raw_mu[t] > 0.0:
                norm += (ROW_SCALE * raw_mu[t]) ** 2
        if norm == 0.0:
            break
        step = theta * (upper - value) / norm
        way_lam[:] = SMOOTH * way_lam + (1 - SMOOTH) * raw_lam
        way_nu[:] = SMOOTH * way_nu + (1 - SMOOTH) * raw_nu
        way_mu[:] = SMOOTH * way_mu + (1 - SMOOTH) * raw_mu
        way_g[:] = SMOOTH * way_g + (1 - SMOOTH) * raw_g
        lam += step * way_lam / memory
        nu += step * COUNT_SCALE**2 * way_nu
        mu[:] = np.maximum(0.0, mu + step * ROW_SCALE**2 * way_mu)
        g += step * END_SCALE**2 * way_g
    lam[:], mu[:], nu[:], g[:] = best_lam, best_mu, best_nu, best_g
    return found
