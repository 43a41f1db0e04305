"""From the best point to a rule: numbers a reader can remember, in a file with their provenance."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jaxsched import toml
from jaxsched.policies.family import FAMILY_FIELDS, FamilyParams, quantize
from jaxsched.policies.files import Origin, RuleFile, RuleNumbers, Score, Weights
from jaxsched.policies.fixed_point import fixed_point
from jaxsched.policies.network import SHAPES, UNIT, WIDEST, NetworkParams
from jaxsched.studies import store
from jaxsched.tuning.config import TuneConfig
from jaxsched.tuning.problem import Problem
from jaxsched.tuning.space import lanes_of

SERVING = ("arrivals", "loads", "rates", "clock", "objective", "slo")
"""Fields of a configuration that stand in the origin as they are."""

TOLERANCE = 0.001
"""Mean score on the validation instances that a rule may lose by being made readable."""

HEADER = """\
# {kind}, found by `jaxsched tune`; {where} says what the numbers mean.
# Use it as --policies tuned:FILE, or jaxsched.load_policy(FILE).

"""


def readable(problem: Problem, rule: FamilyParams) -> FamilyParams:
    """The rule with as many numbers as in A_min, and the rest as round, as the tolerance allows.

    One number after another takes the first value that does not lose too much: A_min's own, 0, and
    the present value with one, two and three digits.
    """

    def score(rules: Sequence[FamilyParams]) -> NDArray[np.float64]:
        return problem.scores(problem.validation, lanes_of(rules)).mean(axis=1)

    limit = score([rule])[0] + TOLERANCE
    for name in FAMILY_FIELDS:
        value = float(getattr(rule, name))
        rules = [dataclasses.replace(rule, **{name: v}) for v in _simpler(name, value)]
        if rules:
            rule = rules[int(np.argmax(score(rules) <= limit))]
    return rule


def _simpler(name: str, value: float) -> list[float]:
    """Values to try, the simplest first and the present one last."""
    literal = getattr(FamilyParams(), name)
    if value == literal:
        return []
    rounded = [float(f"{value:.{digits}g}") for digits in (1, 2, 3)]
    return list(dict.fromkeys([literal, 0.0, *rounded, value]))


def numbers(params: FamilyParams) -> RuleNumbers:
    """The numbers as short as they can be written without changing the rule."""
    fixed = np.asarray(quantize(params))
    values = {name: float(getattr(params, name)) for name in FAMILY_FIELDS}
    for i, name in enumerate(FAMILY_FIELDS):
        for digits in range(8):
            # `+ 0.0` turns -0.0 into 0.0.
            short = round(values[name], digits) + 0.0
            trial = dataclasses.replace(params, **{name: short})
            if np.asarray(quantize(trial))[i] == fixed[i]:
                values[name] = short
                break
    return RuleNumbers(**values)


def weights(params: NetworkParams) -> Weights:
    """The weights in units of 1/1024, of which four decimals are enough."""

    def short(name: str) -> tuple[float, ...]:
        limits = -WIDEST, WIDEST
        units = fixed_point(name, getattr(params, name), SHAPES[name], limits, UNIT, np)
        return tuple(np.round(units.ravel() / UNIT, 4).tolist())

    return Weights(**{name: short(name) for name in SHAPES})


def origin(config: TuneConfig, method: str, work: int) -> Origin:
    """What the file says about how the rule came about."""
    versions = {**store.versions(), "optax": importlib.metadata.version("optax")}
    return Origin(
        lengths=lengths_text(config),
        predictions=config.predictions,
        num_requests=config.num_requests,
        memory=config.memory,
        method=method,
        simulated_requests=work,
        seed=config.seed,
        versions=tuple(f"{name} {version}" for name, version in versions.items()),
        worker=config.worker or "paper",
        **{name: getattr(config, name) for name in SERVING},
    )


def lengths_text(config: TuneConfig) -> str:
    """Where the requests come from, in words."""
    if config.trace is not None:
        return f"{Path(config.trace.path).name}, SHA-256 {config.trace.sha256}"
    limits = {"outputs": config.lengths.max_output, "prompt + output": config.lengths.max_total}
    given = [f", {name} up to {limit}" for name, limit in limits.items() if limit is not None]
    return config.lengths.source + "".join(given)


def write_rule(
    path: Path, params: FamilyParams | NetworkParams, origin: Origin, scores: tuple[Score, ...]
) -> None:
    """Writes the file of a rule, whole or not at all."""
    if isinstance(params, NetworkParams):
        file = RuleFile(network=weights(params), origin=origin, scores=scores)
        header = HEADER.format(kind="A network around A_min", where="jaxsched/policies/network.py")
    else:
        file = RuleFile(numbers(params), origin=origin, scores=scores)
        header = HEADER.format(kind="A rule of the A_min family", where="docs/tuning.md")
    store.write_text(path, header + toml.to_toml(file))
