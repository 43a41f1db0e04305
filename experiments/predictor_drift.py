"""Bounds after a shift: what a scheduler can learn from requests that still run.

Usage:

    pip install '.[sharegpt,native]'
    python -m experiments.predictor_drift OUT

Two experiments with held-out requests of ShareGPT. Feedback: a backlog of 1,000 requests is seen
when 10 % of them are complete, and the upper bound at 0.9 of the rest is calibrated by what has
been seen; completed ones alone, or with the running ones as at least what they have generated.
Drift: a predictor of the shorter half of the answers meets the longer half under live arrivals;
the coverage of requests against the number of arrivals since then. Writes parquet files and a
figure.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.progress import track

import jaxsched as js
from experiments.predictor_rows import MEMORY, Split, draws, instance, lower, splits
from jaxsched.report import plots
from jaxsched.report.looks import DASHES, DOTS, in_house_style
from jaxsched.report.tables import markdown
from jaxsched.studies import store

POLICIES = ("fcfs", "a_min:every_round", "svf:lower")
WAYS = ("never", "finished ones", "running ones too", "all, if known")
N, LEVEL, WINDOW, EVERY = 1000, 0.8, 300, 25
COLORS = dict(zip(WAYS, ("#777777", "#D55E00", "#0072B2", "#009E73"), strict=True))
LINES = dict(zip(WAYS, (DOTS, DASHES, "-", "-"), strict=True))


def main(argv: list[str] | None = None) -> None:
    """Simulates, prints the tables, draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--seeds", type=int, default=5, metavar="N")
    args = parser.parse_args(argv)
    found = splits(args.seeds)
    fed = pd.DataFrame([row for split in found for row in feedback(split)])
    drifted = pd.DataFrame(
        [row for split in track(found, "drift") for name in POLICIES for row in drift(split, name)]
    )
    store.write_parquet(args.out / "feedback.parquet", fed, {})
    store.write_parquet(args.out / "drift.parquet", drifted, {})
    summary = fed.groupby(["policy", "calibrated by"], sort=False)["coverage"].mean()
    table = summary.unstack("calibrated by").reset_index()
    print(f"\ncoverage of upper bounds at 0.9 of requests not yet complete\n\n{markdown(table)}")
    print(
        f"\narrivals until the coverage at {LEVEL} is within 5 points\n\n{markdown(lags(drifted))}"
    )
    print(plots.save(figure(drifted), args.out / "figures" / "predictor_drift"))


def started(result: js.Result, when: float, instance: js.Instance) -> tuple[Any, Any]:
    """Which requests have been started by a round, and tokens that each has generated in it.

    A first run that was evicted counts with what is known for sure: it has begun.
    """
    first = np.asarray(result.first_token)[0] - 1
    done = np.asarray(result.completion)[0]
    output = np.asarray(instance.output)[0]
    begun = (first >= 0) & (first < when)
    # Of a request that was evicted the last run is the one that counts.
    last = done - output
    generated = np.where(done <= when, output, np.maximum(when - np.maximum(last, first), 0))
    return begun, np.minimum(generated, output).astype(int)


def feedback(split: Split) -> Iterator[dict[str, Any]]:
    """Coverage of the requests that are not complete, by policy and by way of calibration."""
    rows = split.parts.test
    chosen = draws(len(rows), 1, N, split.seed)
    texts = [rows.texts[i] for i in chosen[0]]
    case = instance(rows, chosen, lower(split, rows, "text", 0.3))
    output = np.asarray(case.output)[0]
    for name in POLICIES:
        result = js.simulate(case, js.policy(name), max_rounds=2**22)
        done_at = np.asarray(result.completion)[0]
        when = np.quantile(done_at, 0.1)
        begun, generated = started(result, when, case)
        left = np.flatnonzero(done_at > when)
        for way in WAYS:
            own = updated(split.predictor, texts, begun, generated, done_at <= when, output, way)
            upper = own.interval([texts[i] for i in left], 0.8)[1]
            yield {"policy": name, "calibrated by": way, "seed": split.seed,
                   "coverage": float(np.mean(output[left] <= upper))}  # fmt: skip


