"""Laws of one length: a table of cumulative probabilities over whole numbers of tokens.

Whatever the law, a draw is a look-up of a uniform number in its table, and a truncated law is the
same table conditioned on the range: exact, the same on every device, nothing clipped.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from jaxsched.workloads.checks import number, probability, whole

MAX_TABLE = 2**22
"""Longest table; a law that needs a longer one must be given a maximum."""

RESOLUTION = 2.0**-33
"""Probability beyond which a tail is left out: uniform numbers of 32 bits never reach it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Marginal:
    """A law on the whole numbers first, first + 1, …, first + K - 1.

    Attributes:
      first: Smallest value, in tokens.
      cumulative: P(X <= first + j) for j = 0 … K - 1, of shape [K], non-decreasing, ending in 1.
    """

    first: int
    cumulative: np.ndarray

    def __post_init__(self) -> None:
        if self.last >= 2**31:
            raise ValueError(f"the longest length is {self.last}; expected less than 2^31")

    @classmethod
    def from_weights(cls, first: int, weights: np.ndarray) -> Marginal:
        """P(X = first + j) proportional to weights[j] >= 0, of shape [K], not all 0."""
        total = np.cumsum(np.asarray(weights, np.float64))
        if len(total) == 0 or np.min(weights) < 0 or not 0 < total[-1] < np.inf:
            raise ValueError("weights: expected finite numbers of at least 0, not all 0")
        cumulative = total / total[-1]
        cumulative[-1] = 1.0
        return cls(first=whole("first", first, 0), cumulative=cumulative)

    @classmethod
    def constant(cls, value: int) -> Marginal:
        """P(X = value) = 1."""
        return cls.uniform(value, value)

    @classmethod
    def uniform(cls, low: int, high: int) -> Marginal:
        """P(X = k) = 1 / (high - low + 1) for k = low … high."""
        _fits("high - low + 1", 1 + whole("high", high, whole("low", low)) - low)
        return cls.from_weights(low, np.ones(high - low + 1))

    @classmethod
    def two_point(cls, low: int, high: int, probability_high: float) -> Marginal:
        """P(X = high) = probability_high, else X = low."""
        _fits("high - low + 1", 1 + whole("high", high, whole("low", low) + 1) - low)
        probability("probability_high", probability_high)
        cumulative = np.full(high - low + 1, 1.0 - probability_high)
        cumulative[-1] = 1.0
        return cls(first=int(low), cumulative=cumulative)

    @classmethod
    def geometric(cls, mean: float, maximum: int | None = None) -> Marginal:
        """P(X = k) = (1 - q) q^(k-1) for k >= 1 with mean 1 / (1 - q), given X <= maximum."""
        _mean(mean)
        log_q = math.log1p(-1.0 / mean) if mean > 1 else -math.inf
        top = _top(maximum, math.log(RESOLUTION) / log_q)
        k = np.arange(1, top + 1)
        return cls(1, -np.expm1(k * log_q))._up_to(top)

    @classmethod
    def weighted_geometric(cls, mean: float, maximum: int | None = None) -> Marginal:
        """P(X = k) = (1 - q)^2 k q^(k-1) for k >= 1, given X <= maximum.

        The linearly weighted geometric law of arXiv 2508.14544; its mean is 2 / (1 - q) - 1.
        """
        _mean(mean)
        rest = 2.0 / (mean + 1.0)
        log_q = math.log1p(-rest) if rest < 1 else -math.inf
        # The tail q^k (1 + k (1 - q)) is below RESOLUTION well before q^k is below its square.
        top = _top(maximum, 2 * math.log(RESOLUTION) / log_q)
        k = np.arange(1, top + 1)
        return cls(1, 1.0 - np.exp(k * log_q) * (1.0 + k * rest))._up_to(top)

    @classmethod
    def log_normal(cls, mean: float, median: float, maximum: int) -> Marginal:
        """A log-normal number Y, rounded to the nearest token and to at least 1, up to `maximum`.

        ln Y is normal with mean ln(median) and variance 2 ln(mean / median), so `mean` and
        `median` are those of Y. P(X = 1) = P(Y < 3/2), P(X = k) = P(k - 1/2 <= Y < k + 1/2),
        given Y < maximum + 1/2.
        """
        number("mean", mean)
        number("median", median)
        if not 0 < median < mean < math.inf:
            given = f"mean is {mean}, median is {median}"
            raise ValueError(f"{given}; expected 0 < median < mean, both finite")
        top = _top(maximum, math.inf)
        sigma = math.sqrt(2.0 * math.log(mean / median))
        k = np.arange(1, top + 1)
        return cls(1, special.ndtr((np.log(k + 0.5) - math.log(median)) / sigma))._up_to(top)

    @classmethod
    def from_quantiles(cls, levels: Sequence[float], values: Sequence[int]) -> Marginal:
        """The law whose quantile at levels[j] is values[j], with log-linear steps between.

        ln Q(p) is piecewise linear through (levels[j], ln values[j]); a draw is Q(U) rounded to
        the nearest token.

        Args:
          levels: Strictly increasing probabilities from 0 to 1, of shape [K].
          values: Non-decreasing lengths of at least 1, of shape [K].
        """
        level, value = np.asarray(levels, np.float64), np.asarray(values, np.float64)
        if level.shape != value.shape or level.ndim != 1 or len(level) < 2:
            raise ValueError(f"levels, values: got {level.shape} and {value.shape}; expected [K]")
        if level[0] != 0 or level[-1] != 1 or np.any(np.diff(level) <= 0):
            raise ValueError("levels: expected strictly increasing numbers from 0 to 1")
        if value[0] < 1 or np.any(np.diff(value) < 0) or np.any(value != np.rint(value)):
            raise ValueError("values: expected non-decreasing whole numbers of at least 1")
        first, last = int(value[0]), int(value[-1])
        _fits("values", last - first + 1)
        # Halves are never knots, so steps in `value` (many requests of one length) are no trouble.
        halves = np.log(np.arange(first, last + 1) + 0.5)
        return cls(first, np.interp(halves, np.log(value), level))._up_to(last)

    @property
    def last(self) -> int:
        """Largest value, in tokens."""
        return self.first + len(self.cumulative) - 1

    @property
    def mean(self) -> float:
        """Expectation, in tokens."""
        return self.last - float(np.sum(self.cumulative[:-1]))

    @property
    def std(self) -> float:
        """Standard deviation, in tokens."""
        weights = np.diff(self.cumulative, prepend=0.0)
        offsets = np.arange(self.first, self.last + 1) - self.mean
        return float(np.sqrt(weights @ offsets**2))

    def quantile(self, level: np.ndarray | float) -> np.ndarray:
        """Smallest value with P(X <= value) >= level, elementwise for levels in (0, 1)."""
        return self.first + np.searchsorted(self.cumulative, level)

    def truncated(self, maximum: int | None) -> Marginal:
        """The law given X <= maximum, where it must have some mass; None for no maximum."""
        if maximum is None or whole("maximum", maximum) >= self.last:
            return self
        return self._up_to(maximum)

    def _up_to(self, maximum: int) -> Marginal:
        """Conditions on X <= maximum, a value in the table, and checks that this is possible."""
        kept = self.cumulative[: max(0, maximum - self.first + 1)]
        if len(kept) == 0 or kept[-1] <= 0:
            raise ValueError(f"maximum is {maximum}; expected one that leaves some probability")
        kept = kept / kept[-1]
        kept[-1] = 1.0
        return Marginal(first=self.first, cumulative=kept)


