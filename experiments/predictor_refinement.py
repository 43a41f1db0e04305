"""What is known of a request that runs: max(l, k), or the conditional law given k tokens?

Usage:

    pip install '.[sharegpt,native]'
    python -m experiments.predictor_refinement OUT

A_min refines its estimate to the larger of the lower bound and the k tokens that are out. The rule
here asks the predictor's law instead: a request carries three of its quantiles (lower: 0.1, point:
0.5, upper: 0.9), between which the law is taken as linear, and the estimate is the quantile at 1 -
level of what is left of it given k. Both are evicted by the estimate of every round. Backlogs of
1,000 held-out requests of ShareGPT, M = 16,492; levels are chosen on the calibration rows. Writes
results.parquet and a figure.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.progress import track

import jaxsched as js
from experiments.predictor_rows import MEMORY, Split, draws, figures_of, instance, lower, splits
from jaxsched.policies.arithmetic import most, over, where
from jaxsched.report import plots
from jaxsched.report.looks import DASHES, in_house_style
from jaxsched.report.tables import markdown
from jaxsched.studies import store

QUANTILE_LEVELS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
N, LANES = 1000, 6
NAMES = {"larger": "max(l, k)", "conditional": "conditional quantile"}


def conditional(per_mille: int) -> Callable[[Any], Any]:
    """The quantile of the length, given that `r.generated` tokens are out and more follow.

    `per_mille` is 1000 times the share of what is left that lies below it. The law has 0.1, 0.4,
    0.4 and 0.1 of its mass up to l, point, u and (u + u - point); within each it is uniform.
    """

    def estimate(r: Any) -> Any:
        low, middle, high = r.lower, most(r.point, r.lower + 1), most(r.upper, r.point + 2)
        high = most(high, middle + 1)
        end = 2 * high - middle
        k = r.generated
        passed = where(
            k < low, over(100 * k, most(low, 1)),
            where(k < middle, 100 + over(400 * (k - low), middle - low),
                  where(k < high, 500 + over(400 * (k - middle), high - middle),
                        where(k < end, 900 + over(100 * (k - high), high - middle), 1000))),
        )  # fmt: skip
        asked = passed + over((1000 - passed) * per_mille, 1000)
        found = where(
            asked < 100, over(low * asked, 100),
            where(asked < 500, low + over((middle - low) * (asked - 100), 400),
                  where(asked < 900, middle + over((high - middle) * (asked - 500), 400),
                        high + over((high - middle) * (asked - 900), 100))),
        )  # fmt: skip
        return most(most(found, k + 1), 1)

    return estimate


def at_start(per_mille: int) -> Callable[[Any], Any]:
    """The same before anything is out."""
    law = conditional(per_mille)

    @dataclasses.dataclass(frozen=True)
    class Start:
        lower: Any
        point: Any
        upper: Any
        generated: Any

    return lambda r: law(Start(r.lower, r.point, r.upper, 0 * r.prompt))


RULES = {
    level: js.Policy(
        f"conditional:{level}",
        estimate=at_start(round(1000 * (1 - level))),
        eviction_key=conditional(round(1000 * (1 - level))),
        refine=conditional(round(1000 * (1 - level))),
        limit=2**20,
    )
    for level in QUANTILE_LEVELS
}


def main(argv: list[str] | None = None) -> None:
    """Simulates, prints the table, draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--seeds", type=int, default=5, metavar="N")
    args = parser.parse_args(argv)
    found = splits(args.seeds)
    frame = pd.DataFrame([row for split in track(found, "simulating") for row in of_split(split)])
    store.write_parquet(args.out / "results.parquet", frame, {})
    keys = ["seed", "sees", "estimate"]
    tried = frame[frame["part"] == "calibration"]
    chosen = tried.loc[tried.groupby(keys)["mean"].idxmin(), [*keys, "level"]]
    test = frame[frame["part"] == "test"].merge(chosen, on=[*keys, "level"])
    rows = [
        {"sees": sees, "estimate": NAMES[estimate],
         "mean / h_sf": f"{some['mean'].mean():.3f} ± {some['mean'].std():.3f}",
         "P99 / h_sf": f"{some['p99'].mean():.3f} ± {some['p99'].std():.3f}",
         "evictions a request": float(some["evictions"].mean()),
         "levels": ", ".join(f"{x:g}" for x in sorted(some["level"].unique()))}
        for (sees, estimate), some in test.groupby(["sees", "estimate"])
    ]  # fmt: skip
    print(f"\n{markdown(pd.DataFrame(rows))}")
    print(plots.save(figure(frame), args.out / "figures" / "predictor_refinement"))


def of_split(split: Split) -> list[dict[str, Any]]:
    """One row for each part, predictor, estimate and level."""
    rows = []
    for part in ("calibration", "test"):
        some = getattr(split.parts, part)
        chosen = draws(len(some), LANES, N, split.seed)
        yard = figures_of(instance(some, chosen, some.output), js.h_sf())
        for sees in ("length", "text"):
            prompts = some.texts if sees == "text" else some.prompt
            law = np.round(split.predictor.quantile(prompts, (0.1, 0.5, 0.9))).astype(np.int32)
            low, middle, high = (np.minimum(law[:, i], MEMORY - some.prompt) for i in range(3))
            three = instance(some, chosen, low, high).replace(point=middle[chosen])
            for level in QUANTILE_LEVELS:
                bound = instance(some, chosen, lower(split, some, sees, level))
                both = {
                    "larger": figures_of(bound, js.a_min(refine="every_round")),
                    "conditional": figures_of(three, RULES[level]),
                }
                for estimate, found in both.items():
                    rows.append({
                        "seed": split.seed, "part": part, "sees": sees, "estimate": estimate,
                        "level": level, "evictions": found["evictions"],
                        **{key: found[key] / yard[key] for key in ("mean", "p99")},
                    })  # fmt: skip
    return rows


@in_house_style
def figure(frame: pd.DataFrame) -> Figure:
    """Mean latency against the level, for both estimates and predictors."""
    made, (axes,) = plots.panels(1, 1, (4.4, 2.9))
    colors = {"larger": "#0072B2", "conditional": "#D55E00"}
    for estimate, color in colors.items():
        for sees, line in (("text", "-"), ("length", DASHES)):
            some = frame[(frame["part"] == "test") & (frame["estimate"] == estimate)
                         & (frame["sees"] == sees)]  # fmt: skip
            mean = some.groupby("level")["mean"].mean()
            axes.plot(mean.index, mean, color=color, ls=line, marker="o",
                      label=f"{NAMES[estimate]}, sees the {sees}")  # fmt: skip
    axes.axhline(1, color="#000000", lw=0.8)
    axes.set_xlabel("level")
    axes.set_ylabel("mean latency / that of H-SF")
    axes.legend(frameon=False)
    return made


if __name__ == "__main__":
    main()
