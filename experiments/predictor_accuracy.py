"""How good the ShareGPT predictor is, over five splits; and what calibration it needs.

Usage:

    pip install '.[sharegpt]'
    python -m experiments.predictor_accuracy OUT

Tables: figures of the test rows, mean and standard deviation over the splits, of what sees the
text, the length of the prompt only, and nothing; lower bounds beside upper bounds; the scale on
which bounds are moved; the number of calibration rows.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.predictor_rows import Split, splits
from jaxsched.predict import conformal, evaluation
from jaxsched.report.tables import markdown
from jaxsched.studies import store

FIGURES = ("pinball", "pinball_ratio", "spearman", "coverage_0.8", "width_0.8", "log2_width_0.8",
           "class_accuracy", "class_majority")  # fmt: skip
ROWS = (100, 300, 1000)


def main(argv: list[str] | None = None) -> None:
    """Trains, evaluates, prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--seeds", type=int, default=5, metavar="N")
    args = parser.parse_args(argv)
    found = splits(args.seeds)
    made = {"figures": figures, "sides": sides, "scales": scales, "rows": rows}
    for name, function in made.items():
        frame = pd.DataFrame([row for split in found for row in function(split)])
        store.write_parquet(args.out / f"{name}.parquet", frame, {})
        keys = [key for key in frame if frame[key].dtype.kind not in "f"]
        summary = frame.groupby(keys, sort=False).agg(["mean", "std"])
        table = pd.DataFrame({
            key: [f"{a:.3f} ± {b:.3f}" for a, b in summary[key].to_numpy()]
            for key in frame if key not in keys
        }, index=summary.index).reset_index()  # fmt: skip
        print(f"\n{name}\n\n{markdown(table)}")


def figures(split: Split) -> Iterator[dict[str, Any]]:
    """What the report has, for each kind of predictor."""
    test = split.parts.test
    report = evaluation.evaluate(split.predictor, test)
    for kind, found in report["kinds"].items():
        if kind == evaluation.NONE:
            low, high = evaluation.nothing(split.predictor, 0.8)
            ratio = np.log2(high / low)
        else:
            low, high = split.predictor.interval(evaluation.prompts_of(kind, test), 0.8)
            ratio = np.mean(np.log2(high / low))
        flat = found | {f"{key}_0.8": found[key]["0.8"] for key in ("coverage", "width")}
        flat |= {"pinball_ratio": found["pinball"] / report["pinball_marginal"],
                 "log2_width_0.8": float(ratio)}  # fmt: skip
        yield {"sees": kind, **{key: flat.get(key, np.nan) for key in FIGURES}}


def sides(split: Split) -> Iterator[dict[str, Any]]:
    """Lower and upper bounds at 90 %: how far they are, and skill over those of all alike."""
    test = split.parts.test
    lower, upper = split.predictor.interval(test.texts, 0.8)
    alike = evaluation.nothing(split.predictor, 0.8)
    for name, level, bound, flat in (("lower", 0.1, lower, alike[0]), ("upper", 0.9, upper,
                                                                        alike[1])):  # fmt: skip
        error = test.output - bound.astype(float)
        loss = np.mean(np.maximum(level * error, (level - 1) * error))
        error = test.output - float(flat)
        without = np.mean(np.maximum(level * error, (level - 1) * error))
        yield {
            "bound": name,
            "tokens_off": float(np.mean(np.abs(test.output - bound))),
            "bits_off": float(np.mean(np.abs(np.log2(test.output / bound)))),
            "skill": float(1 - loss / without),
        }


def scales(split: Split) -> Iterator[dict[str, Any]]:
    """Coverage and its unevenness at 0.8, by the scale on which bounds are moved."""
    parts = split.parts
    for scale in conformal.SCALE_NAMES:
        about = {**split.predictor.about, "scale": scale}
        own = dataclasses.replace(split.predictor, about=about).calibrated(
            "text", parts.calibration.texts, parts.calibration.output
        )
        lower, upper = own.interval(parts.test.texts, 0.8)
        tables = dict(evaluation.groups(own, parts.test))
        yield {
            "scale": scale,
            "coverage": float(np.mean((lower <= parts.test.output) & (parts.test.output <= upper))),
            "width": float(np.mean(upper - lower)),
            "least by predicted class": float(tables["predicted class"]["inside"].min()),
            "least by true class": float(tables["true class"]["inside"].min()),
            "least by prompt length": float(tables["prompt length"]["inside"].min()),
        }


def rows(split: Split) -> Iterator[dict[str, Any]]:
    """Coverage at 0.8 by the number of calibration rows, 20 random choices of them each."""
    parts = split.parts
    rng = np.random.default_rng(split.seed)
    whole = len(parts.calibration)
    for count in (*ROWS, whole):
        held = []
        for _ in range(20 if count < whole else 1):
            some = parts.calibration.select(np.sort(rng.permutation(whole)[:count]))
            own = split.predictor.calibrated("text", some.texts, some.output)
            lower, upper = own.interval(parts.test.texts, 0.8)
            held.append(np.mean((lower <= parts.test.output) & (parts.test.output <= upper)))
        yield {"calibration rows": str(count), "coverage": float(np.mean(held)),
               "lowest": float(np.min(held)), "highest": float(np.max(held))}  # fmt: skip


if __name__ == "__main__":
    main()
