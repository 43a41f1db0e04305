"""Both sides of the optimum for a thousand requests: how near they are, and what each costs.

Backlogs of REQUESTS (1,000) requests of the ShareGPT and LMSYS stand-ins, M = 16,492, several DRAWS
(3) of each: `js.best_schedule` with no moves of annealing, with 20,000 and with as many as take a
minute or so of processor time, over `js.lower_bound`.

Usage:

    python -m experiments.optimum_sizes OUT [DRAWS] [REQUESTS]

Prints the table and writes OUT/sizes.csv, with a row per draw and number of moves. Times are of the
processor, after everything has been compiled.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import pandas as pd
from rich.progress import track

import jaxsched as js
from jaxsched.report.tables import markdown

LENGTHS = {
    "ShareGPT": js.workloads.embedded.sharegpt().truncated(max_total=4030),
    "LMSYS": js.workloads.embedded.lmsys(),
}
MEMORY = 16_492
MOVES = (0, 20_000, 60_000)
"""Of annealing; the last take a minute of ShareGPT with n = 1,000."""


def drawn(workload: str, n: int, k: int) -> js.Instance:
    """The k-th backlog of this workload; predictions are exact, as nothing looks at them."""
    return js.workloads.make(
        jax.random.key(0), lengths=LENGTHS[workload], n=n, memory=MEMORY,
        intervals=js.workloads.intervals.relative(0.0), lanes=1, first_lane=k,
    )  # fmt: skip


def rows(draws: int, n: int) -> Iterator[dict[str, object]]:
    """A row per workload, draw and number of moves."""
    small = drawn("LMSYS", 20, 0)
    js.lower_bound(small), js.best_schedule(small, 50)  # compiles
    jobs = [(workload, k) for k in range(draws) for workload in LENGTHS]
    for workload, k in track(jobs, "sizes"):
        instance = drawn(workload, n, k)
        began = time.process_time()
        bound = int(js.lower_bound(instance)[0])
        taken = time.process_time() - began
        for moves in MOVES:
            began = time.process_time()
            best = int(js.best_schedule(instance, moves).total_latency[0])
            yield {"workload": workload, "k": k, "moves": moves, "ratio": best / bound,
                   "seconds": time.process_time() - began, "seconds of bound": taken}  # fmt: skip


def table(found: pd.DataFrame) -> pd.DataFrame:
    """Mean and worst ratio and the longest times, a row per workload and number of moves."""
    own = found.groupby(["workload", "moves"], sort=False)
    return own.agg(**{
        "draws": ("k", "count"), "mean": ("ratio", "mean"), "worst": ("ratio", "max"),
        "seconds, most": ("seconds", "max"), "of the bound": ("seconds of bound", "max"),
    }).reset_index()  # fmt: skip


def main(folder: str, draws: str = "3", requests: str = "1000") -> None:
    """Prints and writes the table."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    found = pd.DataFrame(rows(int(draws), int(requests)))
    found.to_csv(out / "sizes.csv", index=False)
    print(markdown(table(found)))


if __name__ == "__main__":
    main(*sys.argv[1:]) if 2 <= len(sys.argv) <= 4 else sys.exit(__doc__)
