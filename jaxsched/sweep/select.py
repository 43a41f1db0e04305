"""What a figure of a sweep shows: which axes vary, and what the others are held at."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxsched import plots
from jaxsched.workloads.texts import read_arrivals, read_prediction

AXES = ("workload", "n", "memory", "arrivals", "clock", "max_batch", "prediction", "policy")
"""Columns that name a point of a sweep; seeds and lanes are its instances."""

LABELS = {
    "width": "half width x of (1 ± x)o",
    "n": "requests, n",
    "memory": "memory, M (tokens)",
    "rate": "arrivals (requests per {time})",
    "max_batch": "most requests that run together",
}
"""Axes of numbers, as figures call them."""

HELD = {"width": "prediction", "rate": "arrivals"}
"""The columns that hold the values of axes whose numbers have a column of their own."""


NUMBER = re.compile(r"\d+\.\d{4,}")
"""Numbers with more digits than a legend has room for."""

MOST_LINES = 8
"""Policies drawn as lines; of more, the best."""


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure of a report.

    Attributes:
      name: Of its files.
      title: What it shows.
      caption: What was held, and how to read it.
      figure: The figure.
    """

    name: str
    title: str
    caption: str
    figure: Figure


@dataclasses.dataclass(frozen=True)
class Slice:
    """The rows of a figure.

    Attributes:
      rows: Rows of the table, with a column `width` for predictions (1 ± x)o.
      held: What every row has in common, in words.
      instances: Instances at each point.
    """

    rows: pd.DataFrame
    held: str
    instances: int


class Sweep:
    """A table of a sweep, for figures.

    Attributes:
      frame: The table, with columns `width` and `wasted` added.
      values: The different values of each of `AXES`, in order of appearance.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        relative = (frame["prediction_kind"] == "relative").to_numpy()
        made = frame["wasted_tokens"] + frame["output_tokens"]
        self.frame = frame.assign(
            width=np.where(relative, frame["prediction_parameter"], np.nan),
            wasted=frame["wasted_tokens"] / made,
        )
        self.values = {name: list(frame[name].unique()) for name in AXES}

    def numbers(self, axis: str) -> list[float]:
        """The values of one of `LABELS`, ascending; of arrivals only the finite rates."""
        found = np.unique(self.frame[axis].to_numpy(np.float64))
        return [float(x) for x in found[np.isfinite(found)]]

    def typical(self, name: str) -> Any:
        """What an axis is held at where a figure does not show it."""
        values = self.values[name]
        if name == "n":
            return max(values)
        if name == "memory":
            return min(values)
        if name == "arrivals":
            # The heaviest load: a backlog, or else the highest rate.
            return max(values, key=lambda text: read_arrivals(text).number)
        if name == "prediction":
            known = [read_prediction(text) for text in values]
            relative = [one for one in known if one.kind == "relative"]
            nearest = min(relative, key=lambda one: abs(one.parameter - 0.5), default=known[0])
            return nearest.text
        return values[0]

    def slice(self, free: Iterable[str], **fixed: Any) -> Slice:
        """The rows with every axis held but those of `free` (as in `AXES` or `LABELS`)."""
        free = {HELD.get(name, name) for name in free} | {"policy"}
        held = {name: self.typical(name) for name in AXES if name not in free} | fixed
        mask = np.ones(len(self.frame), bool)
        for name, value in held.items():
            mask &= (self.frame[name] == value).to_numpy()
        rows = self.frame[mask]
        words = [said(name, value) for name, value in held.items() if not _default(name, value)]
        points = max(1, len(rows.drop_duplicates(list(AXES))))
        return Slice(rows, ", ".join(words), round(len(rows) / points))

    def some(self, name: str, most: int = 4) -> list[Any]:
        """At most so many values of an axis, evenly chosen from first to last."""
        values = self.values[name]
        if name == "prediction":
            # Rounded ones, where there are some, make better titles than random ones.
            round_ones = [text for text in values if len(text) <= len("relative:0.99")]
            values = sorted(round_ones if len(round_ones) > 1 else values, key=_prediction_order)
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

    def time(self, clock: str) -> str:
        """The unit of latency under a clock."""
        return "rounds" if clock == "rounds" else "seconds"

    def label(self, name: str) -> str:
        """What an axis of numbers is called."""
        return LABELS[name].format(time=self.time(self.typical("clock")).removesuffix("s"))


def legend(figure: Figure, axes: Axes) -> None:
    """One legend above all panels, of as many columns as fit; numbers in names are rounded."""
    handles, labels = axes.get_legend_handles_labels()
    for handle, label in zip(handles, labels, strict=True):
        handle.set_label(NUMBER.sub(lambda found: f"{float(found[0]):.3g}", label))
    # Mathematical labels are narrower than their source.
    longest = max(len(label) for label in labels if "$" not in label) if labels else 0
    fit = figure.get_figwidth() / (0.55 + 0.065 * max(18, min(longest, 75)))
    columns = max(1, min(4, int(fit)))
    # Two rows have room; more of them should not take it from the panels.
    more = max(0, math.ceil(len(labels) / columns) - 2)
    figure.set_figheight(figure.get_figheight() + 0.17 * more)
    plots.legend_above(figure, axes, columns)


def said(name: str, value: Any) -> str:
    """A value of an axis in words."""
    if name == "prediction":
        return read_prediction(value).label
    if name in ("workload", "arrivals"):
        return str(value)
    text = f"{value:,}" if isinstance(value, int | np.integer) else str(value)
    return f"{name.replace('_', ' ')} = {text}"


def _default(name: str, value: Any) -> bool:
    """Values that go without saying."""
    return (name, value) in (("clock", "rounds"), ("max_batch", 0))


def _prediction_order(text: str) -> tuple[str, float]:
    one = read_prediction(text)
    return one.kind, one.parameter or 0.0
