"""Sweeps: every combination of the values of all axes, cut into chunks of rows.

The keys of a configuration are the axes of `jaxsched.studies.axes`, and a few of its own. Some
values may be random: texts with places to fill in, such as "relative:{uniform:0:0.99}":

    {uniform:LOW:HIGH}        equally likely in LOW … HIGH
    {log_uniform:LOW:HIGH}    its logarithm is

Several places in one text are drawn together, so a table with `count = 100` adds 100 random vectors
of numbers rather than a grid of them.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import os
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from jaxsched.studies import store
from jaxsched.studies.axes import AXES, Axis, Values
from jaxsched.studies.config import LARGEST_SEED, digests, service_level
from jaxsched.studies.frames import sweep_columns
from jaxsched.studies.plan import Plan, Study
from jaxsched.studies.run import ALL_AGAIN, Parts
from jaxsched.studies.trace import TraceConfig, read_requests
from jaxsched.toml import at_least, from_table, one_of, to_toml, with_key
from jaxsched.workloads import Trace, draws
from jaxsched.workloads.intervals import OPEN_ENDED
from jaxsched.workloads.lengths import Lengths, TableLengths
from jaxsched.workloads.texts import read_lengths, trace_file

PLACE = re.compile(r"\{([^{}]*)\}")
LAWS = ("uniform", "log_uniform")


@dataclasses.dataclass(frozen=True)
class RandomConfig:
    """Random values on an axis."""

    axis: str  # name of the axis, such as "predictions"
    value: str  # pattern of the values, such as "relative:{uniform:0:0.99}"
    count: int = at_least(1)  # how many
    seed: int = at_least(0, LARGEST_SEED, default=0)  # of these values

    def __post_init__(self) -> None:
        one_of("axis", self.axis, AXES)
        if not PLACE.search(self.value):
            raise ValueError(
                f"value: got {self.value!r}; expected a place such as {{uniform:0:1}} in it"
            )
        with_key("value", drawn, self)


def drawn(random: RandomConfig) -> list[str]:
    """The random values of a table, as texts; numbers have six significant digits.

    ValueError if a place in the pattern is none of the known laws.
    """
    places = [_law(text) for text in PLACE.findall(random.value)]
    shape = (len(places), random.count)
    levels = draws.uniforms(jax.random.key(random.seed), shape)
    # From levels to numbers column by column, each with the law of its place.
    columns = [law(column) for law, column in zip(places, levels, strict=True)]
    pattern = PLACE.sub("{}", random.value)
    return [pattern.format(*(f"{x:.6g}" for x in row)) for row in zip(*columns, strict=True)]


def _law(text: str) -> Callable[[np.ndarray], np.ndarray]:
    """The function from uniform numbers in (0, 1) to those of a place, such as "uniform:0:1"."""
    name, *ends = text.split(":")
    usage = "expected {uniform:LOW:HIGH} or {log_uniform:LOW:HIGH}"
    try:
        low, high = map(float, ends)
    except ValueError:
        raise ValueError(f"got {{{text}}}; {usage}") from None
    if name not in LAWS or not -math.inf < low < high < math.inf:
        raise ValueError(f"got {{{text}}}; {usage} with LOW less than HIGH")
    if name == "uniform":
        return lambda u: low + (high - low) * u
    if low <= 0:
        raise ValueError(f"got {{{text}}}; expected LOW of more than 0 for log_uniform")
    return lambda u: np.exp(math.log(low) + (math.log(high) - math.log(low)) * u)


WRITTEN_FIRST = ("num_requests", "memory", "policies", "predictions", "workloads", "arrivals",
                 "clocks", "max_batch", "seeds")  # fmt: skip
"""The order of keys in stored configurations, which later versions have to keep; then the rest."""


def _key(axis: Axis) -> tuple[str, Any, Any]:
    """The field of a configuration that has the values of an axis."""
    if axis.least is None:
        return axis.name, tuple[str, ...], dataclasses.field(default=())
    return axis.name, tuple[int, ...], at_least(axis.least, default=())


_Keys: Any = dataclasses.make_dataclass(
    "_Keys",
    [
        ("lanes", int, at_least(1)),
        *(_key(AXES[name]) for name in dict.fromkeys((*WRITTEN_FIRST, *AXES))),
    ],
    frozen=True,
)


@dataclasses.dataclass(frozen=True)
class SweepConfig(_Keys):
    """Every combination of the values of its axes, on the same random instances.

    Random instances, `lanes` of them for each seed, workload and number of requests, are the same
    ones for all other values, so that comparisons are paired. The other keys are those of `AXES`.
    """

    # Rounds after which a simulation is cut off; None for the engine's own limit.
    max_rounds: int | None = at_least(1, default=None)
    random: tuple[RandomConfig, ...] = ()  # random values on some of the axes
    # How the files of workloads "trace:FILE" are read, and which of their requests are taken
    trace: TraceConfig | None = None
    # A service level under clocks, as a text (see `jaxsched.metrics.read_slo`)
    slo: str | None = None

    def __post_init__(self) -> None:
        if self.trace is not None and self.trace.changed() & {"path", "warm_up", "sha256"}:
            raise ValueError("trace: files are workloads here (trace:FILE), drawn at random; "
                             "expected no path, warm_up and sha256")  # fmt: skip
        values = self.values()
        if service_level(self.slo) and not any(values.read["clocks"]):
            raise ValueError(f"slo: {self.slo!r} is in seconds; expected clocks")

    def requests(self, path: str) -> Trace:
        """The requests of a file that are taken; too large ones are those of the least memory."""
        section = dataclasses.replace(self.trace or TraceConfig(), path=path)
        interval = next(iter(self.predictions), None)
        return read_requests(section, min(self.memory, default=2), interval=interval)

    def files(self) -> list[str]:
        """The traces that it draws from."""
        texts = map(trace_file, _values(self, AXES["workloads"]))
        return [path for path in texts if path is not None]

    def values(self) -> Values:
        """Its axes, read and checked.

        ValueError if a value is refused; the text names the axis and the value.
        """
        readers = {"workloads": lambda text: read_lengths(text, self.requests)}
        values = Values.of(readers, **{name: _values(self, axis) for name, axis in AXES.items()})
        _check_fit(values)
        _check_predictions(values)
        return values

    def study(self) -> Study:
        """What it asks for."""
        values = self.values().yardstick_first()
        return Study(
            values,
            self.lanes,
            functools.partial(
                sweep_columns, few=any(values.read["clocks"]), limits=service_level(self.slo)
            ),
            arguments={} if self.max_rounds is None else {"max_rounds": self.max_rounds},
        )

    def text(self) -> str:
        """The configuration as it is kept with results: complete, with the digests of its files."""
        random = {table.axis for table in self.random}
        left_out: dict[str, Any] = {
            name: None if axis.later else axis.default
            for name, axis in AXES.items()
            if axis.default and not getattr(self, name) and name not in random
        }
        return to_toml(dataclasses.replace(self, **left_out)) + digests(self.values().files())


if taken := AXES.keys() & SweepConfig.__annotations__.keys():
    raise ValueError(f"axes {sorted(taken)}: keys of sweeps have these names; expected others")


def _values(config: SweepConfig, axis: Axis) -> tuple[Any, ...]:
    """All values of an axis: those listed, then the random ones."""
    listed = getattr(config, axis.name) or ()
    tables = [table for table in config.random if table.axis == axis.name]
    found: list[Any] = [value for table in tables for value in drawn(table)]
    if axis.least is not None:
        where = f"random values of {axis.name}"
        numbers = [with_key(where, lambda text: round(float(text)), text) for text in found]
        found = [x for x in dict.fromkeys(numbers) if x not in listed]
        if found and min(found) < axis.least:
            raise ValueError(f"{where}: {min(found)}; expected at least {axis.least}")
    return (*listed, *dict.fromkeys(found))


def _check_fit(values: Values) -> None:
    """Refuses laws whose longest request could not fit into the smallest memory."""
    memory = min(values.read["memory"])
    for text, law in zip(values.titles["workloads"], values.read["workloads"], strict=True):
        if _longest(law) > memory:
            raise ValueError(
                f"workloads: {text!r} has requests of up to {_longest(law)} tokens; expected at "
                f"most memory = {memory}, as {f'{text},max_total:{memory}'!r} has"
            )


def _longest(law: Lengths) -> int:
    """The most tokens that prompt and output of one request can have."""
    if isinstance(law, TableLengths) and isinstance(law.prompt, np.ndarray):
        return int((law.prompt + law.output).max())
    longest = law.max_prompt + law.max_output
    return longest if law.limits.total is None else min(longest, law.limits.total)


def _check_predictions(values: Values) -> None:
    """Refuses a prediction that does not cover every output of every workload."""
    names = ("predictions", "workloads", "memory")
    for prediction, law, memory in itertools.product(*(values.read[name] for name in names)):
        if prediction.source is None:
            if not isinstance(law, TableLengths) or law.lower is None:
                raise ValueError('predictions: "columns" needs a trace with such columns')
            continue
        try:
            prediction.source(memory)(jax.random.key(0), np.asarray([1, law.max_output]))
        except ValueError as error:
            text = str(error).replace(OPEN_ENDED, "max_output leaves longer ones out")
            raise ValueError(f"predictions: {prediction.text!r}: {text}") from None


# The folder of a sweep, read again.


def kept_parts(folder: str | os.PathLike[str]) -> Parts:
    """The parts of a sweep, to read only."""
    text = store.manifest(folder)["config"]
    if "workloads" not in (table := tomllib.loads(text)):
        raise ValueError(f"{folder} holds no results of `jaxsched sweep`; expected some")
    plan = Plan(from_table(SweepConfig, table).study())
    return Parts(store.Store(Path(folder), {"config": text}), plan)


def read_folder(
    folder: str | os.PathLike[str], columns: Sequence[str] | None, partial: bool
) -> pd.DataFrame:
    """See `jaxsched.read_sweep`."""
    path = Path(folder) / "results.parquet"
    if path.exists():
        return store.read_parquet(path, columns, ALL_AGAIN)[0]
    parts = kept_parts(folder)
    missing = sum(stop - start for start, stop in parts.missing())
    if missing and not (partial and missing < parts.plan.total):
        raise FileNotFoundError(
            f"{folder}: {missing:,} of {parts.plan.total:,} simulations are missing; run `jaxsched "
            "sweep` again, or read what is there with partial=True"
        )
    frame = pd.concat(list(parts.tables()), ignore_index=True)
    store.known_columns(columns, frame.columns)
    return frame if columns is None else frame[list(columns)]
