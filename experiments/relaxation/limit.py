"""The relaxed latency against the exact one as the temperature falls."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import jaxsched as js
from experiments.relaxation.cases import WORKLOADS
from jaxsched import workloads
from jaxsched.engines import soft as relaxation
from jaxsched.policies.files import RULES, read_rule

RULE_FILE = read_rule(RULES / "sharegpt_classes.toml").params

RULES_COMPARED = {
    "A_min, on eviction": js.FamilyParams(),
    "A_min, every round": js.FamilyParams(run_growth=1.0),
    "tuned:sharegpt_classes": js.FamilyParams(**vars(RULE_FILE)),
}

EVERY_ROUND = (3.0, 1.0, 0.3, 0.1, 0.03, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
COARSE = (3.0, 1.0, 0.3, 0.1, 0.03, 1e-2, 1e-3)
SIZES = (128, 512)
STEPS = 48


def table(advance: Callable[[], None]) -> pd.DataFrame:
    """Mean error of the relaxed mean latency of an instance, by rule, steps and temperature."""
    rows = []
    for name, rule in RULES_COMPARED.items():
        rows += [{"rule": name, "steps": "every round a step"} | row for row in _every_round(rule)]
        for n in SIZES:
            kind = {"rule": name, "steps": f"{STEPS} steps, n = {n}"}
            rows += [kind | row for row in _coarse(rule, n)]
            advance()
    return pd.DataFrame(rows)


ADVANCES = len(RULES_COMPARED) * len(SIZES)


def _every_round(rule: js.FamilyParams) -> list[dict[str, float]]:
    """32 backlogs of 40 short requests, in float64."""
    instance = workloads.make(
        jax.random.key(6),
        lengths=workloads.lengths.independent((1, 60), (1, 120)),
        intervals=workloads.intervals.relative(0.5),
        n=40,
        memory=np.full(32, 1000),
        lanes=32,
    )
    result = js.simulate(instance, js.a_min_family(rule))
    rounds = int(np.max(result.rounds) * 1.3)
    timeline = relaxation.uniform_timeline(np.full(32, rounds), rounds, margin=1.0)
    with jax.enable_x64(True):
        return _errors(instance, rule, result, timeline, EVERY_ROUND)


def _coarse(rule: js.FamilyParams, n: int) -> list[dict[str, float]]:
    """8 backlogs of ShareGPT lengths and classes."""
    instance = WORKLOADS[0].draw(8, seed=7, n=n)
    result = js.simulate(instance, js.a_min_family(rule))
    return _errors(instance, rule, result, relaxation.event_timeline(result, STEPS), COARSE)


def _errors(
    instance: js.Instance,
    rule: js.FamilyParams,
    result: js.Result,
    timeline: relaxation.Timeline,
    temperatures: tuple[float, ...],
) -> list[dict[str, float]]:
    exact, rows = np.asarray(result.mean_latency, float), []
    for t in temperatures:
        soft = _latency(rule, jnp.asarray(t, jnp.result_type(float)), instance, timeline)
        ratio = np.asarray(soft, float) / exact
        rows.append({"temperature": t, "ratio": ratio.mean(), "error": np.abs(ratio - 1).mean()})
    return rows


@jax.jit
def _latency(
    rule: js.FamilyParams,
    temperature: jax.Array,
    instance: js.Instance,
    timeline: relaxation.Timeline,
) -> jax.Array:
    return relaxation.soft_simulate(instance, rule, temperature, timeline).mean_latency
