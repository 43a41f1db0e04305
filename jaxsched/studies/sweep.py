"""Sweeps: every combination of the values of all axes, cut into chunks of rows.

The keys of a configuration are the axes of `jaxsched.studies.axes`, and a few of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxsched.studies import store, toml
from jaxsched.studies.axes import AXES, Axis, Values
from jaxsched.studies.config import digest
from jaxsched.studies.frames import sweep_columns
from jaxsched.studies.parts import Parts
from jaxsched.studies.plan import Plan, Study
from jaxsched.studies.sampling import RandomConfig, draw
from jaxsched.studies.toml import at_least
from jaxsched.workloads.intervals import OPEN_ENDED
from jaxsched.workloads.joint import Lengths, TableLengths
from jaxsched.workloads.texts import Prediction

WRITTEN_FIRST = ("num_requests", "memory", "policies", "predictions", "workloads", "arrivals",
                 "clocks", "max_batch", "seeds")  # fmt: skip
"""The order of keys in stored configurations, which later versions have to keep; then the rest."""


def _key(axis: Axis) -> tuple[str, Any, Any]:
    """The field of a configuration that has the values of an axis."""
    least = {} if axis.least is None else {"metadata": {"minimum": axis.least}}
    kind = tuple[int, ...] if axis.whole else tuple[str, ...]
    return axis.name, kind, dataclasses.field(default=(), **least)


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

    Attributes:
      lanes: Random instances for each seed, workload and number of requests; the same ones for
        every policy, prediction, memory, arrival rate and clock, so that comparisons are paired.
      num_requests, memory, …: Values of each of `AXES`; they are read as it says.
      max_rounds: Rounds after which a simulation is cut off; None for the engine's own limit.
      random: Random values on some of the axes.
    """

    max_rounds: int | None = at_least(1, default=None)
    random: tuple[RandomConfig, ...] = ()

    def __post_init__(self) -> None:
        self.values()

    def values(self) -> Values:
        """Its axes, read and checked.

        Raises:
          ValueError: If a value is refused; the text names the axis and the value.
        """
        values = Values.of(**{name: _values(self, axis) for name, axis in AXES.items()})
        _check_fit(values)
        _check_predictions(values)
        return values

    def study(self) -> Study:
        """What it asks for."""
        values = self.values().yardstick_first()
        return Study(
            values,
            self.lanes,
            functools.partial(sweep_columns, few=any(values.read["clocks"])),
            arguments={} if self.max_rounds is None else {"max_rounds": self.max_rounds},
        )

    def text(self) -> str:
        """The configuration as it is kept with results: complete, with the digests of its files."""
        random = {table.axis for table in self.random}
        left_out = {
            name: axis.default
            for name, axis in AXES.items()
            if axis.default and not getattr(self, name) and name not in random
        }
        files = [name for name in self.values().files() if Path(name).is_file()]
        digests = "".join(f"# {name}: sha256 {digest(name)}\n" for name in files)
        return toml.to_toml(dataclasses.replace(self, **left_out)) + digests


def plan_of(config: SweepConfig) -> Plan:
    """All simulations of a sweep."""
    return Plan(config.study())


def open_parts(config: SweepConfig, plan: Plan, folder: Path) -> Parts:
    """Opens the folder of a sweep; see `store.open_store` for what is refused."""
    return Parts(store.open_store(folder, config.text()), plan)


def _values(config: SweepConfig, axis: Axis) -> tuple[Any, ...]:
    """All values of an axis: those listed, then the random ones."""
    listed = getattr(config, axis.name)
    tables = [table for table in config.random if table.axis == axis.name]
    drawn: list[Any] = [value for table in tables for value in draw(table)]
    if axis.least is not None:
        where = f"random values of {axis.name}"
        numbers = [toml.with_key(where, lambda text: round(float(text)), text) for text in drawn]
        drawn = [x for x in dict.fromkeys(numbers) if x not in listed]
        if drawn and min(drawn) < axis.least:
            raise ValueError(f"{where}: {min(drawn)}; expected at least {axis.least}")
    return (*listed, *dict.fromkeys(drawn))


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
    for prediction, law in itertools.product(values.read["predictions"], values.read["workloads"]):
        if prediction.source is not None:
            for memory in values.read["memory"]:
                _check_prediction(prediction, law, memory)
        elif not isinstance(law, TableLengths) or law.lower is None:
            raise ValueError('predictions: "columns" needs a trace with such columns')


def _check_prediction(prediction: Prediction, law: Lengths, memory: int) -> None:
    assert prediction.source is not None
    try:
        prediction.source(memory)(jax.random.key(0), np.asarray([1, law.max_output]))
    except ValueError as error:
        text = str(error).replace(OPEN_ENDED, "max_output leaves longer ones out")
        raise ValueError(f"predictions: {prediction.text!r}: {text}") from None
