"""What a figure of a sweep shows: which axes vary, and what the others are held at.

What is said of an axis stands with it, in `jaxsched.studies.axes`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from jaxsched.studies.axes import AXES, INSTANCES, NO_CLOCK, Axis

MOST_LINES = 8
"""Policies drawn as lines; of more, the best."""


@dataclasses.dataclass(frozen=True)
class Slice:
    """The rows of a figure."""

    rows: pd.DataFrame  # with a column `width` for predictions (1 ± x)o
    held: str  # what every row has in common, in words
    instances: int  # at each point


class SweepView:
    """A table of a sweep, for figures.

    `frame` has columns `width` and `wasted` added; `axes` has its axes but the seeds by column, in
    the table's order, and `values` the different values of each, in order of appearance.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        relative = (frame["prediction_kind"] == "relative").to_numpy()
        made = frame["wasted_tokens"] + frame["output_tokens"]
        self.frame = frame.assign(
            width=np.where(relative, frame["prediction_parameter"], np.nan),
            wasted=frame["wasted_tokens"] / made,
        )
        known = {axis.column: axis for axis in AXES.values() if axis.level != INSTANCES}
        self.axes = {name: known[name] for name in frame.columns if name in known}
        self.values = {name: list(frame[name].unique()) for name in self.axes}

    def numbers(self, column: str) -> list[float]:
        """The numbers of an axis, ascending; of arrivals only the finite rates."""
        found = np.unique(self.frame[self.axes[column].number].to_numpy(np.float64))
        return [float(x) for x in found if math.isfinite(x)]

    def varying(self) -> list[Axis]:
        """The axes that have several numbers, that of predictions first."""
        found = [one for one in self.axes.values() if one.number]
        found = [one for one in found if len(self.numbers(one.column)) > 1]
        return sorted(found, key=lambda one: one.column != "prediction")

    def typical(self, column: str) -> Any:
        """What an axis is held at where a figure does not show it."""
        return self.axes[column].typical(self.values[column])

    def slice(self, free: Iterable[str], **fixed: Any) -> Slice:
        """The rows with every axis held but those in the columns `free`, and the policy."""
        free = {*free, "policy"}
        held = {name: self.typical(name) for name in self.axes if name not in free} | fixed
        mask = np.ones(len(self.frame), bool)
        for name, value in held.items():
            mask &= (self.frame[name] == value).to_numpy()
        rows = self.frame[mask]
        words = [
            self.axes[name].said(value)
            for name, value in held.items()
            if value != self.axes[name].silent
        ]
        points = max(1, len(rows.drop_duplicates(list(self.axes))))
        return Slice(rows, ", ".join(words), round(len(rows) / points))

    def some(self, column: str, most: int = 4) -> list[Any]:
        """At most so many values of an axis, evenly chosen from first to last."""
        values = self.axes[column].chosen(self.values[column])
        places = np.unique(np.linspace(0, len(values) - 1, min(most, len(values))).round())
        return [values[int(i)] for i in places]

    def best(self, rows: pd.DataFrame, by: str, most: int = MOST_LINES) -> list[Any]:
        """At most so many policies, those with the smallest mean, in their order in the table."""
        means = rows.groupby("policy", observed=True)[by].mean().nsmallest(most)
        return [policy for policy in self.values["policy"] if policy in means.index]

    def left_out(self, table: pd.DataFrame) -> str:
        """A sentence about policies that a figure leaves out."""
        shown, there = table["policy"].nunique(), len(self.values["policy"])
        return "" if shown == there else f" The best {shown} of {there} policies are drawn."

    def time(self, clock: str | None = None) -> str:
        """The unit of latency under a clock, by default the one that figures hold."""
        clock = self.typical("clock") if clock is None else clock
        return "rounds" if clock == NO_CLOCK else "seconds"

    def label(self, axis: Axis) -> str:
        """What a figure calls the numbers of an axis."""
        return axis.label.format(time=self.time().removesuffix("s"))
