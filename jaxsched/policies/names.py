"""Policies by name: the registry of those that are shipped, and texts that name others."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable
from pathlib import Path

from jaxsched import toml
from jaxsched.policies import files, own
from jaxsched.policies.family import FAMILY_FIELDS, FamilyParams, a_min_family
from jaxsched.policies.interface import Policy
from jaxsched.policies.live import (
    lcf,
    past_future,
    random_ties,
    random_victim,
    remaining_volume,
    tie,
    trail,
)
from jaxsched.policies.paper import (
    ESTIMATES,
    a_max,
    a_min,
    best,
    fcfs,
    h_sf,
    mc_sf,
    no_evict,
    priority,
    svf,
)
from jaxsched.policies.published import gsa_spec, sorted_f

SHIPPED: dict[str, Callable[[], Policy]] = {
    "h_sf": h_sf,
    "a_max": a_max,
    "a_min": a_min,
    "a_min:on_eviction": functools.partial(a_min, "on_eviction"),
    "a_min:every_round": functools.partial(a_min, "every_round"),
    "mc_sf": mc_sf,
    "fcfs": fcfs,
    "priority": priority,
    "no_evict": no_evict,
    **{f"svf:{by}": functools.partial(svf, by) for by in ESTIMATES},
    **{f"sorted_f:{by}": functools.partial(sorted_f, by) for by in ESTIMATES},
    "gsa_spec": gsa_spec,
    "lcf": lcf,
    "random_victim": random_victim,
    "remaining_volume": remaining_volume,
    **{f"remaining_volume:{by}": functools.partial(remaining_volume, by) for by in ESTIMATES},
    "past_future": past_future,
    "tie": tie,
    "trail": trail,
    "a_min:random_ties": random_ties,
}
"""Name -> the policy. What is added here is known to every command, table, test and page."""

NUMBERED: dict[str, Callable[[float], Policy]] = {
    "fcfs:watermark": fcfs,
    "gsa_spec:patience": gsa_spec,
    "remaining_volume:age": functools.partial(remaining_volume, None),
    "remaining_volume:lower:age": functools.partial(remaining_volume, "lower"),
    "remaining_volume:point:age": functools.partial(remaining_volume, "point"),
    "tie:beta": tie,
    "trail:limit": trail,
}
"""The same with a number after an equals sign."""

PLANNED: dict[str, Callable[[], Policy]] = {"best:hindsight": best}
"""Name -> a schedule made in hindsight, which only `jaxsched.simulate` knows how to run."""

FAMILY = "a_min_family"


def policy(text: str) -> Policy:
    """Reads the text that names a policy; its name is what tables call it.

    Such as "a_min" (its default reading), "svf:lower", "fcfs:watermark=0.01",
    "a_min_family:start=0.2,run_growth=1" (see `jaxsched.FamilyParams`); "tuned:NAME", a tuned rule
    that is shipped, and "tuned:FILE.toml", your own; "FILE.py:NAME", a policy of your own, or a
    function of a `View` that estimates outputs (see docs/policies.md).

    Raises:
      ValueError: If there is no such policy; the text lists the right names.
      OSError: If a file cannot be read.
    """
    if isinstance(text, str):
        plain, equals, number = text.partition("=")
        kind, _, rest = text.partition(":")
        if text in SHIPPED:
            return SHIPPED[text]()
        if text in PLANNED:
            return PLANNED[text]()
        if kind == "tuned":
            return files.load_policy(rest)
        if own.is_own(text):
            return own.load_own(text)
        if equals and plain in NUMBERED:
            return NUMBERED[plain](_number(text, number))
        if kind == FAMILY and (rest or text == FAMILY):
            return _member(text, rest)
    tuned = (f"tuned:{name}" for name in files.names())
    numbered = {f"{plain}=": f"{plain}=NUMBER" for plain in NUMBERED}
    known = [*SHIPPED, *numbered, FAMILY, *tuned]
    head, equals, _ = str(text).lower().replace("-", "_").partition("=")
    near = difflib.get_close_matches(head + equals, known, n=1)
    near = [numbered.get(name, name) for name in near]
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(f"policy {text!r} is unknown{hint}; expected one of {', '.join(usage())}")


def usage() -> list[str]:
    """Every text that names a policy, as help and errors list them."""
    numbered = (f"{plain}=NUMBER" for plain in NUMBERED)
    return [
        *SHIPPED,
        *PLANNED,
        *numbered,
        f"{FAMILY}:FIELD=NUMBER,…",
        "tuned:NAME",
        "tuned:FILE",
        own.USAGE,
    ]


def policy_files(text: str) -> dict[Path, str]:
    """The file that a text names, if it does, and the SHA-256 of what stands in it."""
    if text.startswith("tuned:"):
        path = files.rule_path(text.removeprefix("tuned:"))
    elif own.is_own(text):
        path = own.own_path(text)
    else:
        return {}
    return {path: files.digest(path)}


def _member(text: str, rest: str) -> Policy:
    """A member of the family by its numbers."""
    numbers = {}
    for part in filter(None, rest.split(",")):
        name, _, number = part.partition("=")
        if name not in FAMILY_FIELDS:
            wrong = toml.unknown(repr(name), name, FAMILY_FIELDS, "number of the family")
            raise ValueError(f"policy {text!r}: {wrong}")
        numbers[name] = _number(text, number)
    return a_min_family(FamilyParams(**numbers), name=text)


def _number(text: str, number: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise ValueError(f"policy {text!r}: {number!r} is not a number") from None
