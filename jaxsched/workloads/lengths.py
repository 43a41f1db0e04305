"""Prompt and output lengths: joint laws of the two, and factories of them by name.

A law is drawn from with an explicit key: a lane's requests depend on the key and on the lane's
number, never on how many lanes are drawn.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import special

from jaxsched.workloads import draws
from jaxsched.workloads.checks import integers, probability, whole
from jaxsched.workloads.marginals import Marginal, as_marginal

MAX_PASSES = 2000
"""Passes of rejection after which limits are taken to leave (almost) nothing."""


class DrawnLengths(NamedTuple):
    """Requests drawn: int32 arrays of shape [..., n]; the interval only if the source has one."""

    prompt: np.ndarray
    output: np.ndarray
    lower: np.ndarray | None = None
    upper: np.ndarray | None = None


class Limits(NamedTuple):
    """Limits that a law is conditioned on, in tokens; `None` for none."""

    prompt: int | None = None
    output: int | None = None
    total: int | None = None

    def admit(self, prompt: np.ndarray, output: np.ndarray) -> np.ndarray:
        """Mask of the requests within the limits."""
        mask = np.ones(np.shape(prompt), bool)
        for limit, value in zip(self, (prompt, output, prompt + output), strict=True):
            if limit is not None:
                mask &= value <= limit
        return mask

    def tightened(self, *further: int | None) -> Limits:
        """These limits and further ones, in the same order, at once."""
        for name, limit in zip(self._fields, further, strict=True):
            if limit is not None:
                whole(f"max_{name}", limit)
        pairs = zip(self, further, strict=True)
        return Limits(*(min((x for x in p if x is not None), default=None) for p in pairs))


NO_LIMITS = Limits()


class Lengths(abc.ABC):
    """A joint law of prompt and output lengths."""

    limits: Limits

    @property
    def max_prompt(self) -> int:
        """Longest prompt that can be drawn, in tokens."""
        return self._longest(0)

    @property
    def max_output(self) -> int:
        """Longest output that can be drawn, in tokens."""
        return self._longest(1)

    def _longest(self, which: int) -> int:
        """Longest prompt (0) or output (1), beside the shortest of the other."""
        ranges, total = self._ranges(), self.limits.total
        rest = None if total is None else total - ranges[1 - which][0]
        longest = (ranges[which][1], self.limits[which], rest)
        return min(x for x in longest if x is not None)

    @abc.abstractmethod
    def _ranges(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Shortest and longest prompt, shortest and longest output, apart from the limits."""

    @abc.abstractmethod
    def _propose(self, first: np.ndarray, second: np.ndarray) -> DrawnLengths:
        """Requests of the unconditioned law from two arrays of uniform numbers in (0, 1)."""

    @abc.abstractmethod
    def _within(self, limits: Limits) -> Lengths:
        """The law given these limits, which hold its own too."""

    def truncated(
        self,
        *,
        max_prompt: int | None = None,
        max_output: int | None = None,
        max_total: int | None = None,
    ) -> Lengths:
        """The law given prompt, output and their sum at most the limits (in tokens).

        Requests beyond a limit are not shortened: the law is conditioned on having none. Where
        the law allows it that is done in its tables, otherwise by drawing again (rejection).

        Raises:
          TypeError: If a limit is no integer.
          ValueError: If nothing is left.
        """
        return self._within(self.limits.tightened(max_prompt, max_output, max_total))

    def sample(self, key: jax.Array, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Draws prompts and outputs.

        Args:
          key: One key (lane j uses it folded with j), or keys of shape `shape[:-1]`.
          shape: Shape [..., n] of the result; leading axes are lanes.

        Returns:
          Prompt and output lengths in tokens, int32 of the given shape.

        Raises:
          ValueError: If the limits leave too little of the law to draw from.
        """
        drawn = self.draw(key, shape)
        return drawn.prompt, drawn.output

    def draw(self, key: jax.Array, shape: tuple[int, ...]) -> DrawnLengths:
        """As `sample`, with the interval of each request where the source has one."""
        keys = draws.for_lanes(key, tuple(shape[:-1]))
        todo = np.ones(shape, bool)
        columns: dict[str, np.ndarray] = {}
        for step in range(MAX_PASSES):
            pair = (draws.uniforms(keys, shape, 2 * step + i)[todo] for i in (0, 1))
            drawn = self._propose(*pair)
            good = self.limits.admit(drawn.prompt, drawn.output)
            where = np.flatnonzero(todo)[good]
            for name, values in drawn._asdict().items():
                if values is not None:
                    columns.setdefault(name, np.zeros(shape, np.int32)).flat[where] = values[good]
            todo[todo] = ~good
            if not todo.any():
                return DrawnLengths(**columns)
        raise ValueError(
            f"{self.limits}: {int(todo.sum())} of {todo.size} requests were still beyond the "
            f"limits after {MAX_PASSES} draws each; expected limits that leave more of the law"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class MarginalLengths(Lengths):
    """Two laws, tied by a Gaussian copula.

    Attributes:
      prompt: Law of the prompt.
      output: Law of the output.
      rank_correlation: Spearman's rho of the two, -1 to 1; the copula's correlation is
        r = 2 sin(pi rho / 6).
      limits: Limits kept by rejection.
    """

    prompt: Marginal
    output: Marginal
    rank_correlation: float = 0.0
    limits: Limits = NO_LIMITS

    def __post_init__(self) -> None:
        probability("rank_correlation", self.rank_correlation, least=-1)

    def _ranges(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return (self.prompt.first, self.prompt.last), (self.output.first, self.output.last)

    def _propose(self, first: np.ndarray, second: np.ndarray) -> DrawnLengths:
        if self.rank_correlation:
            r = 2.0 * math.sin(math.pi * self.rank_correlation / 6.0)
            normal = r * special.ndtri(first) + math.sqrt(1.0 - r * r) * special.ndtri(second)
            second = special.ndtr(normal)
        return DrawnLengths(self.prompt.quantile(first), self.output.quantile(second))

    def _within(self, limits: Limits) -> MarginalLengths:
        """In the tables for independent lengths without a limit on the sum."""
        prompt, output = self.prompt, self.output
        leasts = (prompt.first, output.first, prompt.first + output.first)
        for name, least, limit in zip(Limits._fields, leasts, limits, strict=True):
            if limit is not None and limit < least:
                raise ValueError(f"max_{name} is {limit}; expected at least {least}")
        if self.rank_correlation:
            return dataclasses.replace(self, limits=limits)
        laws = prompt.truncated(limits.prompt), output.truncated(limits.output)
        return MarginalLengths(*laws, limits=Limits(total=limits.total))


@dataclasses.dataclass(frozen=True, eq=False)
class TableLengths(Lengths):
    """Requests drawn from rows, with replacement.

    Attributes:
      rows: Law of the row's number, 0 … K - 1.
      output: Output lengths of the rows, of shape [K].
      prompt: Prompt lengths of the rows, of shape [K], or a law to draw them from.
      lower: Lower bounds of the rows' predictions, of shape [K], or None.
      upper: Upper bounds, likewise.
      limits: Limits kept by rejection (only with a law of prompts).
    """

    rows: Marginal
    output: np.ndarray
    prompt: np.ndarray | Marginal
    lower: np.ndarray | None = None
    upper: np.ndarray | None = None
    limits: Limits = NO_LIMITS

    def _ranges(self) -> tuple[tuple[int, int], tuple[int, int]]:
        law, outputs = self.prompt, (int(self.output.min()), int(self.output.max()))
        prompts = law if isinstance(law, np.ndarray) else np.array([law.first, law.last])
        return (int(prompts.min()), int(prompts.max())), outputs

    def _propose(self, first: np.ndarray, second: np.ndarray) -> DrawnLengths:
        row = self.rows.quantile(second)
        law = self.prompt
        prompt = law.quantile(first) if isinstance(law, Marginal) else law[row]
        bounds = (None if b is None else b[row] for b in (self.lower, self.upper))
        return DrawnLengths(prompt, self.output[row], *bounds)

    def _within(self, limits: Limits) -> TableLengths:
        """By leaving out rows, and in the law of prompts."""
        prompt, left = self.prompt, NO_LIMITS
        if isinstance(prompt, Marginal):
            prompt, left = prompt.truncated(limits.prompt), Limits(total=limits.total)
        # Rows that no prompt fits beside go too, or rejection would try them for ever.
        least = prompt.first if isinstance(prompt, Marginal) else prompt
        keep = limits.admit(np.broadcast_to(least, self.output.shape), self.output)
        weights = np.diff(self.rows.cumulative, prepend=0.0)[keep]
        if not weights.sum() > 0:
            raise ValueError("truncated: no row is within the limits; expected at least one")
        rows = Marginal.from_weights(0, weights)
        columns = dict(output=self.output, prompt=prompt, lower=self.lower, upper=self.upper)
        kept: dict[str, Any] = {
            name: column[keep] if isinstance(column, np.ndarray) else column
            for name, column in columns.items()
        }
        return dataclasses.replace(self, rows=rows, limits=left, **kept)


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
    prompts: Marginal | np.ndarray
    if isinstance(prompt, Marginal | int | np.integer):
        prompts = as_marginal("prompt", prompt)
    else:
        prompts = _column("prompt", prompt, len(outputs))
    rows = Marginal.from_weights(0, np.ones(len(outputs)))
    if lower is None or upper is None:
        return TableLengths(rows, outputs, prompts)
    low, high = _column("lower", lower, len(outputs)), _column("upper", upper, len(outputs))
    if np.any(low > high):
        row = int(np.argmax(low > high))
        raise ValueError(f"row {row}: lower is {low[row]}; expected at most upper = {high[row]}")
    return TableLengths(rows, outputs, prompts, low, high)


def _column(name: str, values: Sequence[int] | np.ndarray, size: int | None) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or len(array) == 0 or (size is not None and len(array) != size):
        expected = "[K] with K at least 1" if size is None else f"[{size}]"
        raise ValueError(f"{name}: got shape {list(array.shape)}; expected {expected}")
    integers(name, array)
    bad = (array < 1) | (array >= 2**31)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"row {row}: {name} is {array[row]}; expected 1 to {2**31 - 1}")
    return array.astype(np.int32)
