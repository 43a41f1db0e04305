"""Configuration files: TOML, checked key by key, into frozen dataclasses and back.

Every job has one dataclass whose fields are the keys of its file. A misspelt key, a wrong type or
a value out of range is an error that names the file, the key, the value and what was expected;
nothing is ignored.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from jaxsched import policies, specs

T = TypeVar("T")

NAMES = {int: "an integer", float: "a number", str: "a text in quotes", bool: "true or false"}
"""Types of values, as errors call them."""


def at_least(minimum: float, **kwargs: Any) -> Any:
    """A dataclass field whose value (or each of whose values) must be at least `minimum`."""
    return dataclasses.field(metadata={"minimum": minimum}, **kwargs)


def one_of(name: str, value: str, known: Iterable[str]) -> None:
    """Refuses a value that is not one of `known`."""
    if value not in known:
        raise ValueError(f"{name}: {specs.unknown(repr(value), value, known, 'value')}")


def several(name: str, values: tuple[Any, ...]) -> None:
    """Refuses an empty list and one with the same value twice."""
    if not values:
        raise ValueError(f"{name}: got an empty list; expected at least one value")
    for i, value in enumerate(values):
        if value in values[:i]:
            raise ValueError(f"{name}: {value!r} is there twice; expected different values")


def with_key(key: str, function: Any, value: Any) -> Any:
    """Calls `function(value)`, naming the key in its errors."""
    try:
        return function(value)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def no_whole_orders(names: tuple[str, ...]) -> None:
    """Refuses policies that order a whole backlog, where requests arrive."""
    for name in names:
        if policies.policy(name).rank is not None:
            raise ValueError(f"policies: {name!r} orders a whole backlog; expected no arrivals")


def different_policies(names: tuple[str, ...]) -> None:
    """Refuses an empty list, an unknown policy, and one policy under two names."""
    several("policies", names)
    canonical = [with_key("policies", policies.policy, name).name for name in names]
    for i, name in enumerate(canonical):
        first = canonical.index(name)
        if first < i:
            files = all(names[j].startswith("tuned:") for j in (first, i))
            what = f"both called {canonical[i]!r}" if files else "the same"
            raise ValueError(
                f"policies: {names[first]!r} and {names[i]!r} are {what}; expected different ones"
            )


def prediction(key: str, text: str, memory: int) -> specs.Interval:
    """Reads a prediction and refuses one that makes no sense with this memory."""
    interval = with_key(key, specs.interval, text)
    if interval.source is not None:
        with_key(key, interval.source, memory)
    return interval


@dataclasses.dataclass(frozen=True)
class LengthsConfig:
    """Where prompt and output lengths come from.

    Attributes:
      source: An embedded distribution: "lmsys", "lmsys_tokens" or "sharegpt".
      max_output: Longest output in tokens; longer draws are drawn again. None: no limit.
      max_total: Most tokens of prompt and output together, likewise: what fits into the memory.
    """

    source: str = "lmsys"
    max_output: int | None = at_least(1, default=None)
    max_total: int | None = at_least(2, default=None)

    def __post_init__(self) -> None:
        one_of("source", self.source, specs.LENGTHS)


@dataclasses.dataclass(frozen=True)
class JobConfig:
    """The main job: every policy under every prediction, for several numbers of requests.

    Attributes:
      lanes: Random instances for each number of requests; the same ones for every policy and
        prediction, so that comparisons are paired.
      memory: KV cache of the worker, M, in tokens.
      num_requests: Numbers of requests n, each a backlog.
      policies: Names that `jaxsched.policy` understands.
      predictions: Interval specifications, such as "relative:0.5" (see `jaxsched.specs`).
      lengths: Where prompt and output lengths come from.
      seed: Of everything random.
    """

    lanes: int = at_least(2)
    memory: int = at_least(2)
    num_requests: tuple[int, ...] = at_least(1)
    policies: tuple[str, ...]
    predictions: tuple[str, ...]
    lengths: LengthsConfig = LengthsConfig()
    seed: int = at_least(0, default=0)

    def __post_init__(self) -> None:
        several("num_requests", self.num_requests)
        different_policies(self.policies)
        several("predictions", self.predictions)
        for text in self.predictions:
            if prediction("predictions", text, self.memory).source is None:
                raise ValueError('predictions: "columns" needs a trace; random lengths have none')


def load(
    path: str | os.PathLike[str], cls: type[T], overrides: Mapping[str, Any] | None = None
) -> T:
    """Reads the TOML file at `path` into `cls`; `overrides` replace values of its keys.

    A key of a table is overridden as "table.key".

    Raises:
      ValueError: If it is no TOML, a key is unknown or missing, or a value is refused.
      OSError: If it cannot be read.
    """
    try:
        table = _read(path)
        for key, value in (overrides or {}).items():
            *inside, name = key.split(".")
            inner = table.setdefault(inside[0], {}) if inside else table
            inner[name] = value
        return from_table(cls, table)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def job_of(path: str | os.PathLike[str], jobs: Iterable[str]) -> str:
    """The key `job` of the TOML file at `path`, one of `jobs`; the first of them if it has none.

    Raises:
      ValueError: If it is no TOML, or the job is unknown.
      OSError: If it cannot be read.
    """
    jobs = list(jobs)
    try:
        job = _read(path).get("job", jobs[0])
        one_of("job", job, jobs)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return job


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    with open(path, "rb") as file:
        try:
            return tomllib.load(file)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"not valid TOML: {error}") from None


def from_table(cls: type[T], table: Mapping[str, Any], prefix: str = "") -> T:
    """Makes the dataclass `cls` from a table; `prefix` stands before the names in errors."""
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            raise ValueError(specs.unknown(f"{prefix}{key}", key, fields, "key"))
    values = {
        name: _value(f"{prefix}{name}", hints[name], table[name], field.metadata.get("minimum"))
        for name, field in fields.items()
        if name in table
    }
    missing = [
        f"missing {prefix}{name}: expected {_expected(hints[name], field.metadata.get('minimum'))}"
        for name, field in fields.items()
        if name not in table and _required(field)
    ]
    if missing:
        raise ValueError("; ".join(missing))
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{prefix}{error}") from None


def to_toml(config: Any) -> str:
    """The dataclass as TOML text that `from_table` reads back to an equal one; None is left out."""
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    tables = {name: value for name, value in values.items() if dataclasses.is_dataclass(value)}
    arrays = {name: value for name, value in values.items() if _is_array_of_tables(value)}
    lines = [
        f"{name} = {_toml(value)}"
        for name, value in values.items()
        if value is not None and name not in tables and name not in arrays
    ]
    for name, value in tables.items():
        lines += ["", f"[{name}]", to_toml(value).rstrip("\n")]
    for name, several_tables in arrays.items():
        for value in several_tables:
            lines += ["", f"[[{name}]]", to_toml(value).rstrip("\n")]
    return "\n".join(lines) + "\n"


def _is_array_of_tables(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and dataclasses.is_dataclass(value[0])


def _required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _value(key: str, hint: Any, value: Any, minimum: float | None) -> Any:
    """Checks `value` against a type hint; lists become tuples and tables dataclasses."""
    if isinstance(hint, types.UnionType):
        (hint,) = (option for option in typing.get_args(hint) if option is not types.NoneType)
    if dataclasses.is_dataclass(hint):
        _expect(key, value, isinstance(value, Mapping), f"a table [{key}]")
        return from_table(hint, value, f"{key}.")  # type: ignore[arg-type]
    if typing.get_origin(hint) is tuple:
        _expect(key, value, isinstance(value, list | tuple), "a list")
        inner = typing.get_args(hint)[0]
        return tuple(_value(f"{key}[{i}]", inner, v, minimum) for i, v in enumerate(value))
    allowed = (int, float) if hint is float else hint
    # bool is a subclass of int in Python, but not to someone who writes `lanes = true`.
    right = isinstance(value, allowed) and (hint is bool or not isinstance(value, bool))
    _expect(key, value, right, NAMES[hint])
    if minimum is not None:
        _expect(key, value, value >= minimum, f"at least {minimum}")
        _expect(key, value, value < math.inf, "a finite number")
    return value


def _expected(hint: Any, minimum: float | None) -> str:
    """What a value of a required field has to be, in words."""
    if typing.get_origin(hint) is tuple:
        return f"a list, each item {_expected(typing.get_args(hint)[0], minimum)}"
    return NAMES[hint] + ("" if minimum is None else f" of at least {minimum}")


def _expect(key: str, value: Any, right: bool, expected: str) -> None:
    if not right:
        raise ValueError(f"{key}: got {value!r}; expected {expected}")


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    # JSON's texts, numbers and booleans are TOML's too, as long as texts stay on one line.
    return json.dumps(value, ensure_ascii=False)
