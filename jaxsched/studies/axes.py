"""The axes of a study: an entry in `AXES` each, and nothing elsewhere.

An axis is a key of a configuration with several values, a column of the tables, and what a value
does: it says what is drawn, gives fields of the instances, or arguments of `simulate`.

The rows of a study are ordered by its axes in the order of `AXES`, with `instance` at the end:

    workloads, num_requests | seeds | policies, max_batch, clocks, workers | memory, arrivals,
    predictions

BLOCK axes say which instances are drawn, seeds (with lanes) which of them; values of CALL axes are
simulated in separate calls, values of ROW axes can share one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxsched import clocks, policies, workers
from jaxsched.instance import MAX_MEMORY
from jaxsched.studies.config import LARGEST_SEED, policy_file
from jaxsched.toml import several, with_key
from jaxsched.workloads import texts

if TYPE_CHECKING:
    from jaxsched.studies.draw import Drawn

BLOCK, INSTANCES, CALL, ROW = "block", "instances", "call", "row"
"""Levels of axes, from the outermost."""

NO_CLOCK = "rounds"

YARDSTICK = "h_sf"
"""The policy that ratios are taken to: what arXiv 2508.14544 compares with."""

Cell = Mapping[str, Any]
"""Of every axis by name the value at some row, as `Axis.read` returns it."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis. A value, as a configuration has it, is a text where `least` is None."""

    name: str  # its key in configurations
    column: str  # its column in tables
    level: str  # BLOCK, INSTANCES, CALL or ROW
    # A value -> what it stands for; ValueError if it is refused.
    read: Callable[[Any], Any] = lambda value: value
    default: tuple[Any, ...] = ()  # where a configuration has none; () if it has to have some
    least: int | None = None  # limits of whole numbers
    most: int | None = None
    own_number: str = ""  # the column of numbers that figures show, of texts that have one
    label: str = ""  # what figures call its numbers; {time} stands for round or second
    short: str = ""  # the same in titles
    # Values, as tables call them -> the one that figures hold it at which do not show it
    typical: Callable[[list[Any]], Any] = lambda values: values[0]
    # Values -> those that panels are chosen from, in their order
    chosen: Callable[[list[Any]], list[Any]] = lambda values: values
    words: Callable[[Any], str] | None = None  # of a value; None: the column's name and the value
    silent: Any = None  # the value that goes without saying
    # (value, what it stands for) -> what tables call it.
    title: Callable[[Any, Any], Any] = lambda value, read: value
    # Further columns: name -> what a value stands for -> a number or a text.
    more: Mapping[str, Callable[[Any], Any]] = dataclasses.field(default_factory=dict)
    file: Callable[[Any], str | None] = lambda value: None  # path of the file that a value names
    # For CALL: what a value stands for -> arguments of `simulate`.
    arguments: Callable[[Any], dict[str, Any]] = lambda read: {}
    # For ROW: (the requests drawn, cell) -> fields of `Instance`, of shape [instances, n] or
    # [instances], or None; and other ROW axes that it reads in the cell.
    fields: Callable[[Drawn, Cell], dict[str, Any]] = lambda drawn, cell: {}
    given: tuple[str, ...] = ()
    # Not told, in tables and stored configurations, where it has its default alone: it came after
    # folders were stored that do not know of it.
    later: bool = False

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return self.least is not None

    @property
    def number(self) -> str:
        """The column of its numbers; empty if it has none."""
        return self.own_number or (self.column if self.whole else "")

    def said(self, value: Any) -> str:
        """A value in words."""
        if self.words is not None:
            return self.words(value)
        text = f"{value:,}" if isinstance(value, int | np.integer) else str(value)
        return f"{self.column.replace('_', ' ')} = {text}"


def _clock(text: str) -> str | None:
    if text == NO_CLOCK:
        return None
    try:
        clocks.clock(text)
    except ValueError as error:
        raise ValueError(str(error).replace("one of: ", f"one of: {NO_CLOCK}, ")) from None
    return text


def _nearest_half(values: list[str]) -> str:
    """Of predictions (1 ± x)o that with x nearest to 0.5; without one the first."""
    known = [texts.read_prediction(text) for text in values]
    relative = [one for one in known if one.kind == "relative"]
    return min(relative, key=lambda one: abs((one.parameter or 0) - 0.5), default=known[0]).text


def _round_ones(values: list[str]) -> list[str]:
    """Rounded predictions, where there are some, make better titles than random ones."""

    def order(text: str) -> tuple[str, float]:
        one = texts.read_prediction(text)
        return one.kind, one.parameter or 0.0

    rounded = [text for text in values if len(text) <= len("relative:0.99")]
    return sorted(rounded if len(rounded) > 1 else values, key=order)


