"""How near schedules and bounds come to the optimum, on the draws of arXiv 2502.07115.

Usage:

    python -m experiments.optimum OUT [DRAWS] [SECONDS] [TABLE] [SIZES]

Two tables are printed and written to OUT, of DRAWS draws (20 by default) each: `published`, the
published size, the optimum bounded from both sides; and `proofs`, as many draws for each of the
SIZES (12,15,20), each searched for at most SECONDS (60) of processor time. With TABLE just that
one. Rows that OUT has are not made again, so that a run can be stopped. OUT/proofs.csv has what
was drawn and proved; tests/optima.csv is made of such rows:

    python -m experiments.optimum OUT 6 5 && python -m experiments.optimum --keep OUT
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from rich.progress import track

import jaxsched as js


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


MOVES = 300_000
"""Of annealing, for a draw of the published size."""

Job = tuple[str, int, int]
"""Kind of draw, number of requests (0 for the published size), number of the draw."""


def proof(job: Job, seconds: float) -> dict[str, object]:
    """What `optimal` proved, in what time, and what MC-SF makes of the draw."""
    kind, n, k = job
    instance = DRAWS[kind](np.random.default_rng([n, k, kind == "poisson"]), n)
    began = time.process_time()
    found = js.optimal(instance, seconds)
    return {
        "proved": bool(found.proved), "seconds": time.process_time() - began,
        "total": int(found.total_latency), "bound": int(found.lower_bound),
        "mc_sf": int(js.simulate(instance, js.mc_sf()).total_latency),
        "memory": int(instance.memory),
        "prompt": " ".join(map(str, instance.prompt)),
        "output": " ".join(map(str, instance.output)),
        "arrival": " ".join(map(str, instance.arrival)),
    }  # fmt: skip


def both_sides(job: Job, _: float) -> dict[str, object]:
    """MC-SF and both sides of the optimum of a draw of the published size."""
    kind, _, k = job
    instance = DRAWS[kind](np.random.default_rng([k, kind == "poisson"]))
    mc_sf = int(js.simulate(instance, js.mc_sf()).total_latency)
    began = time.process_time()
    best = int(js.best_schedule(instance, MOVES).total_latency)
    middle = time.process_time()
    bound = int(js.lower_bound(instance))
    return {
        "requests": instance.n, "best": min(best, mc_sf), "mc_sf": mc_sf, "bound": bound,
        "skipping": skipping(instance), "seconds of best": middle - began,
        "seconds of bound": time.process_time() - middle,
    }  # fmt: skip


def made(
    path: Path, jobs: list[Job], seconds: float, make: Callable[[Job, float], dict[str, object]]
) -> pd.DataFrame:
    """The rows of these jobs, each written as soon as it is made, and read where it has been."""
    names = ["draw", "n", "k"]
    rows = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=names)
    there = set(rows[names].itertuples(index=False, name=None))
    if set(jobs) - there:
        js.optimal(backlog(np.random.default_rng(0), 8))  # compiles
    for job in track([job for job in jobs if job not in there], path.stem):
        row = dict(zip(names, job, strict=True)) | make(job, seconds)
        pd.DataFrame([row]).to_csv(path, mode="a", header=not path.exists(), index=False)
    rows = pd.read_csv(path)
    return rows[[job in set(jobs) for job in rows[names].itertuples(index=False, name=None)]]


def proof_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Proved, times and gaps, a row per kind of draw and n.

    Streams in which fewer than n requests arrive are left out.
    """
    rows = rows[rows.prompt.str.count(" ") + 1 == rows.n]
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


def main(
    folder: str, draws: str = "20", seconds: str = "60", only: str = "", sizes: str = "12,15,20"
) -> None:
    """Prints and writes both tables."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    numbers = {"published": [0], "proofs": [int(n) for n in sizes.split(",")]}
    for name, make, table in (
        ("published", both_sides, published_table), ("proofs", proof, proof_table),
    ):  # fmt: skip
        if only in ("", name):
            jobs = [(d, n, k) for k in range(int(draws)) for n in numbers[name] for d in DRAWS]
            found = table(made(out / f"{name}.csv", jobs, float(seconds), make))
            found.to_csv(out / f"{name}_table.csv")
            print(found.T.round(4).to_string())


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
        main(*sys.argv[1:]) if 2 <= len(sys.argv) <= 6 else sys.exit(__doc__)
