"""How near schedules and bounds come to the optimum, on the draws of arXiv 2502.07115.

Usage:

    python -m experiments.optimum OUT [DRAWS] [SECONDS]

Two tables are printed and written to OUT, of DRAWS draws (20 by default) each: `published`, the
published size, the optimum bounded from both sides; and `proofs`, as many draws for each
n, each searched for at most SECONDS (60). Times are CPU seconds. OUT/proofs.csv has what was drawn
and proved; tests/optima.csv is made of such rows:

    python -m experiments.optimum OUT 6 5 && python -m experiments.optimum --keep OUT
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from rich.progress import track

import jaxsched as js

SIZES = (12, 15, 20)
"""Numbers of requests of the proofs."""


def backlog(rng: np.random.Generator, n: int | None = None) -> js.Instance:
    """M uniform in 30 … 50, n in 40 … 60, s in 1 … 5, o in 1 … M − s."""
    memory = int(rng.integers(30, 51))
    n = int(rng.integers(40, 61)) if n is None else n
    return _instance(rng, memory, np.zeros(n, int))


def stream(rng: np.random.Generator, n: int | None = None) -> js.Instance:
    """The same with Poisson arrivals: T uniform in 40 … 60 rounds, the rate in 0.5 … 1.5.

    With n the first n of them.
    """
    memory = int(rng.integers(30, 51))
    rounds, rate = int(rng.integers(40, 61)), rng.uniform(0.5, 1.5)
    arrival = np.repeat(np.arange(rounds), rng.poisson(rate, size=rounds))
    return _instance(rng, memory, arrival[:n])


def _instance(rng: np.random.Generator, memory: int, arrival: np.ndarray) -> js.Instance:
    prompt = rng.integers(1, 6, size=len(arrival))
    output = np.asarray([rng.integers(1, memory - s + 1) for s in prompt], int)
    return js.Instance(
        prompt=prompt, output=output, lower=output, upper=output, point=output,
        memory=memory, arrival=arrival,
    )  # fmt: skip


DRAWS: dict[str, Callable[..., js.Instance]] = {"backlog": backlog, "poisson": stream}


def skipping(instance: js.Instance) -> int:
    """Total latency of MC-SF in another reading: who does not fit is passed over."""
    s, o, a = (np.asarray(x) for x in (instance.prompt, instance.output, instance.arrival))
    order, memory = np.argsort(o, kind="stable"), int(instance.memory)
    use = np.zeros(int(a.max() + o.sum()) + int(o.max()) + 2, int)
    waiting, total, t = list(order), 0, 0
    while waiting:
        for i in [i for i in waiting if a[i] <= t]:
            shape = s[i] + 1 + np.arange(o[i])
            if np.all(use[t : t + o[i]] + shape <= memory):
                use[t : t + o[i]] += shape
                total += t + o[i] - a[i]
                waiting.remove(i)
        t += 1
    return int(total)


def proofs(draws: int, seconds: float) -> Iterator[dict[str, object]]:
    """A row a draw: what `optimal` proved, in what time, and what MC-SF makes of the draw."""
    js.optimal(backlog(np.random.default_rng(0), 8))  # compiles
    for kind, draw in DRAWS.items():
        for n in SIZES:
            for k in track(range(draws), f"{kind}, n = {n}"):
                instance = draw(np.random.default_rng([n, k, kind == "poisson"]), n)
                began = time.process_time()
                found = js.optimal(instance, seconds)
                spent = time.process_time() - began
                yield {
                    "draw": kind, "n": n, "k": k, "proved": bool(found.proved), "seconds": spent,
                    "total": int(found.total_latency), "bound": int(found.lower_bound),
                    "mc_sf": int(js.simulate(instance, js.mc_sf()).total_latency),
                    "memory": int(instance.memory),
                    "prompt": " ".join(map(str, instance.prompt)),
                    "output": " ".join(map(str, instance.output)),
                    "arrival": " ".join(map(str, instance.arrival)),
                }  # fmt: skip


def published(draws: int) -> Iterator[dict[str, object]]:
    """A row a draw of the published size: MC-SF over both sides of the optimum."""
    for kind, draw in DRAWS.items():
        for k in track(range(draws), f"{kind}, published size"):
            instance = draw(np.random.default_rng([k, kind == "poisson"]))
            mc_sf = int(js.simulate(instance, js.mc_sf()).total_latency)
            best = int(js.best_schedule(instance, 300_000).total_latency)
            yield {
                "draw": kind, "n": instance.n, "best": min(best, mc_sf), "mc_sf": mc_sf,
                "bound": int(js.lower_bound(instance)), "skipping": skipping(instance),
            }  # fmt: skip


def proof_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Proved, times and gaps, a row per kind of draw and n."""
    return rows.groupby(["draw", "n"], sort=False).apply(
        lambda r: pd.Series({
            "draws": len(r), "proved": r.proved.sum(), "median s": r.seconds.median(),
            "max s": r.seconds.max(), "root gap, mean": (r.total / r.bound)[~r.proved].mean() - 1,
            "MC-SF / best, mean": (r.mc_sf / r.total).mean(),
            "worst": (r.mc_sf / r.total).max(), "equal": (r.mc_sf == r.total).sum(),
        }),
        include_groups=False,
    )  # fmt: skip


def published_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Both sides of MC-SF / optimum, a row per kind of draw."""
    return rows.groupby("draw", sort=False).apply(
        lambda r: pd.Series({
            "draws": len(r),
            "MC-SF / optimum, at least: mean": (r.mc_sf / r.best).mean(),
            "best case": (r.mc_sf / r.best).min(), "worst": (r.mc_sf / r.best).max(),
            "equal to best": (r.mc_sf == r.best).sum(),
            "at most: mean": (r.mc_sf / r.bound).mean(),
            "passing over, at least: mean": (r.skipping / r.best).mean(),
            "best / bound, mean": (r.best / r.bound).mean(),
            "best / bound, worst": (r.best / r.bound).max(),
        }),
        include_groups=False,
    )  # fmt: skip


def main(folder: str, draws: str = "20", seconds: str = "60") -> None:
    """Prints and writes both tables."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    for name, rows, table in (
        ("published", published(int(draws)), published_table),
        ("proofs", proofs(int(draws), float(seconds)), proof_table),
    ):
        frame = pd.DataFrame(rows)
        frame.to_csv(out / f"{name}.csv", index=False)
        made = table(frame)
        made.to_csv(out / f"{name}_table.csv")
        print(made.T.round(4).to_string())


def keep(folder: str) -> None:
    """Writes the draws of at most 15 requests that were proved to tests/optima.csv."""
    rows = pd.read_csv(Path(folder) / "proofs.csv")
    columns = ["draw", "memory", "prompt", "output", "arrival", "total", "mc_sf"]
    path = Path(__file__).parent.parent / "tests" / "optima.csv"
    rows[rows["proved"] & (rows["n"] <= 15)][columns].to_csv(path, index=False)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--keep":
        keep(sys.argv[2])
    else:
        main(*sys.argv[1:]) if 2 <= len(sys.argv) <= 4 else sys.exit(__doc__)
