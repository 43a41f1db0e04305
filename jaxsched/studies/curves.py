"""One simulated trace as curves: how times are distributed, and what the worker held over time.

A thousand numbers a policy, however long the trace, so that pages can be made of them later.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from jaxsched import metrics
from jaxsched.clocks import TICKS_PER_SECOND
from jaxsched.instance import Instance
from jaxsched.metrics import samples
from jaxsched.metrics.samples import Floats, Integers
from jaxsched.metrics.timeline import runs_of
from jaxsched.result import Result, Status

CURVES = ("distributions", "timeline")
"""Tables of these curves, by name."""

QUANTILES = np.unique([*np.linspace(0, 1, 201), 0.999, 0.9999])
"""Where distributions are kept: the share of requests that took no longer."""

STRETCHES = 240
"""Parts of equal length into which the time of a simulation is cut."""


def distributions(instance: Instance, result: Result, **columns: Any) -> pd.DataFrame:
    """Quantiles of every time of the requests that completed, of a single lane.

    A row per metric and share: `metric`, `share`, `value`. In rounds `latency`; under a clock, in
    seconds, `ttft`, `tpot`, `e2el` and `queueing`.
    """
    parts = []
    for name, values in _times(instance, result).items():
        if len(values):
            row = {"metric": name, "share": QUANTILES, "value": np.quantile(values, QUANTILES)}
            parts.append(pd.DataFrame({**columns, **row}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _times(instance: Instance, result: Result) -> dict[str, NDArray[Any]]:
    """What each request that completed took, by metric."""
    done = np.asarray(result.completion)[0] >= 0
    if result.times is None:
        return {"latency": (np.asarray(result.completion)[0] - _arrival(instance, result))[done]}
    seen = metrics.requests(instance, result)
    several = seen.several[0]
    return {
        "ttft": seen.ttft[0][done],
        "tpot": seen.tpot[0][several],
        "e2el": seen.e2el[0][done],
        "queueing": seen.queueing[0][done],
    }


def _arrival(instance: Instance, result: Result) -> Floats:
    """Arrivals of the one lane, in rounds or seconds."""
    if result.times is not None:
        return samples.arrival_ticks(instance)[0] / TICKS_PER_SECOND
    n = instance.n
    return np.zeros(n) if instance.arrival is None else np.asarray(instance.arrival, np.float64)[0]


def held_over_time(instance: Instance, result: Result, **columns: Any) -> pd.DataFrame:
    """What the papers' worker held over time, a row for each of `STRETCHES` parts of equal length.

    `time` is the middle of a part, in rounds or seconds. Means over it: `kv`, the share of the
    memory in use, and `running` and `waiting` requests; `completed` requests that ended in it, and
    their mean `latency`. Without rows for a lane that did not finish. Between two events, under a
    clock, all rounds are taken to last equally long.

    Args:
      instance: What was simulated, a single lane.
      result: What `simulate(…, history=True)` made of it.
      columns: What the rows have in common.
    """
    if int(np.asarray(result.status)[0]) != Status.FINISHED or not instance.n:
        return pd.DataFrame()
    runs = runs_of(instance, result, 0)
    request, admitted, ended = runs.request, runs.admitted, runs.ended
    arrival, end = _arrival(instance, result), _completion(result)
    edges = np.linspace(arrival.min(), end.max(), STRETCHES + 1)
    rounds = np.unique(np.concatenate([admitted, ended]))
    # What is held grows from round to round, so a part may begin between two events.
    within = np.interp(edges, _round_times(result, rounds)[1], rounds)
    rounds = np.unique(np.concatenate([rounds, np.floor(within), np.ceil(within)]).astype(np.int64))
    before, after = _round_times(result, rounds)
    change = np.zeros((2, len(rounds)), np.int64)  # requests; their tokens, had it been round 0
    prompt = np.asarray(instance.prompt, np.int64)[0]
    for place, sign in ((admitted, 1), (ended, -1)):
        at = np.searchsorted(rounds, place)
        np.add.at(change[0], at, sign)
        np.add.at(change[1], at, sign * (prompt[request] + 1 - admitted))
    running, constant = np.cumsum(change, axis=1)[:, :-1]
    length = np.diff(rounds)
    tokens = constant + running * (rounds[:-1] + (length - 1) / 2)

    # What is held between two rounds, and the time after a round in which there is nobody.
    knots = np.stack([before, after], axis=-1).ravel()
    held = np.zeros((2, len(knots) - 1))
    held[:, 1::2] = running, tokens
    starts = after[np.searchsorted(rounds, admitted)]
    again = np.diff(request, append=-1) == 0  # all stays of a request but its last end so
    evictions = before[np.searchsorted(rounds, ended[again])]
    moved = np.concatenate([arrival, starts, evictions])
    signs = np.repeat([1, -1, 1], [len(arrival), len(starts), len(evictions)])
    order = np.argsort(moved, kind="stable")
    part = np.clip(np.searchsorted(edges, end, side="left") - 1, 0, STRETCHES - 1)
    completed = np.bincount(part, minlength=STRETCHES)
    total = np.bincount(part, weights=end - arrival, minlength=STRETCHES)
    return pd.DataFrame(
        {
            **columns,
            "time": (edges[:-1] + edges[1:]) / 2,
            "kv": _means(knots, held[1], edges) / np.ravel(instance.memory)[0],
            "running": _means(knots, held[0], edges),
            "waiting": _means(moved[order], np.cumsum(signs[order])[:-1], edges),
            "completed": completed,
            "latency": np.where(completed > 0, total / np.maximum(completed, 1), np.nan),
        }
    )


def _completion(result: Result) -> Floats:
    """When each request ended, in rounds or seconds."""
    if result.times is None:
        return np.asarray(result.completion, np.float64)[0]
    return result.ticks[0, :, 2] / TICKS_PER_SECOND


def _round_times(result: Result, rounds: Integers) -> tuple[Floats, Floats]:
    """When the round before each of these ends, and when each starts; idle time lies between."""
    if result.times is None:
        return rounds.astype(np.float64), rounds.astype(np.float64)
    first, last = (np.asarray(x, np.int64)[0] for x in (result.first_token, result.completion))
    known = np.concatenate([first - 1, first, last])
    times = result.ticks[0].T.ravel() / TICKS_PER_SECOND
    order = np.lexsort((times, known))
    known, times = known[order], times[order]
    places, start = np.unique(known, return_index=True)
    earliest, latest = times[start], times[np.append(start[1:], len(times)) - 1]
    between = np.interp(rounds, np.repeat(places, 2), np.stack([earliest, latest], -1).ravel())
    at = np.minimum(np.searchsorted(places, rounds), len(places) - 1)
    there = places[at] == rounds
    return np.where(there, earliest[at], between), np.where(there, latest[at], between)


def _means(knots: Floats, held: NDArray[Any], edges: Floats) -> Floats:
    """Means between the edges of what has a constant value between each two knots."""
    total = np.concatenate([[0.0], np.cumsum(held * np.diff(knots))])
    return np.diff(np.interp(edges, knots, total)) / np.maximum(np.diff(edges), 1e-300)
