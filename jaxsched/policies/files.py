"""Tuned rules: members of the A_min family, or networks, in TOML files; shipped and your own.

A file is what `jaxsched tune` writes: the numbers or the weights, what they were tuned on, what
they score on instances that the tuning never saw, and the versions. Only the numbers matter to the
rule.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxsched import toml
from jaxsched.policies.family import LATER, NUMBERS, FamilyParams, a_min_family
from jaxsched.policies.interface import Policy
from jaxsched.policies.network import SHAPES, WIDEST, NetworkParams, a_min_network

RULES = Path(__file__).parent / "rules"
"""The shipped rules, a file each."""


_Fields: Any = dataclasses.make_dataclass(
    "_Fields",
    [
        (name, float, toml.later(default=getattr(FamilyParams(), name)))
        if name in LATER
        else (name, float)
        for name in NUMBERS
    ],
    frozen=True,
)


@dataclasses.dataclass(frozen=True)
class RuleNumbers(_Fields):
    """The table [params] of a file: the fields of `FamilyParams`, all but later ones."""

    def __post_init__(self) -> None:
        for name, (low, high, *_) in NUMBERS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name}: got {value!r}; expected {low} to {high}")


@dataclasses.dataclass(frozen=True)
class Weights:
    """The table [network] of a file: the fields of `NetworkParams`, row after row."""

    linear: tuple[float, ...]
    hidden: tuple[float, ...]
    output: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, shape in SHAPES.items():
            values, count = getattr(self, name), int(np.prod(shape))
            if len(values) != count:
                raise ValueError(f"{name}: got {len(values)} numbers; expected {count}")
            for value in values:
                if not -WIDEST <= value <= WIDEST:
                    raise ValueError(f"{name}: got {value!r}; expected {-WIDEST} to {WIDEST}")


@dataclasses.dataclass(frozen=True)
class Origin:
    """The table [origin]: how a rule came about. Texts as in the configuration of the tuning.

    Attributes:
      lengths: Name of the embedded lengths, or file name and SHA-256 of a trace.
      predictions: Interval specifications.
      num_requests: Requests of an instance.
      memory: KV cache in tokens.
      method: What found it, such as "adam on es".
      simulated_requests: The work that it took: requests of all simulations of candidates.
      seed: Of everything random.
      versions: Of what the numbers can depend on, as "name version".
      worker: Whose rules held.
      arrivals: When requests arrived.
      loads: At which rates, over what `fcfs` sustains.
      rates: Or in requests per second (round).
      clock: How long a round lasted; None counts rounds.
      objective: What was made small.
      slo: The service level of attainment.
    """

    lengths: str
    predictions: tuple[str, ...]
    num_requests: int
    memory: int
    method: str
    simulated_requests: int
    seed: int
    versions: tuple[str, ...]
    worker: str = toml.later(default="paper")
    arrivals: str = toml.later(default="backlog")
    loads: tuple[float, ...] = toml.later(default=())
    rates: tuple[float, ...] = toml.later(default=())
    clock: str | None = None
    objective: str = toml.later(default="mean")
    slo: str | None = None


@dataclasses.dataclass(frozen=True)
class Score:
    """A table of [[scores]]: mean ratio on instances not used in tuning.

    Attributes:
      prediction: Interval specification.
      against: Name of the policy in the denominator, on the same instances.
      ratio: Mean over the instances of the ratio.
      half_width: Of its 95 % confidence interval.
      instances: How many.
      measure: What the ratio is of: "mean" latency, its "p99", or "attainment", 1 + the requests
        that miss the service level.
      load: Load, or rate of arrivals; 0 for a backlog and for the arrivals of a trace.
    """

    prediction: str
    against: str
    ratio: float
    half_width: float
    instances: int
    measure: str = toml.later(default="mean")
    load: float = toml.later(default=0.0)


@dataclasses.dataclass(frozen=True)
class RuleFile:
    """A tuned rule as it stands in its file; a rule written by hand needs only [params].

    Attributes:
      params: Of a member of the family.
      network: Of a network instead.
      origin: How it came about.
      scores: How good it is.
    """

    params: RuleNumbers | None = None
    network: Weights | None = None
    origin: Origin | None = None
    scores: tuple[Score, ...] = ()

    def __post_init__(self) -> None:
        if (self.params is None) == (self.network is None):
            raise ValueError("params, network: expected one of the tables [params] and [network]")

    @property
    def policy(self) -> Policy:
        """The rule as a policy."""
        if self.params is not None:
            return a_min_family(FamilyParams(**dataclasses.asdict(self.params)))
        shaped = {
            name: np.reshape(getattr(self.network, name), shape) for name, shape in SHAPES.items()
        }
        return a_min_network(NetworkParams(**shaped))


def names() -> list[str]:
    """Names of the shipped rules, as in "tuned:NAME"."""
    return sorted(path.stem for path in RULES.glob("*.toml"))


def load_policy(source: str | os.PathLike[str]) -> Policy:
    """A tuned rule from its file; also by name, as `policy("tuned:…")` does it.

    >>> import jaxsched as js
    >>> js.load_policy("sharegpt_one").name
    'tuned:sharegpt_one'

    Args:
      source: A path that ends in .toml, or the name of a shipped rule.

    Returns:
      A policy named after the file: "tuned:" and its name without .toml.

    Raises:
      ValueError: If the file is not a rule, or there is no shipped rule of that name.
      OSError: If the file cannot be read.
    """
    path = rule_path(source)
    return dataclasses.replace(read_rule(path).policy, name=f"tuned:{path.stem}")


def rule_path(source: str | os.PathLike[str]) -> Path:
    """The file of a rule, by its path or by the name of a shipped one; errors as `load_policy`."""
    path = Path(source)
    if path.suffix != ".toml":
        if str(source) not in names():
            near = difflib.get_close_matches(str(source), names(), n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(
                f"no shipped rule is called {str(source)!r}{hint}; expected a path that ends in "
                f".toml, or one of {', '.join(names())}"
            )
        path = RULES / f"{source}.toml"
    return path


def digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def read_rule(path: str | os.PathLike[str]) -> RuleFile:
    """All that stands in the file of a rule.

    Raises:
      ValueError: If it is not a rule; the text names the key.
      OSError: If it cannot be read.
    """
    return toml.load(path, RuleFile)
