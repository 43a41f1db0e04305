"""The curves of arXiv 2508.14544 beside measurements: total latency over that of H-SF.

The worst inputs found for A_max and both readings of A_min against alpha = l / u, for a growing
memory, u = M - 1: made by hand, and evolved from these and from the worst of the smaller memory
(`jaxsched worst-case`). For the smallest memory every single change of the worst is tried. And the
families of random lengths for which the paper has constants. Writes tables and figures to OUT.

Usage:

    python -m experiments.theory OUT

takes about ten minutes of one core.
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
from jaxsched.studies.adversary import Game, enlarged, evolve, worsen

POLICIES = ("a_max", "a_min:on_eviction", "a_min:every_round")
ALPHAS = (0.03, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75)
SMALL = (0.005, 0.01, 0.02)
"""More of them for A_max, whose curves part there, with the largest memory."""

MEMORIES = (64, 256, 1024, 4096)
WIDE = 16
"""M / (u + 1) of the cases in which many requests of the largest length fit."""

EVOLVED = {64: (256, 40), 128: (128, 20), 256: (64, 16), 512: (32, 10)}
"""Memory -> lanes and generations."""

FAMILY_ALPHAS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75)
PUBLISHED = {"two-point": 1.5, "geometric": 1.7, "linearly weighted geometric": 1.56}


def a_max_bounds(alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the worst ratio of A_max: published, at least and at most, and that of docs/optimum.md.

    All for a large memory. The last is an upper bound over the optimum, and so over H-SF.
    """
    ours = 1 + (1 + np.sqrt(1 - 2 * np.log(alpha))) / alpha
    return (1 + alpha**-0.5) / (2 * alpha), (1 + 1 / alpha) / (2 * alpha), ours


def _game(policy: str, memory: int, requests: int, upper: int, alpha: float) -> Game:
    return Game(js.policy(policy), "h_sf", memory, requests, max(1, round(alpha * upper)), upper)


