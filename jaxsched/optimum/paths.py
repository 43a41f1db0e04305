"""Lower bounds from paths: what memory in use and the number of active requests can do together.

Prices alone believe that memory can be full in every round. It cannot: who ends leaves a hole,
which is filled by one token a round of each active request and by starts. So the rounds are walked
through as a path of states (A active requests, U tokens in use), every start as it pleases the
path, and every end at the price of that request's whole stay: when it ends, and a fee of lambda_t
for a token in round t and nu_t for an active request, less a reward m_i, the same wherever it ends.
The path gets the fees back for the states it is in. From round T on, the length of the arrays,
there are no fees; who is still active then pays the least of what a late end costs. See
docs/optimum.md.
"""

from __future__ import annotations

import numpy as np

from jaxsched.optimum import packings
from jaxsched.optimum.compiled import borrowing, compiled
from jaxsched.optimum.packings import FAR
from jaxsched.optimum.prices import PATIENCE, ROW_SCALE, SMOOTH, costs, sums
from jaxsched.optimum.profile import copy_into

COUNT_SCALE, REWARD_SCALE, START_SCALE = 0.3, 1.0, 0.3
"""How far prices of requests, rewards and prices of starts go beside those of memory. Found by
trial."""

QUICK, THOROUGH, NEAR = (1.0, PATIENCE, 0.7), (1.0, 40, 0.85), (0.3, 20, 0.85)
"""How long steps are at first, after how many without progress they become shorter, and by what:
for some hundred steps, for some thousand, and from prices that are good. Found by trial."""


@compiled()
def floor_of(prompt, memory):
    """The least memory that 0, 1, 2, ... active requests can use, as far as they fit."""
    least = np.zeros(len(prompt) + 1, np.int64)
    for k, s in enumerate(np.sort(prompt)):
        least[k + 1] = least[k] + s + 1
        if least[k + 1] > memory:
            return least[: k + 1]
    return least


@borrowing()
def cost_to_go(
    size, prompts, end, late, may_start, begin, lam, nu, floor, starting, ending
):  # fmt: skip
    """Fills the least cost of the rest of a path, by round, active requests and memory in use.

    `starting` holds before (more) requests start in a round, `ending` before (more) of them end;
    both are to be `FAR` where no path comes, and are so when they were filled before.
    `end[t, k]` is the least price of an end at t among the requests of size[k] = prompt + output,
    `late` that of an end at T or later, and `may_start[t, k]` whether one of prompts[k] may start.
    """
    rounds, memory = len(lam), starting.shape[2] - 1
    # Lines of one number of active requests are taken as a whole: that is where the time goes.
    for active in range(len(floor)):
        low, high = floor[active], memory + 1 if active else 1
        ending[rounds, active, low:high] = active * late if active and late < FAR else FAR
    ending[rounds, 0, 0] = 0
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
                        there = starting[t, active + 1, low + step : high + step]
                        _least(here, there, -begin[t, k])
        for active in range(len(floor)):
            low, high = floor[active], memory + 1 if active else 1
            here, grown = ending[t, active, low:high], starting[t, active, low + active : high]
            copy_into(here, grown)
            here[len(grown) :] = FAR
            for k in range(len(size)):
                if active == 1:
                    if size[k] >= low:
                        here[size[k] - low] = min(here[size[k] - low], ending[t, 0, 0] + end[t, k])
                elif active > 1 and end[t, k] < FAR:
                    first = max(low, size[k] + floor[active - 1])
                    _least(here[first - low :], ending[t, active - 1, first - size[k] :], end[t, k])


@borrowing()
def _least(here, there, more):
    """What is in `here`, or less of it in `there` and `more`; either may be longer."""
    for u in range(min(len(here), len(there))):
        here[u] = min(here[u], there[u] + more)


