"""Independent optima: every schedule by hand, and the time-indexed integer program by HiGHS."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import optimize, sparse

Shape = tuple[int, int, int]
"""Prompt, output, arrival."""


def brute_force(requests: Sequence[Shape], memory: int) -> int:
    """The least total latency, by trying every start of every request."""
    horizon = max(a for _, _, a in requests) + sum(o for _, o, _ in requests)
    free = [memory] * (horizon + 1)
    best = horizon * len(requests)

    def go(i: int, latency: int) -> None:
        nonlocal best
        if latency + sum(o for _, o, _ in requests[i:]) >= best:
            return
        if i == len(requests):
            best = latency
            return
        s, o, a = requests[i]
        for p in range(a, horizon - o + 1):
            if all(free[p + k] >= s + k + 1 for k in range(o)):
                for k in range(o):
                    free[p + k] -= s + k + 1
                go(i + 1, latency + p + o - a)
                for k in range(o):
                    free[p + k] += s + k + 1

    go(0, 0)
    return best


def highs(requests: Sequence[Shape], memory: int, horizon: int) -> int:
    """The same by the integer program of arXiv 2502.07115, all done before round `horizon`."""
    starts = [(i, p) for i, (_, o, a) in enumerate(requests) for p in range(a, horizon - o + 1)]
    use = sparse.lil_array((horizon, len(starts)))
    once = sparse.lil_array((len(requests), len(starts)))
    cost = np.zeros(len(starts))
    for column, (i, p) in enumerate(starts):
        s, o, a = requests[i]
        once[i, column] = 1
        cost[column] = p + o - a
        for k in range(o):
            use[p + k, column] = s + k + 1
    found = optimize.milp(
        cost,
        integrality=np.ones(len(starts)),
        bounds=optimize.Bounds(0, 1),
        constraints=[
            optimize.LinearConstraint(use.tocsr(), -np.inf, memory),
            optimize.LinearConstraint(once.tocsr(), 1, 1),
        ],
        options={"mip_rel_gap": 0},
    )
    assert found.status == 0, found.message
    return round(found.fun)