def updated(
    predictor: js.predict.Predictor, texts: list[str], begun: Any, generated: Any, done: Any,
    output: Any, way: str,
) -> js.predict.Predictor:  # fmt: skip
    """The predictor after one way of calibrating it anew."""
    seen = {"never": done & False, "finished ones": done, "running ones too": begun | done,
            "all, if known": begun | done}[way]  # fmt: skip
    rows = np.flatnonzero(seen)
    if not np.any(done[rows]):
        return predictor
    prompts = [texts[i] for i in rows]
    if way == "running ones too":
        return predictor.update(prompts, np.maximum(generated[rows], 1), done[rows])
    return predictor.update(prompts, output[rows])


def drift(split: Split, name: str) -> Iterator[dict[str, Any]]:
    """Whether each arrival is in its interval, with a calibration of a moment before."""
    train, test = split.parts.train, split.parts.test
    middle = int(np.median(train.output))
    short = split.parts.calibration
    short = short.select(np.flatnonzero(short.output <= middle))
    old = split.predictor.calibrated("text", short.texts, short.output)
    long = test.select(np.flatnonzero(test.output > middle))
    chosen = draws(len(long), 1, min(N, len(long)), split.seed)
    texts = [long.texts[i] for i in chosen[0]]
    case = instance(long, chosen, np.minimum(old.lower(long.texts, 0.3), MEMORY), load=0.85)
    result = js.simulate(case, js.policy(name), max_rounds=2**22)
    output, arrival = np.asarray(case.output)[0], np.asarray(case.arrival)[0]
    done_at = np.asarray(result.completion)[0]
    for way in WAYS:
        for start in range(0, len(texts), EVERY):
            when = arrival[start]
            window = np.arange(len(texts)) >= start - WINDOW
            window &= np.arange(len(texts)) < start
            begun, generated = started(result, when, case)
            done = (done_at <= when) & window
            own = updated(old, texts, begun & window, generated, done, output, way)
            some = slice(start, start + EVERY)
            low, up = own.interval(texts[some], LEVEL)
            inside = (low <= output[some]) & (output[some] <= up)
            yield {"policy": name, "calibrated by": way, "seed": split.seed, "arrivals": start,
                   "coverage": float(np.mean(inside))}  # fmt: skip


def lags(frame: pd.DataFrame) -> pd.DataFrame:
    """Arrivals until the smoothed coverage is near the level, and the coverage of the last half."""
    rows = []
    for (name, way), some in frame.groupby(["policy", "calibrated by"], sort=False):
        mean = some.groupby("arrivals")["coverage"].mean().rolling(5, min_periods=1).mean()
        near = mean.index[mean >= LEVEL - 0.05]
        last = some[some["arrivals"] >= some["arrivals"].max() / 2]["coverage"].mean()
        rows.append({"policy": name, "calibrated by": way,
                     "lag": str(near[0]) if len(near) else "never",
                     "coverage later": last})  # fmt: skip
    return pd.DataFrame(rows)


@in_house_style
def figure(frame: pd.DataFrame) -> Figure:
    """Coverage against arrivals since the shift, a panel for each policy."""
    made, grid = plots.panels(len(POLICIES), 3, (2.5, 2.3), sharey=True)
    for axes, name in zip(grid, POLICIES, strict=True):
        axes.axhline(LEVEL, color="#000000", lw=0.8)
        for way in WAYS:
            some = frame[(frame["policy"] == name) & (frame["calibrated by"] == way)]
            mean = some.groupby("arrivals")["coverage"].mean().rolling(5, min_periods=1).mean()
            axes.plot(mean.index, mean, color=COLORS[way], ls=LINES[way], label=way)
        plots.subtitle(axes, name)
    plots.name_axes(made, "arrivals since the shift", "coverage")
    plots.legend_above(made, grid[0])
    return made


if __name__ == "__main__":
    main()
