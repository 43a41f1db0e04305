"""What a figure of a sweep shows: which axes vary, and what the others are held at.

Names of axes are those of `jaxsched.studies.axes`; an axis needs no entry here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from jaxsched.studies.axes import AXES, INSTANCES, Axis
from jaxsched.workloads.texts import read_arrivals, read_prediction

_Values = list[Any]

MOST_LINES = 8
"""Policies drawn as lines; of more, the best."""


@dataclasses.dataclass(frozen=True)
class AxisLook:
    """How an axis is shown."""

    column: str  # in the table of a sweep
    number: str = ""  # the column of its numbers; empty if it has none
    label: str = ""  # what a figure calls its numbers; {time} stands for round or second
    short: str = ""  # what titles call them
    # What it is held at where a figure does not show it.
    typical: Callable[[_Values], Any] = lambda values: values[0]
    # Those that panels are chosen from, in their order.
    chosen: Callable[[_Values], _Values] = lambda values: values
    words: Callable[[Any], str] | None = None  # of a value; None: the column's name and the value
    silent: Any = None  # the value that goes without saying

    def said(self, value: Any) -> str:
        """A value in words."""
        if self.words is not None:
            return self.words(value)
        text = f"{value:,}" if isinstance(value, int | np.integer) else str(value)
        return f"{self.column.replace('_', ' ')} = {text}"


def _nearest_half(values: _Values) -> str:
    """Of predictions (1 ± x)o that with x nearest to 0.5; without one the first."""
    known = [read_prediction(text) for text in values]
    relative = [one for one in known if one.kind == "relative"]
    return min(relative, key=lambda one: abs((one.parameter or 0) - 0.5), default=known[0]).text


def _round_ones(values: _Values) -> _Values:
    """Rounded predictions, where there are some, make better titles than random ones."""

    def order(text: str) -> tuple[str, float]:
        one = read_prediction(text)
        return one.kind, one.parameter or 0.0

    rounded = [text for text in values if len(text) <= len("relative:0.99")]
    return sorted(rounded if len(rounded) > 1 else values, key=order)


def _heaviest(values: _Values) -> str:
    """The heaviest load: a backlog, or else the highest rate."""
    return max(values, key=lambda text: read_arrivals(text).number)


AXIS_LOOKS = {
    look.column: look
    for look in (
        AxisLook("workload", words=str),
        AxisLook("n", typical=max),
        AxisLook("memory", typical=min),
        AxisLook("arrivals", typical=_heaviest, words=str),
        AxisLook("clock", silent="rounds"),
        AxisLook("max_batch", silent=0),
        AxisLook("worker", silent="paper"),
        AxisLook(
            "prediction", typical=_nearest_half, chosen=_round_ones,
            words=lambda text: read_prediction(text).label,
        ),
    )
}  # fmt: skip
"""Axes that are shown in a way of their own, by column."""


def axes_of(frame: pd.DataFrame) -> dict[str, AxisLook]:
    """The axes of the table of a sweep but its seeds, by column, in the table's order."""
    known = {axis.column: axis for axis in AXES.values() if axis.level != INSTANCES}
    return {name: _look(known[name]) for name in frame.columns if name in known}


def _look(axis: Axis) -> AxisLook:
    column = axis.column
    look = AXIS_LOOKS.get(column, AxisLook(column))
    number = axis.number or (column if axis.whole else "")
    return dataclasses.replace(look, number=number, label=axis.label, short=axis.short)


@dataclasses.dataclass(frozen=True)
class Slice:
    """The rows of a figure."""

    rows: pd.DataFrame  # with a column `width` for predictions (1 ± x)o
    held: str  # what every row has in common, in words
    instances: int  # at each point


class SweepView:
    """A table of a sweep, for figures.

    `frame` has columns `width` and `wasted` added; `axes` says by column how each is shown, and
    `values` has the different values of each, in order of appearance.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        relative = (frame["prediction_kind"] == "relative").to_numpy()
        made = frame["wasted_tokens"] + frame["output_tokens"]
        self.frame = frame.assign(
            width=np.where(relative, frame["prediction_parameter"], np.nan),
            wasted=frame["wasted_tokens"] / made,
        )
        self.axes = axes_of(frame)
        self.values = {name: list(frame[name].unique()) for name in self.axes}

    def numbers(self, column: str) -> list[float]:
        """The numbers of an axis, ascending; of arrivals only the finite rates."""
        found = np.unique(self.frame[self.axes[column].number].to_numpy(np.float64))
        return [float(x) for x in found if math.isfinite(x)]

    def varying(self) -> list[AxisLook]:
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
        return "rounds" if clock == "rounds" else "seconds"

    def label(self, axis: AxisLook) -> str:
        """What a figure calls the numbers of an axis."""
        return axis.label.format(time=self.time().removesuffix("s"))