@borrowing()
def cost_so_far(size, prompts, end, may_start, begin, lam, nu, floor, starting, ending):
    """Fills the least cost of the path up to there, as `cost_to_go` does that of the rest."""
    rounds, memory = len(lam), starting.shape[2] - 1
    starting[:], ending[:] = FAR, FAR
    ending[0, 0, 0] = 0
    for t in range(rounds):
        for active in range(len(floor) - 1, 0, -1):
            low = floor[active]
            for k in range(len(size)):
                if end[t, k] < FAR and (active > 1 or size[k] >= low):
                    first = max(low, size[k] + floor[active - 1])
                    last = memory if active > 1 else size[k]
                    _least(
                        ending[t, active - 1, first - size[k] :],
                        ending[t, active, first : last + 1],
                        end[t, k],
                    )
        for active in range(len(floor)):
            copy_into(starting[t, active, active:], ending[t, active])
        for active in range(len(floor)):
            if active + 1 < len(floor):
                for k in range(len(prompts)):
                    if may_start[t, k]:
                        more = starting[t, active + 1, prompts[k] + 1 :]
                        _least(more, starting[t, active, : len(more)], -begin[t, k])
            for u in range(memory + 1):
                if starting[t, active, u] < FAR:
                    now = starting[t, active, u]
                    ending[t + 1, active, u] = now - lam[t] * u - nu[t] * active


@compiled()
def arcs(size, prompts, end, late, begin, floor, so_far, to_go, slack):
    """What a start, an end and a late end cost with the best path that has it, and what is spare.

    `so_far` and `to_go` are pairs (starting, ending). Spare is what an end is dearer than it needs
    to be for the path to go on as cheaply from every state that is in a path of at most the least
    cost and `slack`. Of shapes [T, kinds of prompts], [T, kinds of sizes], none, [T, kinds].
    """
    (starts, ends), (starts_on, ends_on) = so_far, to_go
    rounds, memory = len(end), starts.shape[2] - 1
    start_arc = np.full((rounds, len(prompts)), FAR)
    end_arc, spare = np.full(end.shape, FAR), np.full(end.shape, FAR)
    late_arc = FAR
    limit = starts_on[0, 0, 0] + slack
    for t in range(rounds):
        for active in range(len(floor)):
            for u in range(floor[active], memory + 1 if active else 1):
                now = starts[t, active, u]
                if now < FAR and active + 1 < len(floor):
                    for k in range(len(prompts)):
                        more = u + prompts[k] + 1
                        if more <= memory:
                            on = starts_on[t, active + 1, more] - begin[t, k]
                            start_arc[t, k] = min(start_arc[t, k], now + on)
                now, here = ends[t, active, u], ends_on[t, active, u]
                if active and now < FAR:
                    for k in range(len(size)):
                        less = u - size[k]
                        if less < floor[active - 1]:
                            break
                        if (active > 1 or less == 0) and end[t, k] < FAR:
                            on = end[t, k] + ends_on[t, active - 1, less]
                            end_arc[t, k] = min(end_arc[t, k], now + on)
                            if now + here <= limit:
                                spare[t, k] = min(spare[t, k], on - here)
    for active in range(1, len(floor)):
        for u in range(floor[active], memory + 1):
            if ends[rounds, active, u] < FAR and late < FAR:
                late_arc = min(late_arc, ends[rounds, active, u] + active * late)
    return start_arc, end_arc, late_arc, spare


@borrowing()
def _walk(
    size, prompts, end, may_start, begin, floor, starting, ending, in_use, number, begun, ends
):  # fmt: skip
    """A path of least cost: memory in use, active requests, starts and ends of every round.

    Returns how many are late.
    """
    rounds, memory = len(begin), starting.shape[2] - 1
    active, used = 0, 0
    ends[:], begun[:] = 0, 0
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
                    and starting[t, active + 1, more] - begin[t, k] == starting[t, active, used]
                ):
                    active, used, moved = active + 1, more, True
                    begun[t, k] += 1
                    break
        in_use[t], number[t] = used, active
    return active


