"""The curves of arXiv 2508.14544 beside measurements: total latency over that of H-SF.

The worst inputs found for A_max and both readings of A_min against alpha = l / u, for a growing
memory, u = M - 1: made by hand, and evolved from these (`jaxsched worst-case`). And the families of
random lengths for which the paper has constants. Writes tables and figures to OUT.

Usage:

    python -m experiments.theory OUT

takes about three minutes of one core.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.progress import track

import jaxsched as js
from jaxsched.report import looks, plots
from jaxsched.report.tables import markdown
from jaxsched.studies.adversary import Game, evolve

POLICIES = ("a_max", "a_min:on_eviction", "a_min:every_round")
ALPHAS = (0.03, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75)
MEMORIES = (64, 256, 1024)
EVOLVED, LANES, GENERATIONS = 64, 256, 40
FAMILY_ALPHAS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75)
PUBLISHED = {"two-point": 1.5, "geometric": 1.7, "linearly weighted geometric": 1.56}


def a_max_bounds(alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the paper proves of the worst ratio of A_max, for a large memory: at least, at most."""
    return (1 + alpha**-0.5) / (2 * alpha), (1 + 1 / alpha) / (2 * alpha)


def worst_cases() -> Iterator[dict[str, object]]:
    """A row per policy, memory and alpha: the worst ratio by hand, and evolved for one memory."""
    points = [(m, a, p) for m in MEMORIES for a in ALPHAS for p in POLICIES]
    for memory, alpha, policy in track(points, "worst cases"):
        upper = memory - 1
        lower = max(1, round(alpha * upper))
        games = [
            Game(js.policy(policy), "h_sf", memory, n, lower, upper)
            for n in ((memory // 2, memory, 2 * memory) if memory <= EVOLVED else (memory,))
        ]
        by_hand = max(next(evolve(game, LANES, 0)).ratio for game in games)
        evolved = np.nan
        if memory == EVOLVED:
            evolved = list(evolve(games[1], LANES, GENERATIONS))[-1].ratio
        yield {"policy": policy, "M": memory, "asked": alpha, "alpha": lower / upper,
               "by hand": by_hand, "evolved": evolved}  # fmt: skip


def families() -> Iterator[dict[str, object]]:
    """A row per family, memory, parameter and reading: the ratio of the mean total latencies."""
    for memory in track((256, 1024, 4096), "families"):
        for name, parameter, output, lower in _draws(memory):
            same = np.ones_like(output)
            instance = js.Instance(
                prompt=same, output=output, lower=lower * same, upper=(memory - 1) * same,
                memory=memory,
            )  # fmt: skip
            base = js.simulate(instance, js.h_sf()).total_latency.sum()
            for reading in POLICIES[1:]:
                total = js.simulate(instance, js.policy(reading)).total_latency.sum()
                yield {"family": name, "M": memory, "parameter": parameter, "policy": reading,
                       "ratio": total / base}  # fmt: skip


def _draws(memory: int) -> Iterator[tuple[str, float, np.ndarray, int]]:
    """Name, parameter, lengths [lanes, n], and the lower bound that A_min is told."""
    rng, shape = np.random.default_rng(memory), (8, 1000)
    for alpha in FAMILY_ALPHAS:
        for share in (0.1, 0.5, 0.9):
            low, high = max(1, round(alpha * (memory - 1))), memory - 1
            yield "two-point", alpha, np.where(rng.random(shape) < share, high, low), low
    for part in (0.02, 0.05, 0.1):
        mean = part * memory
        drawn = rng.geometric(1 / mean, size=shape)
        yield "geometric", part, np.minimum(drawn, memory - 1), 1
        # P(o) proportional to o q^o: the sum of two geometric numbers, less 1.
        twice = drawn + rng.geometric(1 / mean, size=shape) - 1
        yield "linearly weighted geometric", part, np.minimum(twice, memory - 1), 1


@looks.in_house_style
def curves(frame: pd.DataFrame) -> Figure:
    """The worst ratios against alpha, a panel per policy."""
    figure, panels = plots.panels(len(POLICIES), 3, (2.5, 2.6), (0.3, 0.5), sharex=True)
    colors = dict(zip(MEMORIES, ("#9ecae1", "#4292c6", "#084594"), strict=True))
    grid = np.geomspace(min(ALPHAS), 1, 100)
    for policy, axes in zip(POLICIES, panels, strict=True):
        rows = frame[frame["policy"] == policy]
        for memory, color in colors.items():
            line = rows[rows["M"] == memory]
            axes.plot(line["alpha"], line["by hand"], "o-", color=color, ms=3,
                      label=f"by hand, M = {memory:,}")  # fmt: skip
        line = rows[rows["M"] == EVOLVED]
        axes.plot(line["alpha"], line["evolved"], "x", color="#D55E00", ms=5,
                  label=f"evolved, M = {EVOLVED}")  # fmt: skip
        if policy == "a_max":
            low, high = a_max_bounds(grid)
            axes.plot(grid, high, color="#555555", ls=":", label="proved: the worst is at most")
            axes.plot(grid, low, color="#555555", ls="--", label="proved: the worst is at least")
            axes.set_yscale("log")
            plots.plain_log_axis(axes)
        axes.set_xscale("log")
        axes.set_xticks([0.03, 0.1, 0.3, 1], ["0.03", "0.1", "0.3", "1"])
        axes.minorticks_off()
        axes.set_ylim(bottom=1 if policy == "a_max" else 0)
        plots.subtitle(axes, looks.look_of(policy).label)
    plots.name_axes(figure, "α = l / u", "total latency / H-SF, worst found")
    plots.legend_above(figure, panels[0], 3)
    return figure


def fits(frame: pd.DataFrame) -> pd.DataFrame:
    """Of each reading of A_min and memory: worst ≈ a + b ln(1/α), and ≈ c α^(−d), with their R²."""
    rows = []
    for (policy, memory), own in frame[frame["policy"] != "a_max"].groupby(["policy", "M"]):
        x = np.log(1 / own["alpha"].to_numpy())
        y = own[["by hand", "evolved"]].max(axis=1).to_numpy()
        b, a = np.polyfit(x, y, 1)
        d, c = np.polyfit(x, np.log(y), 1)
        rows.append({
            "policy": policy, "M": memory, "a": a, "b": b, "R²": np.corrcoef(x, y)[0, 1] ** 2,
            "c": np.exp(c), "d": d, "R² of the power": np.corrcoef(x, np.log(y))[0, 1] ** 2,
        })  # fmt: skip
    return pd.DataFrame(rows)


def main(folder: str) -> None:
    """Runs both, prints the tables and writes tables and figure."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    worst, drawn = pd.DataFrame(worst_cases()), pd.DataFrame(families())
    worst.to_csv(out / "worst_cases.csv", index=False)
    drawn.to_csv(out / "families.csv", index=False)
    wide = worst.pivot_table("by hand", ["policy", "M"], "asked").reset_index()
    for table in (wide, worst[worst["M"] == EVOLVED].drop(columns=["M", "asked"]), fits(worst)):
        print(markdown(table.astype({"policy": str})), end="\n\n")
    most = drawn.groupby(["family", "policy", "M"], sort=False)["ratio"].agg(["min", "max"])
    most = most.reset_index().assign(published=lambda f: f["family"].map(PUBLISHED))
    print(markdown(most))
    print(plots.save(curves(worst), out / "theory_curves"))


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) == 2 else sys.exit(__doc__)
