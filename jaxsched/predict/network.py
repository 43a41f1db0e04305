"""The network: numbers and hashed words to a hidden layer, then quantiles and classes.

The text is the same for training (`jax.numpy`) and for inference (numpy, without a compile).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

QUANTILE_LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Levels of the quantiles that the network gives."""

TOKEN_UNIT = 10.0
"""Roots of tokens in one unit of the network's output."""

Params = Mapping[str, Any]


def init(features: int, buckets: int, width: int, hidden: int, classes: int, seed: int) -> Params:
    """Random weights, float32; `buckets` × `width` for words, or none if `buckets` is 0."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float) -> np.ndarray:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    inputs = features + width * (buckets > 0)
    # Quantiles start near those of outputs of a few hundred tokens.
    steps = np.full(len(QUANTILE_LEVELS), -1.6, np.float32)
    steps[0] = 0.4
    words = {}
    if buckets:
        words = {"words": normal(buckets, width, scale=0.1), "unit": np.ones(width, np.float32)}
    return words | {
        "mean": np.zeros(features, np.float32),
        "scale": np.ones(features, np.float32),
        "hidden": normal(inputs, hidden, scale=inputs**-0.5),
        "bias": np.zeros(hidden, np.float32),
        "quantiles": normal(hidden, len(QUANTILE_LEVELS), scale=0.3 * hidden**-0.5),
        "steps": steps,
        "classes": normal(hidden, classes, scale=0.3 * hidden**-0.5),
        "class_bias": np.zeros(classes, np.float32),
    }


def packed(params: Params) -> Params:
    """The same with a byte for each number of the words' table, in units of its columns."""
    if "words" not in params:
        return params
    unit = np.maximum(np.abs(params["words"]).max(axis=0) / 127, 1e-9).astype(np.float32)
    words = np.round(params["words"] / unit).astype(np.int8)
    return {**params, "words": words, "unit": unit * params["unit"]}


def apply(params: Params, numbers: Any, words: Any, xp: ModuleType) -> tuple[Any, Any]:
    """Quantiles on the root scale [R, 11], which never cross, and logits of classes [R, C].

    Args:
      params: As `init`.
      numbers: Of shape [R, F].
      words: Hashed words [R, W], -1 where there is none.
      xp: numpy or `jax.numpy`.
    """
    x = (numbers - params["mean"][None]) / params["scale"][None]
    x = xp.clip(x, -4, 4)
    if "words" in params:
        there = (words >= 0)[..., None]
        found = params["words"][xp.maximum(words, 0)] * params["unit"][None, None]
        count = xp.maximum(xp.sum(there, axis=1), 1).astype(found.dtype)
        total = xp.sum(xp.where(there, found, xp.float32(0)), axis=1)
        x = xp.concatenate([x, 4 * total / xp.sqrt(count)], axis=1)
    h = xp.tanh(x @ params["hidden"] + params["bias"][None])
    raw = h @ params["quantiles"] + params["steps"][None]
    up = xp.logaddexp(raw[:, 1:], xp.float32(0))  # softplus: each level above the one before
    first = raw[:, :1]
    quantiles = xp.concatenate([first, first + xp.cumsum(up, axis=1)], axis=1)
    return TOKEN_UNIT * quantiles, h @ params["classes"] + params["class_bias"][None]
