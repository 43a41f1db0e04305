"""Fits a clock to measured rounds: non-negative coefficients, and how well they do."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize

from jaxsched.clocks.formula import Clock
from jaxsched.clocks.texts import COEFFICIENTS

COLUMNS = ("prompt_tokens", "active", "cache_tokens", "seconds")
"""Columns of a file of measurements: P, D and K of a round, and how long it lasted."""

LEAST_ROWS = 8
KNEES = 48
"""Numbers of free tokens that are tried."""


@dataclasses.dataclass(frozen=True)
class ClockFit:
    """A clock and how well it reproduces what it was fitted to.

    Attributes:
      clock: The clock.
      rows: How many rounds were measured.
      r2: Share of the variance of their seconds that it explains.
      median_error: Median of the relative errors, |predicted - measured| / measured.
      p95_error: Their 95th percentile.
      unseen: Coefficients that the measurements cannot tell, since what they multiply never varies.
    """

    clock: Clock
    rows: int
    r2: float
    median_error: float
    p95_error: float
    unseen: tuple[str, ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.rows:,} rounds, R² {self.r2:.4f}, relative error {self.median_error:.2%} in "
            f"the median, {self.p95_error:.2%} at P95"
        )


def read_measurements(path: str | Path) -> pd.DataFrame:
    """Reads a CSV file with the columns `COLUMNS`.

    Raises:
      ValueError: If a column is missing or a value is refused; the text names file and line.
      OSError: If it cannot be read.
    """
    try:
        found = pd.read_csv(path, skipinitialspace=True, skip_blank_lines=False)
    except (ValueError, UnicodeDecodeError) as error:  # of pandas' parser too
        raise ValueError(f"{path}: no CSV file that can be read ({error})") from None
    missing = [name for name in COLUMNS if name not in found]
    if missing:
        expected = ", ".join(COLUMNS)
        raise ValueError(f"{path}: line 1: no column {missing[0]}; expected {expected}")
    found = found[list(COLUMNS)].apply(pd.to_numeric, errors="coerce")
    for name in COLUMNS:
        values = found[name].to_numpy(float)
        good = np.isfinite(values) & (values > 0 if name == "seconds" else values >= 0)
        if not good.all():
            least = "more than 0" if name == "seconds" else "at least 0"
            line = int(np.argmin(good)) + 2
            raise ValueError(f"{path}: line {line}: {name}: expected a number of {least}")
    if len(found) < LEAST_ROWS:
        raise ValueError(f"{path}: {len(found)} rounds; expected at least {LEAST_ROWS}")
    return found


def fit_clock(measured: pd.DataFrame) -> ClockFit:
    """Fits the coefficients of a `Clock` to measured rounds, a table as of `read_measurements`.

    Least squares of the relative errors with no coefficient below 0 (`scipy.optimize.nnls`), so
    that short rounds count as much as long ones. Free tokens are tried at quantiles of P + D; the
    hinge is taken only where it lowers the error by more than its two numbers are worth (BIC).
    """
    prompts, active, cache, seconds = (measured[name].to_numpy(float) for name in COLUMNS)
    tokens = prompts + active
    knees = np.unique(np.quantile(tokens, np.linspace(0, 0.98, KNEES)).astype(int))
    best, least = Clock(), np.inf
    for knee in (None, *knees):
        beyond = np.zeros_like(tokens) if knee is None else np.maximum(0, tokens - knee)
        columns = np.stack([np.ones_like(tokens), prompts, active, cache, beyond], axis=-1)
        found, residual = _nnls(columns / seconds[:, None], np.ones_like(seconds))
        size = len(seconds)
        parameters = 4 if knee is None else 6
        score = size * np.log(max(residual**2 / size, 1e-30)) + parameters * np.log(size)
        if score < least:
            least = score
            free = int(knee or 0) if found[-1] else 0
            numbers = [*(float(f"{value:.6g}") for value in found), free]
            best = Clock(**dict(zip(COEFFICIENTS, numbers, strict=True)))
    return _judged(best, measured)


def _judged(clock: Clock, measured: pd.DataFrame) -> ClockFit:
    prompts, active, cache, seconds = (measured[name].to_numpy(float) for name in COLUMNS)
    told = clock.seconds(prompts, active, cache)
    error = np.abs(told - seconds) / seconds
    spread = np.sum((seconds - seconds.mean()) ** 2)
    unseen = {"per_prompt_token": prompts, "per_request": active, "per_cache_token": cache}
    return ClockFit(
        clock,
        len(seconds),
        float(1 - np.sum((told - seconds) ** 2) / spread) if spread > 0 else float("nan"),
        float(np.quantile(error, 0.5)),
        float(np.quantile(error, 0.95)),
        tuple(name for name, values in unseen.items() if np.ptp(values) == 0),
    )


def _nnls(columns: NDArray[np.float64], target: NDArray[np.float64]) -> tuple[NDArray, float]:
    """Non-negative least squares with columns of one size, since their units differ much."""
    scale = np.linalg.norm(columns, axis=0)
    scale[scale == 0] = 1
    found, residual = optimize.nnls(columns / scale, target)
    return found / scale, float(residual)
