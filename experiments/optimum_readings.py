"""MC-SF over the optimum under other readings of arXiv 2502.07115, on small draws that are proved.

The paper prints 1.005 for a backlog (worst 1.074, equal to the optimum in 114 of 200 draws) and
1.047 with Poisson arrivals (worst 1.227), far from what `experiments.optimum` finds. Each reading
here changes the draw or the memory that is counted, for MC-SF and for the optimum alike, so that
nothing but the reading differs from `python -m experiments.optimum OUT 100 60 proofs 12`.

Usage:

    python -m experiments.optimum_readings OUT [DRAWS] [REQUESTS] [SECONDS] [ONLY]

Prints and writes to OUT/readings_REQUESTS.csv the mean, the worst and how many were equal, over
DRAWS (20) draws of REQUESTS (12) each, searched for SECONDS (20) of processor time at most. With 0
REQUESTS, the published size, the ratio is to the best schedule found: at least that, and at most
the ratio to the bound. ONLY is a part of the names of some readings.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

import jaxsched as js
from experiments.optimum import DRAWS

MOVES = 100_000
"""Of annealing, for draws of the published size."""

Lengths = tuple[np.ndarray, np.ndarray, int]
"""Prompts, outputs and the memory."""

Reading = Callable[[np.random.Generator, np.ndarray, np.ndarray, int], Lengths]


def outputs(longest: Callable[[int], int]) -> Reading:
    """Outputs uniform in 1 … longest(M), or M - s if that is less."""
    return lambda rng, s, o, m: (s, rng.integers(1, np.minimum(longest(m), m - s) + 1), m)


READINGS: dict[str, Reading] = {
    "as we read it": lambda rng, s, o, m: (s, o, m),
    # The draw.
    "one prompt size in a draw": lambda rng, s, o, m: (s[0] + 0 * s, np.minimum(o, m - s[0]), m),
    "one prompt size, outputs to M/4": lambda rng, s, o, m: (
        s[0] + 0 * s, rng.integers(1, m // 4 + 1, len(s)), m
    ),
    "one prompt size, outputs to 5": lambda rng, s, o, m: (
        s[0] + 0 * s, rng.integers(1, 6, len(s)), m
    ),
    "outputs to M/2": outputs(lambda m: m // 2),
    "outputs to M/4": outputs(lambda m: m // 4),
    "outputs to 5, as prompts": outputs(lambda m: 5),
    "outputs of M/2 and more": lambda rng, s, o, m: (s, rng.integers(m // 2, m - s + 1), m),
    "four times the memory": lambda rng, s, o, m: (s, o, 4 * m),
    # The memory that is counted.
    "a token less for each request": lambda rng, s, o, m: (np.maximum(1, s - 1), o, m),
    "prompts not counted, but for 1": lambda rng, s, o, m: (1 + 0 * s, o, m),
    "kept for a round after the end": lambda rng, s, o, m: (s, np.minimum(o, m - s - 1) + 1, m),
}  # fmt: skip


def drawn(reading: str, kind: str, n: int, k: int) -> js.Instance:
    """The k-th draw of this kind with n requests, 0 for the published size, as it is read."""
    poisson = kind == "poisson"
    rng = np.random.default_rng([n, k, poisson] if n else [k, poisson])
    instance = DRAWS[kind](rng, n or None)
    s, o = (np.asarray(x, int) for x in (instance.prompt, instance.output))
    s, o, memory = READINGS[reading](rng, s, o, int(instance.memory))
    return js.Instance(
        prompt=s, output=o, lower=o, upper=o, point=o, memory=memory, arrival=instance.arrival
    )


def both_sides(instance: js.Instance, n: int, seconds: float) -> tuple[int, int]:
    """The least total latency that was found, and a bound that no schedule is below."""
    if n:
        found = js.optimal(instance, seconds)
        return int(found.total_latency), int(found.lower_bound)
    best = js.best_schedule(instance, MOVES).total_latency
    return int(best), int(js.lower_bound(instance))


def row(reading: str, kind: str, draws: int, n: int, seconds: float) -> dict[str, object]:
    """MC-SF over what was found (at least) and over the bound (at most)."""
    found = []
    for k in range(draws):
        instance = drawn(reading, kind, n, k)
        mc_sf = int(js.simulate(instance, js.mc_sf()).total_latency)
        best, bound = both_sides(instance, n, seconds)
        found.append((mc_sf / min(best, mc_sf), mc_sf / bound, best == bound))
    at_least, at_most, proved = map(np.asarray, zip(*found, strict=True))
    return {
        "reading": reading, "draw": kind, "draws": draws, "proved": proved.sum(),
        "mean": at_least.mean(), "worst": at_least.max(), "equal": (at_least == 1.0).sum(),
        "at most, mean": at_most.mean(),
    }  # fmt: skip


def main(
    folder: str, draws: str = "20", requests: str = "12", seconds: str = "20", only: str = ""
) -> None:
    """Prints and writes the table, of the readings that have `only` in their name."""
    out, rows = Path(folder), []
    out.mkdir(parents=True, exist_ok=True)
    for reading in READINGS:
        for kind in DRAWS if only in reading else ():
            rows.append(row(reading, kind, int(draws), int(requests), float(seconds)))
            pd.DataFrame(rows).round(3).to_csv(out / f"readings_{requests}.csv", index=False)
            print(*(f"{x:.3f}" if isinstance(x, float) else x for x in rows[-1].values()), sep="\t")


if __name__ == "__main__":
    main(*sys.argv[1:]) if 2 <= len(sys.argv) <= 6 else sys.exit(__doc__)