def by_hand() -> Iterator[dict[str, object]]:
    """A row per policy, memory and alpha: the worst of the two lengths, and of all made by hand."""
    shapes = [(m, m, m - 1) for m in MEMORIES]
    wide = (WIDE * 256, 0, 255)
    points = [(shape, a, p) for shape in (*shapes, wide) for a in ALPHAS for p in POLICIES]
    points += [(shapes[-1], a, "a_max") for a in SMALL]
    for (memory, requests, upper), alpha, policy in track(points, "by hand"):
        lower = max(1, round(alpha * upper))
        game = _game(policy, memory, requests or WIDE * memory // lower, upper, alpha)
        made = game.by_hand()
        ratios = game.ratio(np.stack(list(made.values())))
        two = [not name.startswith("longest first") for name in made]
        yield {"policy": policy, "M": memory, "u": upper, "asked": alpha, "alpha": lower / upper,
               "two lengths": ratios[two].max(), "by hand": ratios.max()}  # fmt: skip


def evolved() -> Iterator[dict[str, object]]:
    """A row per policy, alpha and memory: the worst evolved; of the smallest, the local worst."""
    points = [(a, p) for a in ALPHAS for p in POLICIES]
    for alpha, policy in track(points, "evolved"):
        smaller: tuple[Game, np.ndarray] | None = None
        for memory, (lanes, generations) in EVOLVED.items():
            game = _game(policy, memory, min(memory, 256), memory - 1, alpha)
            others = [] if smaller is None else [enlarged(*smaller, game)]
            worst = list(evolve(game, lanes, generations, others=others))[-1]
            smaller = game, worst.output
            row = {"policy": policy, "M": memory, "asked": alpha,
                   "alpha": game.lower / game.upper, "evolved": worst.ratio}  # fmt: skip
            if not others:
                *_, last = worsen(game, worst.output)
                row |= {"locally worst": last.ratio, "changes": last.number}
                smaller = game, last.output
            yield row


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
def curves(hand: pd.DataFrame, bred: pd.DataFrame) -> Figure:
    """The worst ratios against alpha, a panel per policy."""
    figure, panels = plots.panels(len(POLICIES), 3, (2.5, 2.6), (0.3, 0.5))
    blues = ("#9ecae1", "#6baed6", "#3182bd", "#084594")
    reds = ("#fdbe85", "#fd8d3c", "#e6550d", "#a63603")
    for policy, axes in zip(POLICIES, panels, strict=True):
        own = hand[hand["policy"] == policy]
        for memory, color in zip(MEMORIES, blues, strict=True):
            line = own[(own["M"] == memory) & (own["u"] == memory - 1)].sort_values("alpha")
            axes.plot(line["alpha"], line["by hand"], "o-", color=color, ms=2.5, lw=1,
                      label=f"by hand, M = {memory:,}")  # fmt: skip
        line = own[own["u"] < own["M"] - 1]
        axes.plot(line["alpha"], line["by hand"], "s-", color="#009E73", ms=2.5, lw=1,
                  label=f"by hand, M = {WIDE} (u + 1)")  # fmt: skip
        for memory, color in zip(EVOLVED, reds, strict=True):
            line = bred[(bred["policy"] == policy) & (bred["M"] == memory)]
            axes.plot(line["alpha"], line["evolved"], "x", color=color, ms=4,
                      label=f"evolved, M = {memory}")  # fmt: skip
        if policy == "a_max":
            grid = np.geomspace(min(SMALL), 1, 100)
            low, high, ours = a_max_bounds(grid)
            styles = ((high, ":", "published: the worst is at most"),
                      (low, "--", "published: the worst is at least"),
                      (ours, "-", "proved here: the worst is at most"))  # fmt: skip
            for values, style, label in styles:
                axes.plot(grid, values, color="#555555", ls=style, lw=1, label=label)
            axes.set_yscale("log")
            plots.plain_log_axis(axes)
        axes.set_xscale("log")
        ticks = [0.01, 0.1, 1] if policy == "a_max" else [0.03, 0.1, 0.3, 1]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_ylim(bottom=1 if policy == "a_max" else 0)
        plots.subtitle(axes, looks.look_of(policy).label)
    plots.name_axes(figure, "α = l / u", "total latency / H-SF, worst found")
    plots.legend_above(figure, panels[0], 3)
    return figure


def fits(bred: pd.DataFrame) -> pd.DataFrame:
    """Of each policy and memory: evolved ≈ a + b ln(1/α), and ≈ c α^(−d), with their R²."""
    rows = []
    for (policy, memory), own in bred.groupby(["policy", "M"]):
        x, y = np.log(1 / own["alpha"].to_numpy()), own["evolved"].to_numpy()
        b, a = np.polyfit(x, y, 1)
        d, c = np.polyfit(x, np.log(y), 1)
        rows.append({
            "policy": policy, "M": memory, "a": a, "b": b, "R²": np.corrcoef(x, y)[0, 1] ** 2,
            "c": np.exp(c), "d": d, "R² of the power": np.corrcoef(x, np.log(y))[0, 1] ** 2,
        })  # fmt: skip
    return pd.DataFrame(rows)


def main(folder: str) -> None:
    """Runs all, prints the tables and writes tables and figure."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    made = {"by_hand": by_hand, "evolved": evolved, "families": families}
    frames = {}
    for name, rows in made.items():
        frames[name] = pd.DataFrame(rows())
        frames[name].to_csv(out / f"{name}.csv", index=False)
    hand, bred, drawn = frames.values()
    two = hand.rename(columns={"two lengths": "listed"})[["policy", "M", "alpha", "listed"]]
    local = bred.dropna(subset="changes").merge(two, on=["policy", "M", "alpha"])
    local["more than listed"] = local["locally worst"] / local["listed"] - 1
    tables = (
        hand.pivot_table("by hand", ["policy", "M", "u"], "asked").reset_index(),
        bred.pivot_table("evolved", ["policy", "M"], "asked").reset_index(),
        local.drop(columns=["asked", "alpha"]).assign(alpha=local["asked"]),
        fits(bred),
    )
    for table in tables:
        print(markdown(table.astype({"policy": str})), end="\n\n")
    most = drawn.groupby(["family", "policy", "M"], sort=False)["ratio"].agg(["min", "max"])
    most = most.reset_index().assign(published=lambda f: f["family"].map(PUBLISHED))
    print(markdown(most))
    print(plots.save(curves(hand, bred), out / "theory_curves"))


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) == 2 else sys.exit(__doc__)
