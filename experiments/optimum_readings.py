"""MC-SF over the optimum under other readings of arXiv 2502.07115, on small draws that are proved.

The paper prints 1.005 for a backlog (worst 1.074, equal to the optimum in 114 of 200 draws) and
1.047 with Poisson arrivals (worst 1.227), far from what `experiments.optimum` finds. Each reading
here changes the draw or the memory that is counted, for MC-SF and for the optimum alike; or what a
schedule may do, for both or one of them; or what is divided. Nothing but the reading differs from
`python -m experiments.optimum OUT 100 60 proofs 12`. Where other rules bind the optimum too, it is
searched for by annealing, which proves nothing: the ratio is that or more.

Usage:

    python -m experiments.optimum_readings OUT [DRAWS] [REQUESTS] [SECONDS] [ONLY]

Prints and writes to OUT/readings_REQUESTS.csv the mean, the least and the worst, how many were
equal, and the ratio of the mean latencies, over
DRAWS (20) draws of REQUESTS (12) each, searched for SECONDS (20) of processor time at most. With 0
REQUESTS, the published size, the ratio is to the best schedule found: at least that, and at most
the ratio to the bound. ONLY is a part of the names of some readings,
or several with commas between.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

import jaxsched as js
from experiments.optimum import DRAWS, MOVES
from experiments.optimum_rules import Rules, searched
from experiments.optimum_rules import mc_sf as mc_sf_starts

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
    "M = 30": lambda rng, s, o, m: (s, rng.integers(1, 30 - s + 1), 30),
    "M = 50": lambda rng, s, o, m: (s, rng.integers(1, 50 - s + 1), 50),
    "M = n, at least 10": lambda rng, s, o, m: (
        s, rng.integers(1, max(10, len(s)) - s + 1), max(10, len(s))
    ),
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


_proved: dict[tuple[bytes, ...], tuple[int, int]] = {}
"""What `both_sides` found for an instance: several readings ask for the same ones."""


def both_sides(instance: js.Instance, n: int, seconds: float) -> tuple[int, int]:
    """The least total latency that was found, and a bound that no schedule is below."""
    fields = (instance.prompt, instance.output, instance.arrival, instance.memory)
    key = tuple(np.asarray(field, np.int64).tobytes() for field in fields)
    if key not in _proved:
        if n:
            found = js.optimal(instance, seconds)
            _proved[key] = int(found.total_latency), int(found.lower_bound)
        else:
            best = js.best_schedule(instance, MOVES).total_latency
            _proved[key] = int(best), int(js.lower_bound(instance))
    return _proved[key]


Totals = Callable[[js.Instance, int, float], tuple[float, float, float]]
"""Of an instance: what MC-SF takes, what was found, and a bound below that or NaN."""


def _latency(instance: js.Instance, start: np.ndarray) -> int:
    return int(np.sum(start + np.asarray(instance.output) - np.asarray(instance.arrival)))


def by_rules(ours: Rules | None, theirs: Rules | None) -> Totals:
    """MC-SF by our rules over a schedule that was searched for by theirs; None for the model's."""

    def totals(instance: js.Instance, n: int, seconds: float) -> tuple[float, float, float]:
        mc_sf = _latency(instance, mc_sf_starts(instance, ours or Rules()))
        if theirs is None:
            return mc_sf, *both_sides(instance, n, seconds)
        start = searched(instance, theirs)
        return mc_sf, np.nan if start is None else _latency(instance, start), np.nan

    return totals


def by_total_length(instance: js.Instance, n: int, seconds: float) -> tuple[float, float, float]:
    """MC-SF with the smallest s + o first."""
    key = np.asarray(instance.prompt) + np.asarray(instance.output)
    start = mc_sf_starts(instance, Rules(), key)
    return _latency(instance, start), *both_sides(instance, n, seconds)


