"""Does a predictor of output lengths help a scheduler, and what would a better one be worth?

Usage:

    pip install '.[sharegpt,native]'
    python -m experiments.predictor_helps OUT

Held-out requests of ShareGPT, M = 16,492, 1,000 of them in an instance: a backlog, and a stream
that asks for 90 % of the memory-time. For each of five splits the shipped rule, and the level of
the lower bound, are chosen on the rows that calibrate the predictor; the figures are those of the
test rows. Writes results.parquet and a figure.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.progress import track
from scipy import stats

import jaxsched as js
from experiments.predictor_rows import (
    HEAD_KINDS,
    Split,
    draws,
    figures_of,
    instance,
    lower,
    splits,
    upper,
)
from jaxsched.policies import files
from jaxsched.predict.data import Examples
from jaxsched.report import plots
from jaxsched.report.looks import DASHES, DOTS, in_house_style
from jaxsched.report.tables import markdown
from jaxsched.studies import store

QUANTILE_LEVELS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.95)
CORRELATIONS = (0.3, 0.5, 0.7, 0.9)
LOADS = {"backlog": None, "stream": 0.9}
# The others are for another worker.
RULES = [
    f"tuned:{name}"
    for name in files.names()
    if (origin := files.read_rule(files.rule_path(name)).origin) and origin.worker == "paper"
]
LOWER = ("a_min:on_eviction", "a_min:every_round", "svf:lower", *RULES)
BEST = "best tuned rule"
SHOWN = ("a_max", *LOWER[:3], BEST)
SHOWN_FIGURES = {
    "mean latency / h_sf": ("mean",),
    "P99 / h_sf": ("p99",),
    "share of the memory in use, evictions a request, tokens thrown away / output":
        ("used", "evictions", "wasted"),
}  # fmt: skip
N, LANES = 1000, 6


def main(argv: list[str] | None = None) -> None:
    """Simulates, prints the tables, draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--seeds", type=int, default=5, metavar="N")
    args = parser.parse_args(argv)
    found = splits(args.seeds)
    frame = pd.concat(map(of_split, track(found, "simulating")), ignore_index=True)
    store.write_parquet(args.out / "results.parquet", frame, {})
    for where in LOADS:
        for name, figures in SHOWN_FIGURES.items():
            print(f"\n{where}: {name}\n\n{markdown(table(frame, where, figures))}")
    print(f"\nlevels chosen most often\n\n{markdown(levels(frame))}")
    medians = [stats.spearmanr(split.predictor.quantile(split.parts.test.texts, [0.5])[:, 0],
                               split.parts.test.output).statistic for split in found]  # fmt: skip
    print(
        plots.save(drawn(frame, float(np.mean(medians))), args.out / "figures" / "predictor_helps")
    )


def of_split(split: Split) -> pd.DataFrame:
    """One row for each place, predictor, level and policy; of calibration rows and of test rows."""
    rows = []
    for part in ("calibration", "test"):
        some: Examples = getattr(split.parts, part)
        chosen = draws(len(some), LANES, N, split.seed)
        for where, load in LOADS.items():
            yard = figures_of(instance(some, chosen, some.output, load=load), js.h_sf())
            rows.append(
                {
                    "seed": split.seed,
                    "part": part,
                    "where": where,
                    "kind": "-",
                    "level": np.nan,
                    "policy": "h_sf",
                    **yard,
                    "mean": 1.0,
                    "p99": 1.0,
                }
            )
            for about, found in simulated(split, some, chosen, load):
                ratios = {key: found[key] / yard[key] for key in ("mean", "p99")}
                rows.append({"seed": split.seed, "part": part, "where": where, **about, **found,
                             **ratios})  # fmt: skip
    return best(pd.DataFrame(rows))


def simulated(
    split: Split, rows: Examples, chosen: np.ndarray, load: float | None
) -> Iterator[tuple[dict[str, object], dict[str, float]]]:
    """Every policy under every prediction: what it is, and its figures."""
    exact = instance(rows, chosen, rows.output, rows.output, load)
    for policy in ("fcfs", "svf:output"):
        yield {"kind": "-", "level": np.nan, "policy": policy}, figures_of(exact, js.policy(policy))
    bounds = {
        (kind, level): lower(split, rows, kind, level)
        for kind in HEAD_KINDS
        for level in (QUANTILE_LEVELS if kind != "perfect" else (1.0,))
    }
    for correlation in CORRELATIONS:
        for level in QUANTILE_LEVELS:
            bounds[f"ρ = {correlation}", level] = correlated(split, rows, correlation, level)
    for (kind, level), bound in bounds.items():
        case = instance(rows, chosen, bound, load=load)
        for policy in LOWER:
            yield ({"kind": kind, "level": level, "policy": policy},
                   figures_of(case, js.policy(policy)))  # fmt: skip
    for kind in HEAD_KINDS:
        for level in QUANTILE_LEVELS if kind != "perfect" else (1.0,):
            if level > 0.5:
                high = upper(split, rows, kind, level)
                case = instance(rows, chosen, np.minimum(bounds[kind, level], high), high, load)
                yield (
                    {"kind": kind, "level": level, "policy": "a_max"},
                    figures_of(case, js.a_max()),
                )


