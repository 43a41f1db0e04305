"""Configuration files: TOML, checked key by key, into frozen dataclasses and back.

Every study has one dataclass whose fields are the keys of its file. A misspelt key, a wrong type or
a value out of range is an error that names the file, the key, the value and what was expected;
nothing is ignored.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

PATH = "path"
"""The key of a table that is meant where a text stands in the table's place."""

NAMES = {int: "an integer", float: "a number", str: "a text in quotes", bool: "true or false"}
"""Types of values, as errors call them."""


def at_least(minimum: float, most: float | None = None, **kwargs: Any) -> Any:
    """A dataclass field whose value, or each of whose values, must be `minimum` … `most`."""
    return dataclasses.field(metadata={"minimum": minimum, "most": most}, **kwargs)


def later(minimum: float | None = None, **kwargs: Any) -> Any:
    """A dataclass field that configurations kept earlier do not have; see `to_toml`."""
    return dataclasses.field(metadata={"minimum": minimum, "later": True}, **kwargs)


def one_of(name: str, value: str, known: Iterable[str]) -> None:
    """Refuses a value that is not one of `known`."""
    if value not in known:
        raise ValueError(f"{name}: {unknown(repr(value), value, known, 'value')}")


def several(name: str, values: tuple[Any, ...]) -> None:
    """Refuses an empty list and one with the same value twice."""
    if not values:
        raise ValueError(f"{name}: got an empty list; expected at least one value")
    for i, value in enumerate(values):
        if value in values[:i]:
            raise ValueError(f"{name}: {value!r} is there twice; expected different values")


@contextmanager
def naming(name: Any) -> Iterator[None]:
    """Puts a name before the text of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def with_key(key: str, function: Callable[[Any], Any], value: Any) -> Any:
    """Calls `function(value)`, naming the key in its errors."""
    with naming(key):
        return function(value)


def load(
    path: str | os.PathLike[str], cls: type[T], overrides: Mapping[str, Any] | None = None
) -> T:
    """Reads the TOML file at `path` into `cls`; `overrides` replace values of its keys.

    A key of a table is overridden as "table.key".

    Raises:
      ValueError: If it is no TOML, a key is unknown or missing, or a value is refused.
      OSError: If it cannot be read.
    """
    with naming(path):
        table = _read(path)
        for key, value in (overrides or {}).items():
            *inside, name = key.split(".")
            if inside and isinstance(table.get(inside[0]), str):
                table[inside[0]] = {PATH: table[inside[0]]}
            inner = table.setdefault(inside[0], {}) if inside else table
            inner[name] = value
        return from_table(cls, table)


def job_of(path: str | os.PathLike[str], jobs: Iterable[str]) -> str:
    """The key `job` of the TOML file at `path`, one of `jobs`; the first of them if it has none.

    Raises:
      ValueError: If it is no TOML, or the job is unknown.
      OSError: If it cannot be read.
    """
    jobs = list(jobs)
    with naming(path):
        job = _read(path).get("job", jobs[0])
        one_of("job", job, jobs)
        return job


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    with open(path, "rb") as file, naming("not valid TOML"):
        return tomllib.load(file)


def from_table(cls: type[T], table: Mapping[str, Any], prefix: str = "") -> T:
    """Makes the dataclass `cls` from a table; `prefix` stands before the names in errors."""
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    table = _moved(cls, table)
    for key in table:
        if key not in fields:
            raise ValueError(unknown(f"{prefix}{key}", key, fields, "key"))
    values = {
        name: _value(f"{prefix}{name}", hints[name], table[name], field.metadata)
        for name, field in fields.items()
        if name in table
    }
    missing = [
        f"missing {prefix}{name}: expected {_expected(hints[name], field.metadata.get('minimum'))}"
        for name, field in fields.items()
        if name not in table and field.default is field.default_factory  # both are missing
    ]
    if missing:
        raise ValueError("; ".join(missing))
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{prefix}{error}") from None


def _moved(cls: type, table: Mapping[str, Any]) -> Mapping[str, Any]:
    """The table with keys where they belong that once stood elsewhere.

    `cls.MOVED` says in which table; without that one they are let go.
    """
    old = {key: inside for key, inside in getattr(cls, "MOVED", {}).items() if key in table}
    table = {**table}
    for key, inside in old.items():
        value, there = table.pop(key), table.get(inside)
        if there is not None:
            inner = {PATH: there} if isinstance(there, str) else there
            table[inside] = {key: value, **inner}
    return table


def to_toml(config: Any) -> str:
    """The dataclass (or a mapping) as TOML text that `from_table` reads back to an equal one.

    None is left out, and so are fields with `metadata["later"]` that have their default: keys of
    configurations that are kept stay what they were.
    """
    lines, tables, arrays = [], [], []
    pairs = config if isinstance(config, Mapping) else written(config)
    for name, value in pairs.items():
        if dataclasses.is_dataclass(value):
            tables += ["", f"[{name}]", to_toml(value).rstrip("\n")]
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            arrays += [x for one in value for x in ("", f"[[{name}]]", to_toml(one).rstrip("\n"))]
        elif value is not None:
            lines.append(f"{name} = {_toml(value)}")
    return "\n".join((*lines, *tables, *arrays)) + "\n"


def written(config: Any) -> dict[str, Any]:
    """The fields of a dataclass that are written, with their values."""
    values = {field: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {
        field.name: value
        for field, value in values.items()
        if not (field.metadata.get("later") and value == field.default)
    }


def _value(key: str, hint: Any, value: Any, limits: Mapping[str, Any]) -> Any:
    """Checks `value` against a type hint; lists become tuples and tables dataclasses."""
    if isinstance(hint, types.UnionType):
        (hint,) = (option for option in typing.get_args(hint) if option is not types.NoneType)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        if isinstance(value, str) and PATH in hint.__dataclass_fields__:
            value = {PATH: value}
        _expect(key, value, isinstance(value, Mapping), f"a table [{key}]")
        return from_table(hint, value, f"{key}.")  # type: ignore[arg-type]
    if typing.get_origin(hint) is tuple:
        _expect(key, value, isinstance(value, list | tuple), "a list")
        inner = typing.get_args(hint)[0]
        return tuple(_value(f"{key}[{i}]", inner, v, limits) for i, v in enumerate(value))
    allowed = (int, float) if hint is float else hint
    # bool is a subclass of int in Python, but not to someone who writes `lanes = true`.
    right = isinstance(value, allowed) and (hint is bool or not isinstance(value, bool))
    _expect(key, value, right, NAMES[hint])
    if (minimum := limits.get("minimum")) is not None:
        _expect(key, value, value >= minimum, f"at least {minimum}")
        _expect(key, value, value < math.inf, "a finite number")
    if (most := limits.get("most")) is not None:
        _expect(key, value, value <= most, f"at most {most}")
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


def unknown(shown: str, name: str, known: Iterable[str], what: str) -> str:
    """Text of the error for a name that is not one of `known`, with the nearest of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"unknown {what} {shown}{hint}; expected one of: {', '.join(known)}"