def as_marginal(name: str, spec: int | tuple[int, int] | Marginal) -> Marginal:
    """A law from a fixed length, a range (low, high) of equally likely ones, or a law."""
    if isinstance(spec, Marginal):
        return spec
    if isinstance(spec, tuple) and len(spec) == 2:
        return Marginal.uniform(*spec)
    if isinstance(spec, int | np.integer) and not isinstance(spec, bool):
        return Marginal.constant(int(spec))
    raise TypeError(f"{name} is {spec!r}; expected a length, a range (low, high) or a Marginal")


def _mean(mean: float) -> None:
    number("mean", mean)
    if not 1 <= mean < math.inf:
        raise ValueError(f"mean is {mean}; expected a finite number of at least 1")


def _fits(name: str, size: int) -> None:
    if size > MAX_TABLE:
        raise ValueError(f"{name} is {size}; expected at most {MAX_TABLE} different lengths")


def _top(maximum: int | None, needed: float) -> int:
    """Last value of a table: where the tail ends, or the maximum if that comes first."""
    if maximum is not None:
        whole("maximum", maximum)
        needed = min(needed, maximum)
    if needed > MAX_TABLE:
        reach = f"the law reaches {needed:.0f} tokens"
        raise ValueError(f"{reach}; expected a maximum of at most {MAX_TABLE}")
    return max(1, math.ceil(needed))
