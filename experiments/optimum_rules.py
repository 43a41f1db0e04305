"""Schedules under other rules than the model's, for `experiments.optimum_readings`.

One walk through the rounds makes all of them: requests are looked at in an order, and who may start
does. MC-SF is such a walk, and annealing over orders and over requests held back finds schedules
that are good under the same rules: feasible, and not proved to be best.
"""

from __future__ import annotations

import dataclasses

import numba
import numpy as np

import jaxsched as js

MANY = 2**30

TRIES, MOVES = 4, 20_000
"""Annealings, each of so many moves."""


@dataclasses.dataclass(frozen=True)
class Rules:
    """What a schedule obeys beside memory and arrivals."""

    reserved: bool = False  # a request holds s + o tokens from its start on
    batches: bool = False  # nobody starts before all have ended
    running: int = MANY  # requests at once, at most
    starts: int = MANY  # of requests in a round, at most
    eager: bool = False  # nobody who fits is held back


@numba.njit(cache=True)
def _walk(prompt, output, known, memory, order, reserved, batches, running, starts, passing, start):
    """Fills `start`, round by round; who does not fit is passed over, or ends the round.

    `known` are the rounds before which requests may not start. Returns the last round's end.
    """
    n = len(order)
    # In every round all may start if nobody runs, so that no walk is longer.
    use = np.zeros(known.max() + output.sum() + output.max() + 2, np.int64)
    count = np.zeros_like(use)
    start[:] = -1
    left, t, last = n, 0, 0
    while left:
        begun, empty = 0, count[t] == 0
        for i in order:
            if start[i] >= 0 or known[i] > t:
                continue
            fits = begun < starts and count[t] < running and (empty or not batches)
            for k in range(output[i] if fits else 0):
                held = prompt[i] + (output[i] if reserved else k + 1)
                if use[t + k] + held > memory:
                    fits = False
                    break
            if fits:
                for k in range(output[i]):
                    use[t + k] += prompt[i] + (output[i] if reserved else k + 1)
                    count[t + k] += 1
                start[i], left, begun = t, left - 1, begun + 1
                last = max(last, t + output[i])
            elif not passing:
                break
        t += 1
    return last


@numba.njit(cache=True)
def _search(
    prompt, output, arrival, memory, order, reserved, batches, running, starts, eager, horizon,
    moves, rng, best_start,
):  # fmt: skip
    """Anneals from an order; `best_start` gets the best starts that end by `horizon`, if any."""
    n = len(order)
    known, start = arrival.copy(), np.empty(n, np.int64)
    rules = (reserved, batches, running, starts, True)
    _walk(prompt, output, known, memory, order, *rules, start)
    now, best = start.sum(), np.int64(2**60)
    at, hot = start.copy(), max(1.0, 0.1 * start.sum() / n)
    for move in range(moves):
        heat = hot * (0.25 / hot) ** (move / moves)
        i, j = rng.integers(0, n), rng.integers(0, n)
        request, kind, before = order[i], rng.random(), known[order[i]]
        if eager or kind < 0.75:
            order[i], order[j] = order[j], order[i]
        elif before > arrival[request] and kind < 0.9:
            known[request] = arrival[request]
        else:
            known[request] = at[request] + 1 + rng.integers(0, max(2, output[request]))
        last = _walk(prompt, output, known, memory, order, *rules, start)
        total = start.sum()
        if last <= horizon and total <= now - heat * np.log(1.0 - rng.random()):
            now = total
            at[:] = start
            if now < best:
                best = now
                best_start[:] = start
        else:
            known[request] = before
            if eager or kind < 0.75:
                order[i], order[j] = order[j], order[i]
    return best


def _arrays(instance: js.Instance) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    s, o, a = (
        np.asarray(x, np.int64) for x in (instance.prompt, instance.output, instance.arrival)
    )
    return s, o, a, int(instance.memory)


def mc_sf(
    instance: js.Instance, rules: Rules = Rules(), key: np.ndarray | None = None
) -> np.ndarray:
    """Starts of MC-SF with true lengths, by the rules; `key` to be served in another order."""
    s, o, a, memory = _arrays(instance)
    start = np.empty(len(o), np.int64)
    order = np.argsort(o if key is None else key, kind="stable")
    _walk(s, o, a, memory, order, rules.reserved, rules.batches, rules.running, rules.starts, False,
          start)  # fmt: skip
    return start


def searched(
    instance: js.Instance, rules: Rules = Rules(), horizon: int = MANY
) -> np.ndarray | None:
    """Good starts by the rules, of a schedule that ends by `horizon`; None if none was found."""
    s, o, a, memory = _arrays(instance)
    found, best = np.empty(len(o), np.int64), None
    for seed in range(TRIES):
        order = np.argsort(o, kind="stable")
        total = _search(
            s, o, a, memory, order, rules.reserved, rules.batches, rules.running, rules.starts,
            rules.eager, horizon, MOVES, np.random.default_rng(seed), found,
        )  # fmt: skip
        if total < 2**60 and (best is None or total < best.sum()):
            best = found.copy()
    return best
