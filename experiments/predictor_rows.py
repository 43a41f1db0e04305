"""Held-out requests of ShareGPT and their predictions, for the experiments with predictors."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

import jaxsched as js
from jaxsched import toml
from jaxsched.predict import data, pipeline
from jaxsched.predict.config import PredictConfig

CONFIG = Path(__file__).parent.parent / "configs" / "predictor_sharegpt.toml"
MEMORY = 16_492
FIRST_SEED = 20
"""Of the splits that figures are of; features and training were chosen on others, of 100 to 107."""
HEAD_KINDS = ("none", "length", "text", "perfect")
"""What a predictor sees of a request."""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """A split of the data, and what was trained on it."""

    seed: int
    predictor: js.predict.Predictor
    parts: pipeline.ExampleParts


def splits(count: int) -> list[Split]:
    """A predictor for each of so many seeds of split and weights."""
    config = toml.load(CONFIG, PredictConfig)
    rows = data.read(config.data, config.columns, config.max_total)
    found = []
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        own = dataclasses.replace(config, seed=seed)
        trained = js.predict.train(own, rows=rows)
        found.append(Split(seed, trained, pipeline.parts_of(own, rows)))
    return found


def lower(split: Split, rows: data.Examples, kind: str, level: float) -> np.ndarray:
    """Lower bounds that the output reaches with a probability of `level`, [R]."""
    if kind == "perfect":
        return rows.output
    if kind == "none":
        bound = np.quantile(split.parts.train.output, 1 - level)
        return np.full(len(rows), max(1, int(bound)), np.int32)
    return split.predictor.lower(rows.texts if kind == "text" else rows.prompt, level)


def upper(split: Split, rows: data.Examples, kind: str, level: float) -> np.ndarray:
    """Upper bounds that hold with a probability of `level`, [R]; of two-sided intervals."""
    if kind == "perfect":
        return rows.output
    if kind == "none":
        bound = np.quantile(split.parts.train.output, level)
        return np.full(len(rows), int(np.ceil(bound)), np.int32)
    seen = rows.texts if kind == "text" else rows.prompt
    return split.predictor.interval(seen, 2 * level - 1)[1]


def draws(count: int, lanes: int, n: int, seed: int) -> np.ndarray:
    """Row numbers of `lanes` backlogs of n different requests, [lanes, n]."""
    rng = np.random.default_rng([seed, count])
    return np.stack([rng.permutation(count)[:n] for _ in range(lanes)])


def instance(
    rows: data.Examples, drawn: np.ndarray, low: np.ndarray, high: np.ndarray | None = None,
    load: float | None = None,
) -> js.Instance:  # fmt: skip
    """Backlogs of some rows, or with `load` a stream that asks for that share of the memory-time.

    An upper bound that cannot fit into the memory is brought to what can.
    """
    prompt, output = rows.prompt[drawn], rows.output[drawn]
    room = MEMORY - prompt
    bound = np.minimum(low[drawn], room)
    arrival = None
    if load is not None:
        volume = np.mean(prompt * output + output * (output + 1) / 2.0)
        rng = np.random.default_rng(drawn[0, 0])
        gaps = rng.exponential(volume / (load * MEMORY), drawn.shape)
        arrival = np.floor(np.cumsum(gaps, axis=1)).astype(np.int32)
    return js.Instance(
        prompt=prompt, output=output, lower=bound,
        upper=np.maximum(bound, np.minimum(room, MEMORY if high is None else high[drawn])),
        memory=np.full(len(drawn), MEMORY, np.int32), arrival=arrival,
    )  # fmt: skip


def figures_of(instance: js.Instance, policy: js.Policy) -> dict[str, float]:
    """Mean and P99 of the latency in rounds, over lanes and requests, and the memory's pressure.

    That is the share of the memory in use until all are served, evictions a request, and the tokens
    thrown away by them for each token of output.
    """
    result = js.simulate(instance, policy, max_rounds=2**22)
    arrival = 0 if instance.arrival is None else np.asarray(instance.arrival)
    latency = np.asarray(result.completion) - arrival
    ended = np.all(np.asarray(result.status) == js.Status.FINISHED)
    output = np.asarray(instance.output)
    pressure = {
        "used": np.mean(result.memory_time / (MEMORY * np.asarray(result.rounds, np.float64))),
        "evictions": np.mean(result.evictions) / latency.shape[-1],
        "wasted": np.sum(result.wasted_tokens) / output.sum(),
    }
    return {
        "mean": float(latency.mean()) if ended else np.nan,
        "p99": float(np.quantile(latency, 0.99, axis=-1).mean()) if ended else np.nan,
        **{key: float(value) if ended else np.nan for key, value in pressure.items()},
    }