AXES: dict[str, Axis] = {
    axis.name: axis
    for axis in (
        Axis(
            "workloads", "workload", BLOCK, texts.read_lengths, ("lmsys",), file=texts.trace_file,
            words=str,
        ),
        Axis(
            "num_requests", "n", BLOCK, least=1, label="requests, n", short="requests",
            typical=max,
        ),
        Axis("seeds", "seed", INSTANCES, default=(0,), least=0, most=LARGEST_SEED),
        Axis(
            "policies", "policy", CALL, policies.policy,
            title=lambda text, policy: policy.name if policy.params is None else text,
            file=policy_file, arguments=lambda policy: {"policy": policy},
        ),
        Axis(
            "max_batch", "max_batch", CALL, default=(0,), least=0, most=2**31 - 1,
            label="most requests that run together", short="cap on running requests", silent=0,
            arguments=lambda cap: {"max_batch": cap or None},
        ),
        Axis(
            "clocks", "clock", CALL, _clock, (NO_CLOCK,), file=clocks.clock_file, silent=NO_CLOCK,
            arguments=lambda name: {"clock": name and clocks.clock(name)},
        ),
        Axis(
            "workers", "worker", CALL, workers.worker_named, ("paper",), later=True,
            title=lambda text, worker: str(worker), arguments=lambda worker: {"worker": worker},
            silent="paper",
        ),
        Axis(
            "memory", "memory", ROW, least=2, most=MAX_MEMORY,
            label="memory, M (tokens)", short="memory", typical=min,
            fields=lambda drawn, cell: {
                "memory": np.full(drawn.tile.count, cell["memory"], np.int32)
            },
        ),
        Axis(
            "arrivals", "arrivals", ROW,
            lambda text: texts.read_arrivals(text, texts.RANDOM_ARRIVALS), ("backlog",),
            own_number="rate", label="arrivals (requests per {time})", short="load", words=str,
            # The heaviest load: a backlog, or else the highest rate
            typical=lambda values: max(values, key=lambda text: texts.read_arrivals(text).number),
            more={"rate": lambda arrivals: arrivals.number},
            fields=lambda drawn, cell: {
                "arrival": drawn.arrival(cell["arrivals"], cell["clocks"] is not None)
            },
        ),
        Axis(
            "predictions", "prediction", ROW, texts.read_prediction,
            own_number="width", label="half width x of (1 ± x)o", short="width of predictions",
            typical=_nearest_half, chosen=_round_ones,
            words=lambda text: texts.read_prediction(text).label,
            more={
                "prediction_kind": lambda prediction: prediction.kind,
                "prediction_parameter": lambda prediction: prediction.parameter,
            },
            fields=lambda drawn, cell: drawn.predicted(cell["predictions"], cell["memory"]),
            given=("memory",),
        ),
    )
}  # fmt: skip
"""Every axis by name, in the order of the rows."""


def of_level(level: str) -> tuple[Axis, ...]:
    """The axes of a level, in their order."""
    return tuple(axis for axis in AXES.values() if axis.level == level)


@dataclasses.dataclass(frozen=True)
class Values:
    """The values of every axis, read and checked."""

    titles: dict[str, tuple[Any, ...]]  # for each name in `AXES` its values, as tables call them
    read: dict[str, tuple[Any, ...]]  # what they stand for

    @classmethod
    def of(
        cls, readers: Mapping[str, Callable[[Any], Any]] | None = None, /, **given: tuple[Any, ...]
    ) -> Values:
        """Reads values; axes that are not given have their default.

        `readers` stand in for `Axis.read` of the axes that they name.

        ValueError if a value is refused; the text names the axis and the value.
        """
        titles, read = {}, {}
        for name, axis in AXES.items():
            values = given.get(name) or axis.default
            several(name, values)
            if axis.most is not None and max(values) > axis.most:
                raise ValueError(f"{name}: got {max(values)}; expected at most {axis.most}")
            read_value = (readers or {}).get(name, axis.read)
            found = tuple(with_key(name, read_value, value) for value in values)
            titles[name] = tuple(map(axis.title, values, found))
            several(name, titles[name])
            read[name] = found
        return cls(titles, read)

    def yardstick_first(self) -> Values:
        """With the policy that ratios are taken to in front, so that its rows come first."""
        names = self.titles["policies"]
        order = sorted(range(len(names)), key=lambda i: names[i] != YARDSTICK)
        moved = [
            {**table, "policies": tuple(table["policies"][i] for i in order)}
            for table in (self.titles, self.read)
        ]
        return Values(*moved)

    def told(self, name: str) -> bool:
        """Whether an axis is to be mentioned."""
        return not AXES[name].later or self.titles[name] != AXES[name].default

    def files(self) -> list[str | None]:
        """The files that values name."""
        return [axis.file(value) for name, axis in AXES.items() for value in self.titles[name]]