@compiled()
def cheapest_ends(kind, kinds, output, allowed, cost):
    """Of every round and kind of request the least price of an end, and whose it is.

    And that of a late end, whose it is, and when it starts. `cost[i, p]` is that of a start.
    """
    rounds = allowed.shape[1]
    least = np.full((rounds, kinds), FAR, cost.dtype)
    who = np.zeros((rounds, kinds), np.int64)
    late = least[0, 0]
    late_one, late_start = -1, -1
    for i in range(len(kind)):
        for p in range(rounds):
            if allowed[i, p]:
                t = p + output[i]
                if t >= rounds:
                    if cost[i, p] < late:
                        late, late_one, late_start = cost[i, p], i, p
                elif cost[i, p] < least[t, kind[i]]:
                    least[t, kind[i]], who[t, kind[i]] = cost[i, p], i
    return least, who, late, late_one, late_start


@compiled()
def distinct(values):
    """The different values, ascending, and which of them each is."""
    different = np.unique(values)
    return different, np.searchsorted(different, values)


@compiled()
def kinds_of_requests(size, memory):
    """The kind of request that may end at a usage of 0 ... M, -1 if there is none."""
    kind_of = np.full(memory + 1, -1)
    for k in range(len(size)):
        kind_of[size[k]] = k
    return kind_of


@compiled()
def starts_of(which, kinds, allowed):
    """Whether any request of a kind may start, by round and kind."""
    may = np.zeros((allowed.shape[1], kinds), np.bool_)
    for i in range(len(which)):
        for t in range(allowed.shape[1]):
            may[t, which[i]] |= allowed[i, t]
    return may


@compiled()
def start_costs(
    prompt, output, alpha, beta, unit, lam, nu, mu, reward, which, begin, first, last, table
):  # fmt: skip
    """Fills table[i, p], first[i] <= p <= last: the end of i in `unit`s, its fees, less its reward.

    `last` may be beyond the last priced round.
    """
    width = last + output.max() + 2
    tokens, moments = sums(lam, width)
    requests, _ = sums(nu, width)
    row, _ = sums(mu, width)
    for i in range(len(prompt)):
        s, o, a = prompt[i], output[i], first[i]
        costs(a, last, unit, s, o, alpha[i], beta[i], tokens, moments, row, table[i, a:])
        for p in range(a, last + 1):
            table[i, p] += requests[p + o] - requests[p] - reward[i]
            if p < len(begin):
                table[i, p] += begin[p, which[i]]


