"""What the configurations of several studies have in common."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jaxsched import metrics, policies
from jaxsched.clocks import clock_file
from jaxsched.policies.files import digest, read_rule
from jaxsched.toml import at_least, one_of, several, with_key
from jaxsched.workloads import Lengths
from jaxsched.workloads.texts import EMBEDDED, Prediction, read_lengths, read_prediction

LARGEST_SEED = 2**32 - 1
"""A key would not see the upper bits of a larger one."""


@dataclasses.dataclass(frozen=True)
class LengthsConfig:
    """Where prompt and output lengths come from."""

    source: str = "lmsys"  # an embedded distribution: "lmsys", "lmsys_tokens" or "sharegpt"
    # Longest output in tokens; longer draws are drawn again. None: no limit.
    max_output: int | None = at_least(1, default=None)
    # Most tokens of prompt and output together, likewise: what fits into the memory
    max_total: int | None = at_least(2, default=None)

    def __post_init__(self) -> None:
        one_of("source", self.source, EMBEDDED)

    @property
    def text(self) -> str:
        """The same as the text of a workload, such as "lmsys,max_output:500"."""
        limits = {"max_output": self.max_output, "max_total": self.max_total}
        given = [f"{name}:{limit}" for name, limit in limits.items() if limit is not None]
        return ",".join((self.source, *given))

    @property
    def law(self) -> Lengths:
        """The distribution."""
        return read_lengths(self.text)


def policy_file(text: str) -> str | None:
    """The file that the text of a policy names, as it is written there; None if it names none."""
    found = policies.policy_files(text)
    parts = text.partition(":")[2], text.rpartition(":")[0]
    return next((part for part in parts if Path(part) in found), None)


def digests(files: Iterable[str | None]) -> str:
    """Names and SHA-256 of files, as comments in TOML."""
    names = sorted({name for name in files if name is not None})
    return "".join(f"# {name}: sha256 {digest(name)}\n" for name in names)


def own_digests(names: Iterable[str], clock: str | None = None) -> str:
    """The same of policies in files of Python, and of a clock's file.

    The names of parts tell tuned rules apart.
    """
    own = [policy_file(name) for name in names if not name.startswith("tuned:")]
    return digests([*own, clock_file(clock)])


def different_policies(names: tuple[str, ...], arrivals: bool = False) -> None:
    """Refuses an empty list, an unknown policy, and one policy under two names.

    With arrivals it refuses policies that order a whole backlog as well.
    """
    several("policies", names)
    chosen = [with_key("policies", policies.policy, name) for name in names]
    canonical = [policy.name for policy in chosen]
    for i, name in enumerate(canonical):
        first = canonical.index(name)
        if first < i:
            files = all(names[j].startswith("tuned:") for j in (first, i))
            what = f"both called {canonical[i]!r}" if files else "the same"
            raise ValueError(
                f"policies: {names[first]!r} and {names[i]!r} are {what}; expected different ones"
            )
    for name, policy in zip(names, chosen, strict=True):
        if arrivals and policy.rank is not None:
            raise ValueError(f"policies: {name!r} orders a whole backlog; expected no arrivals")


def prediction(key: str, text: str, memory: int) -> Prediction:
    """Reads a prediction and refuses one that makes no sense with this memory."""
    found = with_key(key, read_prediction, text)
    if found.source is not None:
        with_key(key, found.source, memory)
    return found


def all_predictions(texts: tuple[str, ...], memory: int, trace: bool) -> None:
    """Refuses no predictions, and those that make no sense with the memory or without a trace."""
    several("predictions", texts)
    for text in texts:
        if prediction("predictions", text, memory).source is None and not trace:
            raise ValueError('predictions: "columns" needs a trace; random lengths have none')


def used_elsewhere(
    names: Iterable[str],
    *,
    workers: Iterable[str | None],
    arrivals: Iterable[str],
    clocks: Iterable[str | None],
    predictions: Iterable[str],
    lengths: Iterable[str] = (),
) -> Iterator[str]:
    """A line for each tuned rule that is used for another kind than it was tuned for.

    Kinds are the names of workers, backlog or arrivals in rounds or seconds, the kinds of
    predictions, and the names of embedded lengths; the texts are those of configurations.
    """
    times = list(clocks)
    used = {
        "worker": {_head(text or "paper") for text in workers},
        "requests": {_coming(text, clock) for text in arrivals for clock in times},
        "predictions": {_head(text) for text in predictions},
        "lengths": {_head(text) for text in lengths} & EMBEDDED.keys(),
    }
    for name in filter(lambda name: name.startswith("tuned:"), names):
        (path,) = policies.policy_files(name)
        if (origin := read_rule(path).origin) is None:
            continue
        own = {
            "worker": {_head(origin.worker)},
            "requests": {_coming(origin.arrivals, origin.clock)},
            "predictions": {_head(text) for text in origin.predictions},
            "lengths": {_head(origin.lengths)} & EMBEDDED.keys(),
        }
        other = {kind: found for kind in own if (found := used[kind] - own[kind])}
        if other:
            what = (f"{kind} {_listed(own[kind])}, not {_listed(other[kind])}" for kind in other)
            yield f"{name} was tuned for other use: {'; '.join(what)}"


def _head(text: str) -> str:
    return re.split("[:,]", text)[0]


def _coming(arrivals: str, clock: str | None) -> str:
    if _head(arrivals) == "backlog":
        return "at once"
    return "arriving in rounds" if clock in (None, "rounds") else "arriving in seconds"


def _listed(kinds: Iterable[str]) -> str:
    return ", ".join(sorted(kinds)) or "others"


def service_level(slo: str | None, **limits: float | None) -> dict[str, Any]:
    """The limits that are given, as arguments of `metrics.serving`; `slo` is such as "ttft=2".

    ValueError if one is none, or is given twice.
    """
    for name, limit in limits.items():
        if limit is not None and not limit > 0:
            raise ValueError(f"{name}: got {limit}; expected more than 0 seconds")
    found = {} if slo is None else with_key("slo", metrics.read_slo, slo)
    given = {name: limit for name, limit in limits.items() if limit is not None}
    if twice := found.keys() & given.keys():
        raise ValueError(f"slo: got {slo!r} and {min(twice)}; expected one of both")
    return given | found
