"""From a range of rows of a sweep to that part of the table: draws, simulates, measures.

There is no loop over instances: a call takes thousands of them as numpy columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from jaxsched import clocks
from jaxsched.engines.xla import NO_CAP
from jaxsched.result import Status
from jaxsched.simulate import engine_for, simulate
from jaxsched.sweep import measure
from jaxsched.sweep.budget import Budget, is_out_of_memory
from jaxsched.sweep.config import NO_CLOCK
from jaxsched.sweep.instances import Drawn, gather, pad, without_padding
from jaxsched.sweep.plan import Call, Plan

Columns = dict[str, Any]
"""Columns of a table: arrays of one length."""


AXIS_COLUMNS = {
    "workloads": "workload", "arrivals": "arrivals", "clocks": "clock", "predictions": "prediction",
    "policies": "policy",
}  # fmt: skip
"""Axes of texts, and the columns that they have in the table."""

FIRST = (
    "seed", "lane", "workload", "n", "memory", "arrivals", "rate", "clock", "max_batch",
    "prediction", "prediction_kind", "prediction_parameter", "policy",
)  # fmt: skip
"""The columns that say which simulation a row is about."""


class Simulator:
    """Simulates rows of a sweep; keeps the tile drawn last.

    Attributes:
      plan: The sweep.
      budget: How many are simulated at a time; fewer whenever memory has run out.
    """

    def __init__(self, plan: Plan, engine: str = "auto", largest: int | None = None) -> None:
        self.plan = plan
        self.engine = engine
        most = plan.largest_call if largest is None else min(largest, plan.largest_call)
        self._budgets = {pads: Budget(pads, most) for pads in (False, True)}
        self._reads = [policy.reads_predictions for policy in plan.axes.policies]
        self._drawn: Drawn | None = None

    def budget(self, policy: int) -> Budget:
        """Sizes of the batches of a policy; only the JAX engine needs batches of few shapes."""
        pads = engine_for(self.engine, self.plan.axes.policies[policy]) == "jax"
        return self._budgets[pads]

    @property
    def different(self) -> int:
        """Simulations of the sweep that are really run: rows alike to others are copied."""
        predictions = self.plan.sizes["predictions"]
        runs = sum(predictions if reads else 1 for reads in self._reads)
        return self.plan.total // (len(self._reads) * predictions) * runs

    def table(
        self, start: int, stop: int, on_rows: Callable[[int], Any] = lambda rows: None
    ) -> pd.DataFrame:
        """The rows start … stop - 1 of the sweep; `on_rows` is told how many have been added."""
        parts: list[Columns] = []
        for call in self.plan.calls(start, stop):
            parts.append(self.call(call))
            on_rows(call.stop - call.start)
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return named(self.plan, joined)

    def call(self, call: Call) -> Columns:
        """The columns of a call; those of texts are indices into the values of their axes."""
        if self._drawn is None or self._drawn.tile != call.tile:
            self._drawn = Drawn(self.plan, call.tile)
        rows, shape = np.arange(call.start, call.stop), (*self.plan.inner, call.tile.count)
        memory, arrival, prediction, instance = np.unravel_index(rows, shape)
        # A policy that takes no notice of predictions is simulated under the first of them.
        places, back = np.stack([memory, arrival, prediction, instance]), slice(None)
        if not self._reads[call.policy]:
            places[2] = 0
            keys, back = np.unique(np.ravel_multi_index(places, shape), return_inverse=True)
            places = np.stack(np.unravel_index(keys, shape))
        found = self._simulated(call, places)
        fixed = {
            "workloads": call.tile.workload, "policies": call.policy, "clocks": call.clock,
            "max_batch": self.plan.axes.values["max_batch"][call.cap],
        }  # fmt: skip
        return {
            "seed": self._drawn.seed[instance],
            "lane": self._drawn.lane[instance],
            "arrivals": arrival,
            "predictions": prediction,
            **{name: np.full(len(rows), value) for name, value in fixed.items()},
            **{name: values[back] for name, values in found.items()},
        }

    def _simulated(self, call: Call, places: np.ndarray) -> Columns:
        """Measured columns at `places`: memory, arrivals, prediction, instance; of shape [4, R]."""
        backlog = np.isinf([arrival.rate for arrival in self.plan.axes.arrivals])[places[1]]
        order = np.argsort(~backlog, kind="stable")
        # A backlog is a program of its own, so batches do not mix it with arrivals.
        parts = np.split(order, [np.count_nonzero(backlog)])
        pieces = [piece for part in parts for piece in self._batches(call, places[:, part])]
        back = np.argsort(order)
        return {name: np.concatenate([p[name] for p in pieces])[back] for name in pieces[0]}

    def _batches(self, call: Call, places: np.ndarray) -> Iterator[Columns]:
        """The same, batch by batch; where memory runs out, again with smaller ones."""
        budget, done = self.budget(call.policy), 0
        while done < places.shape[1]:
            chosen = places[:, done : done + budget.rows(call.tile.n)]
            try:
                piece = self._batch(call, chosen, budget)
            except Exception as error:
                if not is_out_of_memory(error) or not budget.shrink(call.tile.n):
                    raise
                continue
            yield piece
            done += chosen.shape[1]

    def _batch(self, call: Call, places: np.ndarray, budget: Budget) -> Columns:
        """Simulates the instances at `places` in one go."""
        assert self._drawn is not None
        policy = self.plan.axes.policies[call.policy]
        instance, bound = gather(self._drawn, places, call.clock, policy.needs_point)
        rows, n = places.shape[1], call.tile.n
        asked = pad(instance, budget.rows(n), budget.width(n)) if budget.pads else instance
        limit, clock = self.plan.config.max_rounds, self.plan.axes.values["clocks"][call.clock]
        result = simulate(
            asked, policy, max_batch=self._max_batch(call.cap, budget),
            clock=None if clock == NO_CLOCK else clocks.clock(clock),
            engine=self.engine, **({} if limit is None else {"max_rounds": limit}),
        )  # fmt: skip
        result = without_padding(result, rows, n) if budget.pads else result
        return measure.columns(instance, result, bound, clock, self.plan.has_clock)

    def _max_batch(self, cap: int, budget: Budget) -> int | None:
        """The cap of a call; a cap that never binds, where another program would be needed."""
        caps = self.plan.axes.values["max_batch"]
        return caps[cap] or (NO_CAP if budget.pads and any(caps) else None)


def named(plan: Plan, columns: Columns) -> pd.DataFrame:
    """The table of columns whose texts are indices into the values of their axes."""
    values, codes = plan.axes.values, {name: columns.pop(name) for name in AXIS_COLUMNS}
    for name, title in AXIS_COLUMNS.items():
        columns[title] = pd.Categorical.from_codes(codes[name], list(values[name]))
    kinds = [interval.kind for interval in plan.axes.intervals]
    parameters = [interval.parameter for interval in plan.axes.intervals]
    columns["prediction_kind"] = pd.Categorical(kinds).take(codes["predictions"])
    columns["prediction_parameter"] = np.asarray(parameters, np.float64)[codes["predictions"]]
    columns["rate"] = np.asarray([a.rate for a in plan.axes.arrivals])[codes["arrivals"]]
    statuses = [status.name for status in Status]
    columns["status"] = pd.Categorical.from_codes(columns["status"], statuses)
    measured = [name for name in columns if name not in FIRST]
    return pd.DataFrame({name: columns[name] for name in (*FIRST, *measured)}, copy=False)
