"""What a study will take: time, memory and compilations, from a few small runs of its own kinds."""

from __future__ import annotations

import dataclasses
import itertools
import time

import numpy as np

from jaxsched.studies.plan import Call, Plan, RowRange, Tile
from jaxsched.studies.rows import MOST_CHUNK, Simulator

TRIAL_SECONDS = 5.0
"""Time after which no further kind of simulation is tried out."""

TRIAL_REQUESTS = 2**16
"""Requests in a trial run, about."""

ROW_BYTES = 600
"""Memory of a row of a chunk while it is put together and written."""

BASE_BYTES = 450 * 2**20
"""Memory of a process that has done nothing yet but load its libraries."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a sweep is expected to take."""

    seconds: float  # time for the missing rows of one process; compilations are in it
    memory: int  # peak on the host, in bytes
    per_request: np.ndarray  # seconds per simulated request for each (policy, n), of shape [P, N]
    tried: int  # how many of these were tried out; the others follow from them
    programs: tuple[str, ...]  # what has to be compiled, in words; empty for the native engine
    compiling: float  # seconds of it


def estimate_costs(
    simulator: Simulator, missing: list[RowRange], chunk: int | None = None
) -> Estimate:
    """Tries out the kinds of simulation of a sweep, the largest first, for some seconds.

    At least one on each engine: what compiles costs something else.
    """
    plan = simulator.plan
    pads = np.asarray([simulator.budget(p).pads for p in range(plan.sizes["policies"])])
    sizes = plan.sizes["policies"], plan.sizes["num_requests"]
    costs, compiling = np.full(sizes, np.nan), []
    started = time.perf_counter()
    for which in np.argsort(plan.values.read["num_requests"])[::-1]:
        for policy in range(sizes[0]):
            spent = time.perf_counter() - started
            total = _total(plan, _filled(costs, pads), missing)
            known = not np.isnan(costs[pads == pads[policy]]).all()
            # Trying out should not take longer than what it is about.
            if known and spent > min(TRIAL_SECONDS, max(1.0, total)):
                continue
            n = plan.values.read["num_requests"][which]
            first, costs[policy, which] = _try(simulator, policy, n)
            if pads[policy]:
                compiling.append(max(0.0, first - costs[policy, which]))
    tried = int(np.count_nonzero(~np.isnan(costs)))
    costs, needed = _filled(costs, pads), programs(simulator)
    # The kinds that were tried are compiled by now.
    left = max(0, len(needed) - len(compiling)) * float(np.mean(compiling)) if needed else 0.0
    seconds = left + _total(plan, costs, missing)
    budgets = [simulator.budget(p) for p in range(sizes[0])]
    batch = max(budget.bytes(n) for budget in budgets for n in plan.values.read["num_requests"])
    memory = BASE_BYTES + batch + min(plan.total, chunk or MOST_CHUNK) * ROW_BYTES
    return Estimate(seconds, memory, costs, tried, needed, left)


def programs(simulator: Simulator) -> tuple[str, ...]:
    """What the JAX engine compiles for a sweep: one program for each kind and shape of batch."""
    plan, found = simulator.plan, {}
    kinds = set(plan.backlogs.tolist()), set(map(bool, plan.values.read["clocks"]))
    for p, policy in enumerate(plan.values.read["policies"]):
        budget = simulator.budget(p)
        # Numbers of policies and clocks are traced; their kinds are not.
        for n, *kind in itertools.product(plan.values.read["num_requests"], *kinds):
            if budget.pads:
                shape = f"{policy.name}, {budget.rows(n)} × {budget.width(n)} requests"
                found[(shape, *kind)] = shape
    return tuple(found.values())


def _try(simulator: Simulator, policy: int, n: int) -> tuple[float, float]:
    """A small run, twice: seconds of the first, compilation included, and per request of the next.

    The arrivals that are tried are the first of their axis; the clock is one if there is any.
    """
    plan, budget = simulator.plan, simulator.budget(policy)
    rows = budget.rows(n) if budget.pads else max(1, TRIAL_REQUESTS // n)
    each = int(np.prod(plan.inner))
    count = min(plan.instances, max(1, -(-rows // each)))
    clock = int(np.argmax([bool(name) for name in plan.values.read["clocks"]]))
    at = dict.fromkeys(plan.outer, 0) | {"policies": policy, "clocks": clock}
    call = Call(Tile(0, n, 0, count, 0), at, 0, min(rows, count * each))
    spent = []
    for _ in range(2):
        started = time.perf_counter()
        simulator.call(call)
        spent.append(time.perf_counter() - started)
    return spent[0], spent[1] / ((call.stop - call.start) * n)


def _filled(costs: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Costs [P, N] with NaN filled, from a policy's others or its group's mean (group: [P])."""
    filled = costs.copy()
    for policy, own in enumerate(costs):
        alike = own if not np.isnan(own).all() else costs[group == group[policy]]
        values = alike[~np.isnan(alike)]
        filled[policy, np.isnan(own)] = values.mean() if values.size else 0.0
    return filled


def _total(plan: Plan, costs: np.ndarray, ranges: list[RowRange]) -> float:
    """Time of ranges of rows."""
    total, sizes = 0.0, plan.values.read["num_requests"]
    for tile, low, high in (piece for ends in ranges for piece in plan.tiles(*ends)):
        each = tile.count * plan.points // plan.sizes["policies"]
        # Where each policy's rows begin.
        edges = np.clip(tile.start + each * np.arange(plan.sizes["policies"] + 1), low, high)
        total += float(np.diff(edges) @ costs[:, sizes.index(tile.n)]) * tile.n
    return total
