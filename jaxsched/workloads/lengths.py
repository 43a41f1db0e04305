"""Prompt and output lengths by name: where the requests of a workload come from.

Each factory returns a `Lengths`, a joint law of (prompt, output) with `sample` and `truncated`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxsched.workloads.checks import whole
from jaxsched.workloads.joint import Lengths, MarginalLengths, TableLengths
from jaxsched.workloads.marginals import Marginal, as_marginal

Spec = int | tuple[int, int] | Marginal
"""A length law as callers write it: a fixed length, a range (low, high), or a `Marginal`."""


def independent(prompt: Spec, output: Spec, rank_correlation: float = 0.0) -> Lengths:
    """Lengths from two laws and, optionally, their rank correlation (a Gaussian copula).

    Args:
      prompt: A fixed length, a range (low, high) of equally likely lengths, or a `Marginal`.
      output: Likewise.
      rank_correlation: Spearman's rho, -1 to 1.
    """
    laws = as_marginal("prompt", prompt), as_marginal("output", output)
    return MarginalLengths(*laws, rank_correlation=rank_correlation)


def uniform(output: tuple[int, int], *, prompt: Spec = 1) -> Lengths:
    """Outputs equally likely in low … high."""
    return independent(prompt, Marginal.uniform(*output))


def geometric(mean: float, *, prompt: Spec = 1, maximum: int | None = None) -> Lengths:
    """Geometric outputs, P(o = k) = (1 - q) q^(k-1), mean 1 / (1 - q), given o <= maximum."""
    return independent(prompt, Marginal.geometric(mean, maximum))


def weighted_geometric(mean: float, *, prompt: Spec = 1, maximum: int | None = None) -> Lengths:
    """Linearly weighted geometric outputs, P(o = k) = (1 - q)^2 k q^(k-1), given o <= maximum.

    The mean is 2 / (1 - q) - 1; arXiv 2508.14544.
    """
    return independent(prompt, Marginal.weighted_geometric(mean, maximum))


def two_point(low: int, high: int, probability_high: float = 0.5, *, prompt: Spec = 1) -> Lengths:
    """Outputs of two lengths, P(o = high) = probability_high, else o = low; arXiv 2508.14544."""
    return independent(prompt, Marginal.two_point(low, high, probability_high))


def log_normal(mean: float, median: float, *, maximum: int, prompt: Spec = 1) -> Lengths:
    """Log-normal outputs with this mean and median, rounded, at least 1, given o <= maximum."""
    return independent(prompt, Marginal.log_normal(mean, median, maximum))


def uniform_within(memory: int, *, prompt: tuple[int, int] = (1, 5)) -> Lengths:
    """Prompts equally likely in low … high, outputs in 1 … memory - prompt.

    The small instances on which arXiv 2502.07115 compares MC-SF with the optimum.
    """
    low, high = whole("prompt", prompt[0]), whole("prompt", prompt[1])
    if not low <= high < whole("memory", memory):
        raise ValueError(f"prompt is {prompt}; expected 1 <= low <= high < memory = {memory}")
    prompts = np.repeat(np.arange(low, high + 1), memory - np.arange(low, high + 1))
    outputs = np.concatenate([np.arange(1, memory - s + 1) for s in range(low, high + 1)])
    rows = Marginal.from_weights(0, 1.0 / (memory - prompts))
    return TableLengths(rows, outputs.astype(np.int32), prompts.astype(np.int32))


def empirical(
    prompt: Sequence[int] | np.ndarray | int | Marginal,
    output: Sequence[int] | np.ndarray,
    *,
    lower: Sequence[int] | np.ndarray | None = None,
    upper: Sequence[int] | np.ndarray | None = None,
) -> Lengths:
    """Requests drawn with replacement from given ones, each row equally likely.

    Args:
      prompt: Prompt lengths, of shape [K], or one length or law for all.
      output: Output lengths, of shape [K].
      lower: Lower bounds of the predictions, of shape [K]; a drawn request keeps its own.
      upper: Upper bounds, likewise; both or neither.

    Raises:
      ValueError: If shapes differ or a value is below 1; the text names row and column.
    """
    if (lower is None) != (upper is None):
        raise ValueError("lower, upper: got one of the two; expected both or neither")
    outputs = _column("output", output, None)
    law = isinstance(prompt, Marginal | int | np.integer)
    prompts = as_marginal("prompt", prompt) if law else _column("prompt", prompt, len(outputs))
    bounds = [
        None if values is None else _column(name, values, len(outputs))
        for name, values in (("lower", lower), ("upper", upper))
    ]
    if bounds[0] is not None and np.any(bounds[0] > bounds[1]):
        row = int(np.argmax(bounds[0] > bounds[1]))
        raise ValueError(
            f"row {row}: lower is {bounds[0][row]}; expected at most upper = {bounds[1][row]}"
        )
    rows = Marginal.from_weights(0, np.ones(len(outputs)))
    return TableLengths(rows, outputs, prompts, *bounds)


def _column(name: str, values: Sequence[int] | np.ndarray, size: int | None) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or len(array) == 0 or (size is not None and len(array) != size):
        expected = "[K] with K at least 1" if size is None else f"[{size}]"
        raise ValueError(f"{name}: got shape {list(array.shape)}; expected {expected}")
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name}: got dtype {array.dtype}; expected integers")
    bad = (array < 1) | (array >= 2**31)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"row {row}: {name} is {array[row]}; expected 1 to {2**31 - 1}")
    return array.astype(np.int32)
