"""Are the worst inputs that were known beaten by 10 %?

Known, all with prompts of 1 and lengths in [αu, u], u = M - 1, total latency over that of H-SF: a
few of the longest first and then only the shortest; for A_min on eviction also one short one first
and then only lengths at or just below u. The numbers in them (how many, how far below) are the
worst ones. What is sought has the same memory, as many requests and l >= αu; which prompt, l and u
it has is free. First all cases made by hand, of many prompts and u; then, until 10 % are reached,
the worst few of those are evolved.

Usage:

    python -m experiments.worst_cases OUT

Prints and writes OUT/worst_cases.csv, a row at a time.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd

import jaxsched as js
from jaxsched.report.tables import markdown
from jaxsched.studies.adversary import CaseOutputs, Game, evolve

ENOUGH = 1.1

ROWS = (
    ("a_max", 64, 0.35), ("a_max", 64, 0.5), ("a_max", 64, 0.75),
    ("a_min:on_eviction", 64, 0.5), ("a_min:on_eviction", 64, 0.75),
    ("a_min:every_round", 64, 0.5), ("a_min:every_round", 64, 0.75),
    ("a_max", 1024, 0.05), ("a_min:on_eviction", 1024, 0.5), ("a_min:on_eviction", 256, 0.5),
)  # fmt: skip
"""Policy, M and α: those that `experiments.theory` leaves within 10 %, and the two with figures."""

LANES, GENERATIONS = 256, 20
UPPERS, FEW_UPPERS = 48, 8
"""Values of u, from M - prompt down to a quarter of that; of them for M > 256."""

MOST_ROUNDS = 10**6
"""That the reference goes through one by one; longer schedules are counted by the JAX engine."""

SHAPES = 2
"""So many of the triples of prompt, l and u are searched on, those that are worst by hand."""


def known(game: Game) -> dict[str, CaseOutputs]:
    """The cases that were known for this policy: a few long first; on eviction one short first."""
    n, low, high = game.requests, game.lower, game.upper
    counts = range(1, n) if n <= 64 else (2**k for k in range(n.bit_length() - 1))
    cases = {f"{k} long": np.where(np.arange(n) < k, high, low) for k in counts}
    if game.policy.name == "a_min:on_eviction":
        for k in range(4):
            rest = np.maximum(low, high - np.arange(n - 1) % (k + 1))
            cases[f"1 short, u − {k} … u"] = np.append(low, rest)
    return cases


def worst_of(game: Game, cases: dict[str, CaseOutputs]) -> tuple[float, str, CaseOutputs]:
    """The ratio, the name and the lengths of the worst case."""
    ratios = game.ratio(np.stack(list(cases.values())))
    name = list(cases)[worst := int(np.argmax(ratios))]
    return float(ratios[worst]), name, cases[name]


def games(policy: str, memory: int, alpha: float) -> list[Game]:
    """With some prompts and largest lengths, each with the least l that alpha allows."""
    made = []
    for prompt in (1, 2, 3):
        longest = memory - prompt
        spread = np.linspace(longest, longest / 4, UPPERS if memory <= 256 else FEW_UPPERS)
        uppers = {*range(longest - 3, longest + 1), *spread.astype(int).tolist()}
        for upper in sorted(uppers, reverse=True):
            lower = math.ceil(alpha * upper - 1e-9)
            made.append(Game(js.policy(policy), "h_sf", memory, memory, lower, upper, prompt))
    return made


def row(policy: str, memory: int, alpha: float) -> dict[str, object]:
    """What was known, what is found, and what is near the known case."""
    tried = games(policy, memory, alpha)
    first = tried[0]
    listed, name, _ = worst_of(first, known(first))
    hand = {game: worst_of(game, {**known(game), **game.by_hand()}) for game in tried}
    best = max(hand, key=lambda game: hand[game][0])
    ratio, how, found = hand[best]
    if ratio < ENOUGH * listed:
        for game in sorted(hand, key=lambda game: -hand[game][0])[:SHAPES]:
            *_, last = evolve(game, LANES, GENERATIONS, others=[hand[game][2]])
            if last.ratio > ratio:
                best, ratio, found, how = game, last.ratio, last.output, "evolved"
    made = {
        "policy": policy, "M": memory, "alpha": alpha, "known": listed, "which": name,
        "found": ratio, "more": ratio / listed - 1, "how": how,
        "prompt, l, u": f"{best.prompt}, {best.lower}, {best.upper}",
    }  # fmt: skip
    base = js.simulate(best.instance(found), js.h_sf()).total_latency
    if not math.isclose(_counted_otherwise(best, found) / int(base), ratio):
        raise RuntimeError("another engine counts otherwise than the native one")
    return made


def _counted_otherwise(game: Game, found: CaseOutputs) -> int:
    """Total latency by the reference, or by the JAX engine if there are very many rounds."""
    instance = game.instance(found)
    if js.simulate(instance, game.policy).completion.max() <= MOST_ROUNDS:
        return game.replay(found)[0]
    return int(js.simulate(instance, game.policy, engine="jax").total_latency)


def main(folder: str) -> None:
    """Prints and writes the table."""
    out, rows = Path(folder), []
    out.mkdir(parents=True, exist_ok=True)
    for policy, memory, alpha in ROWS:
        rows.append(row(policy, memory, alpha))
        found = pd.DataFrame(rows)
        found.to_csv(out / "worst_cases.csv", index=False)
        print(markdown(found.tail(1)).splitlines()[-1], flush=True)
    print(markdown(found))


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) == 2 else sys.exit(__doc__)