@compiled()
def climb_with_paths(
    prompt, output, arrival, memory, alpha, beta, upper, lam, mu, nu, reward, begin, allowed, moves,
    live, steps, theta, patience, slower,
):  # fmt: skip
    """Raises the bound by Polyak steps along smoothed gradients; prices are left at the best.

    Only starts that are `allowed[i, p]`, p < T, are looked at; and, if `moves` has any, only the
    packings that are `live`. Returns the best value, in floating
    point: not a proof.
    """
    rounds = len(lam)
    size, kind = distinct(prompt + output)
    prompts, which = distinct(prompt)
    floor = floor_of(prompt, memory)
    may_start = starts_of(which, len(prompts), allowed)
    packed = len(moves.active) > 0
    shape = (rounds + 1, len(floor), memory + 1) if not packed else (0, 0, 0)
    starting, ending = np.full(shape, float(FAR)), np.full(shape, float(FAR))
    starting_live, ending_live = np.zeros(len(live.start)), np.zeros(len(live.end))
    kind_of = kinds_of_requests(size, memory)
    in_use, number = np.zeros(rounds), np.zeros(rounds)
    ends, begun = np.zeros((rounds, len(size))), np.zeros((rounds, len(prompts)))
    table = np.empty((len(prompt), rounds))
    best_lam, best_mu, best_nu, best_reward = lam.copy(), mu.copy(), nu.copy(), reward.copy()
    best_begin, way_begin = begin.copy(), np.zeros_like(begin)
    way_lam, way_mu, way_nu = np.zeros(rounds), np.zeros(rounds), np.zeros(rounds)
    raw_lam, raw_mu, raw_nu = np.zeros(rounds), np.zeros(rounds), np.zeros(rounds)
    way_reward, raw_reward = np.zeros_like(reward), np.zeros_like(reward)
    found, stuck = -np.inf, 0
    for _ in range(steps):
        start_costs(
            prompt, output, alpha, beta, 1.0, lam, nu, mu, reward, which, begin, arrival,
            rounds - 1, table,
        )  # fmt: skip
        end, who, late, late_one, late_start = cheapest_ends(
            kind, len(size), output, allowed, table
        )
        if packed:
            packings.packed_cost_to_go(
                moves, live, kind_of, end, late, may_start, begin, lam, nu, starting_live,
                ending_live,
            )  # fmt: skip
            value = starting_live[0] if len(live.start) > 0 else float(FAR)
        else:
            cost_to_go(size, prompts, end, late, may_start, begin, lam, nu, floor, starting, ending)
            value = starting[0, 0, 0]
        value += reward.sum() - mu.sum() - arrival.sum()
        if value > upper:
            # No path is left that is as good.
            return value
        if packed:
            still = packings.walk(
                moves, live, kind_of, end, may_start, begin, starting_live, ending_live, in_use,
                number, begun, ends,
            )  # fmt: skip
        else:
            still = _walk(
                size, prompts, end, may_start, begin, floor, starting, ending, in_use, number,
                begun, ends,
            )  # fmt: skip
        raw_lam[:], raw_nu[:], raw_mu[:], raw_reward[:] = -in_use / memory, -number, -1.0, 1.0
        raw_begin = -begun
        for t in range(rounds):
            for k in range(len(size)):
                if ends[t, k] > 0:
                    i = who[t, k]
                    _stay(
                        i, t - output[i], ends[t, k], prompt, output, alpha, beta, memory, which,
                        raw_lam, raw_nu, raw_mu, raw_reward, raw_begin,
                    )  # fmt: skip
        if still:
            _stay(
                late_one, late_start, still, prompt, output, alpha, beta, memory, which, raw_lam,
                raw_nu, raw_mu, raw_reward, raw_begin,
            )  # fmt: skip
        stuck = 0 if value > found + 1e-4 * (upper - value) else stuck + 1
        if value > found:
            found = value
            best_lam[:], best_mu[:], best_nu[:], best_reward[:] = lam, mu, nu, reward
            best_begin[:] = begin
        if stuck == patience:
            theta, stuck = theta * slower, 0
            lam[:], mu[:], nu[:], reward[:] = best_lam, best_mu, best_nu, best_reward
            begin[:] = best_begin
        if upper - found < 1.0 - 1e-7 or theta < 1e-2:
            break
        norm = REWARD_SCALE**2 * (raw_reward**2).sum() + START_SCALE**2 * (raw_begin**2).sum()
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
        way_reward[:] = SMOOTH * way_reward + (1 - SMOOTH) * raw_reward
        lam += step * way_lam / memory
        nu += step * COUNT_SCALE**2 * way_nu
        mu[:] = np.maximum(0.0, mu + step * ROW_SCALE**2 * way_mu)
        way_begin[:] = SMOOTH * way_begin + (1 - SMOOTH) * raw_begin
        reward += step * REWARD_SCALE**2 * way_reward
        begin += step * START_SCALE**2 * way_begin
    lam[:], mu[:], nu[:], reward[:] = best_lam, best_mu, best_nu, best_reward
    begin[:] = best_begin
    return found


@borrowing()
def _stay(
    i, p, times, prompt, output, alpha, beta, memory, which, raw_lam, raw_nu, raw_mu, raw_reward,
    raw_begin,
):  # fmt: skip
    """Adds to the gradient that request i starts in round p, so many times."""
    rounds = len(raw_lam)
    raw_reward[i] -= times
    raw_begin[p, which[i]] += times
    for t in range(p, min(p + output[i], rounds)):
        raw_lam[t] += times * (prompt[i] + 1 + t - p) / memory
        raw_nu[t] += times
    for t in range(p + alpha[i], min(p + beta[i], rounds)):
        raw_mu[t] += times