def correlated(split: Split, rows: Examples, spearman: float, level: float) -> np.ndarray:
    """Honest lower bounds of a predictor whose median has this rank correlation with the output.

    Normal scores of output and prediction are jointly normal, and the bound is the conditional
    quantile of the law of the training rows.
    """
    rng = np.random.default_rng([split.seed, int(100 * spearman)])
    pearson = 2 * np.sin(np.pi * spearman / 6)
    rank = stats.rankdata(rows.output + rng.random(len(rows)) / 2)
    score = stats.norm.ppf((rank - 0.5) / len(rows))
    spread = np.sqrt(1 - pearson**2)
    seen = pearson * score + spread * rng.standard_normal(len(rows))
    asked = stats.norm.cdf(pearson * seen + spread * stats.norm.ppf(1 - level))
    return np.maximum(1, np.quantile(split.parts.train.output, asked)).astype(np.int32)


def best(frame: pd.DataFrame) -> pd.DataFrame:
    """With rows of the best tuned rule at each level, as it was on the calibration rows."""
    rules = frame[frame["policy"].isin(RULES)]
    keys = ["where", "kind", "level"]
    tried = rules[rules["part"] == "calibration"]
    chosen = tried.loc[tried.groupby(keys)["mean"].idxmin(), [*keys, "policy"]]
    found = rules.merge(chosen, on=[*keys, "policy"]).assign(rule=lambda x: x["policy"])
    return pd.concat([frame, found.assign(policy=BEST)], ignore_index=True)


def at_best_level(frame: pd.DataFrame) -> pd.DataFrame:
    """Test rows at the level that was best on the calibration rows, for each seed."""
    keys = ["seed", "where", "kind", "policy"]
    tried = frame[(frame["part"] == "calibration") & frame["level"].notna()].dropna(subset=["mean"])
    chosen = tried.loc[tried.groupby(keys)["mean"].idxmin(), [*keys, "level"]]
    return frame[frame["part"] == "test"].merge(chosen, on=[*keys, "level"])


def table(frame: pd.DataFrame, where: str, figures: tuple[str, ...]) -> pd.DataFrame:
    """A row per prediction and a column per policy: mean over the seeds.

    Of a single figure with the standard deviation.
    """
    here = at_best_level(frame[frame["where"] == where])
    grouped = here.groupby(["kind", "policy"])[list(figures)]
    means, stds = grouped.mean(), grouped.std()
    cells = pd.Series({
        key: " · ".join(f"{x:.2f}" for x in row) if len(row) > 1
        else f"{row.iloc[0]:.3f} ± {stds.loc[key].iloc[0]:.3f}" if row.notna().all() else None
        for key, row in means.iterrows()
    })  # fmt: skip
    cells.index = means.index
    kinds = [*HEAD_KINDS[:3], *(f"ρ = {x}" for x in CORRELATIONS), HEAD_KINDS[3]]
    made = cells.unstack("policy").reindex(index=kinds, columns=SHOWN).fillna("–")
    made.insert(0, "prediction", kinds)
    alone = frame[(frame["where"] == where) & (frame["part"] == "test") & (frame["kind"] == "-")]
    means = alone.groupby("policy")[list(figures)].mean()
    texts = [" ".join([name, *(f"{x:.3f}" for x in row)]) for name, row in means.iterrows()]
    print(f"\n{where}, {', '.join(figures)}: {', '.join(texts)}")
    return made


def levels(frame: pd.DataFrame) -> pd.DataFrame:
    """The level of the lower bound that schedules best, a row per predictor."""
    here = at_best_level(frame)
    here = here[here["kind"].isin(HEAD_KINDS[:3]) & here["policy"].isin(SHOWN)]
    cells = here.groupby(["where", "kind", "policy"])["level"].agg(
        lambda values: ", ".join(f"{x:g}" for x in sorted(values.unique()))
    )
    return cells.unstack("policy").reindex(columns=SHOWN).fillna("–").reset_index()


COLORS = {"a_min:on_eviction": "#0072B2", "a_min:every_round": "#56B4E9", "svf:lower": "#E69F00",
          BEST: "#A50F15"}  # fmt: skip
SEES = {"none": "nothing"}
LINES = {"text": "-", "length": DASHES, "none": DOTS}


@in_house_style
def drawn(frame: pd.DataFrame, spearman: float) -> Figure:
    """Latency against the level for each policy and predictor, and against rank correlation."""
    test = frame[(frame["part"] == "test") & (frame["where"] == "backlog")]
    figure, (left, middle, right) = plots.panels(3, 3, (2.7, 2.9), sharey=True)
    for axes, policies in ((left, LOWER[:2]), (middle, ("svf:lower", BEST))):
        for policy in policies:
            for kind, line in LINES.items():
                some = test[(test["policy"] == policy) & (test["kind"] == kind)]
                mean = some.groupby("level")["mean"].mean()
                axes.plot(mean.index, mean, color=COLORS[policy], ls=line, marker=".",
                          label=f"{policy}, sees {SEES.get(kind, kind)}")  # fmt: skip
        axes.set_xlabel("level of the lower bound")
        axes.legend(fontsize=6, frameon=True, framealpha=0.9, edgecolor="none")
    here = at_best_level(frame[frame["where"] == "backlog"])
    for policy in COLORS:
        some = here[(here["policy"] == policy) & here["kind"].str.startswith("ρ")]
        mean = some.groupby("kind")["mean"].mean()
        right.plot(CORRELATIONS, mean, color=COLORS[policy], marker="o", label=policy)
        text = here[(here["policy"] == policy) & (here["kind"] == "text")]["mean"].mean()
        right.plot([spearman], [text], color=COLORS[policy], marker="*", ls="", ms=9)
    right.set_xlabel("rank correlation (★: from the text)")
    right.legend(fontsize=6, frameon=False)
    for axes in (left, middle, right):
        axes.axhline(1, color="#000000", lw=0.8)
    left.set_ylabel("mean latency / that of H-SF")
    return figure


if __name__ == "__main__":
    main()
