"""The configuration of a sweep, and its axes: values read and checked."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxsched import clocks, specs
from jaxsched import config as checks
from jaxsched.instance import MAX_MEMORY
from jaxsched.policies import Policy
from jaxsched.sweep import texts
from jaxsched.sweep.sampling import AXES, RandomConfig, draw
from jaxsched.workloads.intervals import OPEN_ENDED
from jaxsched.workloads.lengths import Lengths, TableLengths

WHOLE = ("num_requests", "seeds", "max_batch", "memory")
"""Axes of whole numbers, to which random values are rounded; equal ones count once."""

NO_CLOCK = "rounds"


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """A sweep: every combination of the values of its axes, on the same random instances.

    Attributes:
      lanes: Random instances for each seed, workload and number of requests; the same ones for
        every policy, prediction, memory, arrival rate and clock, so that comparisons are paired.
      num_requests: Numbers of requests n.
      memory: KV cache of the worker, M, in tokens.
      policies: Names that `jaxsched.policy` understands.
      predictions: Interval specifications, such as "relative:0.5" (see `jaxsched.specs`).
      workloads: Laws of the lengths (see `jaxsched.sweep.texts`).
      arrivals: "backlog", or "poisson:RATE" per round, per second under a clock.
      clocks: "rounds", or names of clocks in `jaxsched.clocks`.
      max_batch: Most requests that run together; 0 for no cap.
      seeds: Of the instances.
      max_rounds: Rounds after which a simulation is cut off; None for the engine's own limit.
      random: Random values on some of the axes.
    """

    lanes: int = checks.at_least(1)
    num_requests: tuple[int, ...] = checks.at_least(1, default=())
    memory: tuple[int, ...] = checks.at_least(2, default=())
    policies: tuple[str, ...] = ()
    predictions: tuple[str, ...] = ()
    workloads: tuple[str, ...] = ()
    arrivals: tuple[str, ...] = ()
    clocks: tuple[str, ...] = ()
    max_batch: tuple[int, ...] = checks.at_least(0, default=())
    seeds: tuple[int, ...] = checks.at_least(0, default=())
    max_rounds: int | None = checks.at_least(1, default=None)
    random: tuple[RandomConfig, ...] = ()

    def __post_init__(self) -> None:
        Axes.of(self)


DEFAULTS: dict[str, tuple[Any, ...]] = {
    "workloads": ("lmsys",),
    "arrivals": ("backlog",),
    "clocks": (NO_CLOCK,),
    "max_batch": (0,),
    "seeds": (0,),
}
"""Values of the axes that may be left out."""


@dataclasses.dataclass(frozen=True)
class Axes:
    """Every axis of a sweep with all its values, read and checked.

    Attributes:
      values: For each name in `AXES` its values; policies as tables call them.
      laws: Of the workloads.
      policies: Of the policies.
      arrivals: Of the arrivals.
      intervals: Of the predictions.
    """

    values: dict[str, tuple[Any, ...]]
    laws: tuple[Lengths, ...]
    policies: tuple[Policy, ...]
    arrivals: tuple[texts.Arrivals, ...]
    intervals: tuple[specs.Interval, ...]

    @classmethod
    def of(cls, config: SweepConfig) -> Axes:
        """Reads the axes of a configuration.

        Raises:
          ValueError: If a value is refused; the text names the axis and the value.
        """
        values = {name: _values(config, name) for name in AXES}
        named = _each(values, "policies", texts.policy)
        values["policies"] = tuple(name for name, _ in named)
        checks.several("policies", values["policies"])
        axes = cls(
            values=values,
            laws=_each(values, "workloads", texts.workload),
            policies=tuple(policy for _, policy in named),
            arrivals=_each(values, "arrivals", texts.arrival),
            intervals=_each(values, "predictions", specs.interval),
        )
        if max(values["seeds"]) >= 2**32:
            raise ValueError(f"seeds: {max(values['seeds'])}; expected less than 2^32")
        _check_clocks(values["clocks"])
        _check_sizes(values)
        _check_fit(axes)
        _check_predictions(axes)
        return axes


def inputs(axes: Axes) -> str:
    """Names and SHA-256 of the files that the values of the axes name, as comments in TOML."""
    named = [texts.trace_file(text) for text in axes.values["workloads"]]
    named += [name.partition(":")[2] for name in axes.values["policies"]]
    files = sorted({name for name in named if name and Path(name).is_file()})
    digests = (hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in files)
    lines = zip(files, digests, strict=True)
    return "".join(f"# {name}: sha256 {digest}\n" for name, digest in lines)


def _values(config: SweepConfig, name: str) -> tuple[Any, ...]:
    """All values of an axis: those listed, then the random ones."""
    listed = getattr(config, name)
    drawn: list[Any] = [x for table in config.random if table.axis == name for x in draw(table)]
    if name in WHOLE:
        numbers = [checks.with_key(f"random values of {name}", _rounded, text) for text in drawn]
        drawn = [x for x in dict.fromkeys(numbers) if x not in listed]
        least = next(f for f in dataclasses.fields(config) if f.name == name).metadata["minimum"]
        if drawn and min(drawn) < least:
            raise ValueError(f"random values of {name}: {min(drawn)}; expected at least {least}")
    values = (*listed, *dict.fromkeys(drawn))
    if not values and name in DEFAULTS:
        return DEFAULTS[name]
    checks.several(name, values)
    return values


def _rounded(text: str) -> int:
    return round(float(text))


def _each(values: dict[str, tuple[Any, ...]], name: str, read: Any) -> tuple[Any, ...]:
    return tuple(checks.with_key(name, read, value) for value in values[name])


def _check_clocks(names: tuple[str, ...]) -> None:
    for name in names:
        checks.one_of("clocks", name, (NO_CLOCK, *clocks.PRESETS))


def _check_sizes(values: dict[str, tuple[Any, ...]]) -> None:
    for name, most in (("memory", MAX_MEMORY), ("max_batch", 2**31 - 1)):
        if max(values[name]) > most:
            raise ValueError(f"{name}: got {max(values[name])}; expected at most {most}")


def _check_fit(axes: Axes) -> None:
    """Refuses laws whose longest request could not fit into the smallest memory."""
    memory = min(axes.values["memory"])
    for text, law in zip(axes.values["workloads"], axes.laws, strict=True):
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


def _check_predictions(axes: Axes) -> None:
    """Refuses a prediction that does not cover every output of every workload."""
    for interval, law in itertools.product(axes.intervals, axes.laws):
        if interval.source is not None:
            for memory in axes.values["memory"]:
                _check_prediction(interval, law, memory)
        elif not isinstance(law, TableLengths) or law.lower is None:
            raise ValueError('predictions: "columns" needs a trace with such columns')


def _check_prediction(interval: specs.Interval, law: Lengths, memory: int) -> None:
    assert interval.source is not None
    try:
        interval.source(memory)(jax.random.key(0), np.asarray([1, law.max_output]))
    except ValueError as error:
        text = str(error).replace(OPEN_ENDED, "max_output leaves longer ones out")
        raise ValueError(f"predictions: {interval.text!r}: {text}") from None