def within_its_rounds(instance: js.Instance, n: int, seconds: float) -> tuple[float, float, float]:
    """The best that ends when MC-SF does: the horizon of an integer program may be as short."""
    start = mc_sf_starts(instance, Rules())
    horizon = int(np.max(start + np.asarray(instance.output)))
    found = searched(instance, Rules(), horizon)
    best = start if found is None or found.sum() > start.sum() else found
    return _latency(instance, start), _latency(instance, best), np.nan


def measured(less: Callable[[js.Instance], float]) -> Totals:
    """The model's totals, less something that depends on the draw alone."""

    def totals(instance: js.Instance, n: int, seconds: float) -> tuple[float, float, float]:
        mc_sf = _latency(instance, mc_sf_starts(instance, Rules()))
        best, bound = both_sides(instance, n, seconds)
        own = less(instance)
        return mc_sf - own, best - own, bound - own

    return totals


OTHERS: dict[str, Totals] = {
    # What a schedule may do; found by annealing where the optimum is changed as well.
    "annealing, no other rule": by_rules(None, Rules()),
    "s + o held throughout": by_rules(Rules(reserved=True), Rules(reserved=True)),
    "s + o held throughout by MC-SF": by_rules(Rules(reserved=True), None),
    "s + o held throughout by the optimum": by_rules(None, Rules(reserved=True)),
    "starts when all have ended": by_rules(Rules(batches=True), Rules(batches=True)),
    "the optimum holds nobody back": by_rules(None, Rules(eager=True)),
    "two at once at most": by_rules(Rules(running=2), Rules(running=2)),
    "three at once at most": by_rules(Rules(running=3), Rules(running=3)),
    "one start in a round at most": by_rules(Rules(starts=1), Rules(starts=1)),
    "the optimum ends when MC-SF does": within_its_rounds,
    # What is compared.
    "MC-SF by s + o": by_total_length,
    "latency from round 0 on": measured(lambda given: -float(np.sum(given.arrival))),
    "the wait alone": measured(lambda given: float(np.sum(given.output))),
}
"""Readings of the schedules and of what is divided, of the draws as we read them."""


def row(reading: str, kind: str, draws: int, n: int, seconds: float) -> dict[str, object]:
    """MC-SF over what was found (at least) and over the bound (at most)."""
    found = []
    for k in range(draws):
        if reading in OTHERS:
            instance = drawn("as we read it", kind, n, k)
            found.append(OTHERS[reading](instance, n, seconds))
        else:
            instance = drawn(reading, kind, n, k)
            mc_sf = int(js.simulate(instance, js.mc_sf()).total_latency)
            best, bound = both_sides(instance, n, seconds)
            found.append((mc_sf, min(best, mc_sf), bound))
    mc_sf, best, bound = np.asarray(found, float).T
    # Nobody waits in some draws.
    ratio = np.where(best > 0, mc_sf / np.maximum(best, 1), 1.0)
    return {
        "reading": reading, "draw": kind, "draws": draws, "proved": (best == bound).sum(),
        "mean": ratio.mean(), "least": ratio.min(), "worst": ratio.max(),
        "equal": (ratio == 1.0).sum(), "of the means": mc_sf.sum() / best.sum(),
        "at most, mean": (mc_sf / np.maximum(bound, 1)).mean(),
    }  # fmt: skip


def main(
    folder: str, draws: str = "20", requests: str = "12", seconds: str = "20", only: str = ""
) -> None:
    """Prints and writes the table, of the readings that have `only` in their name."""
    out, rows = Path(folder), []
    out.mkdir(parents=True, exist_ok=True)
    for reading in (*READINGS, *OTHERS):
        for kind in DRAWS if any(part in reading for part in only.split(",")) else ():
            rows.append(row(reading, kind, int(draws), int(requests), float(seconds)))
            pd.DataFrame(rows).round(3).to_csv(out / f"readings_{requests}.csv", index=False)
            print(*(f"{x:.3f}" if isinstance(x, float) else x for x in rows[-1].values()), sep="\t")


if __name__ == "__main__":
    main(*sys.argv[1:]) if 2 <= len(sys.argv) <= 6 else sys.exit(__doc__)
