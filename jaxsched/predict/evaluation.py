"""How good a predictor is on rows that nothing was chosen on, beside two that read less."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from jaxsched.predict import conformal, network
from jaxsched.predict.data import Examples
from jaxsched.predict.predictor import HEAD_KINDS, Predictor, Prompts

COVERAGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SHOWN = 0.8
"""The coverage whose failures the report shows by group."""

NONE = "none"
"""The predictor that sees nothing: the same bounds for all."""

LABELS = {"text": "the text", "length": "its length only", NONE: "nothing"}


def prompts_of(kind: str, rows: Examples) -> Prompts:
    """What a network of this kind sees of the rows."""
    return rows.texts if kind == "text" else rows.prompt


def kinds_of(rows: Examples) -> tuple[str, ...]:
    """The kinds of networks that rows can train."""
    there = {"text": rows.texts is not None, "length": rows.prompt is not None}
    return tuple(kind for kind in HEAD_KINDS if there[kind])


def evaluate(predictor: Predictor, rows: Examples, seconds: float = 0.0) -> dict[str, Any]:
    """The figures of the report, of the best kind at the top level and of every kind in `kinds`.

    Coverages have text keys, such as "0.8"; lengths are in tokens. `us_per_request` is the median
    time of the processor for the interval of one request by itself, in microseconds.
    """
    kinds = {kind: _kind(predictor, kind, rows) for kind in predictor.params}
    kinds[NONE] = _nothing(predictor, rows)
    main = kinds[next(iter(predictor.params))]
    return {
        **main,
        "pinball_marginal": kinds[NONE]["pinball"],
        "pinball_ratio": main["pinball"] / kinds[NONE]["pinball"],
        "rows": len(rows),
        "edges": predictor.edges.tolist(),
        "bytes": predictor.nbytes,
        "training_seconds": seconds,
        "kinds": kinds,
        "by": {name: frame.to_dict("records") for name, frame in groups(predictor, rows)},
        **{name: predictor.about[name] for name in ("data", "split", "tokenizer", "versions")},
    }


def pinball(quantiles: NDArray[np.float64], output: NDArray[np.integer]) -> float:
    """Mean pinball loss in tokens over the network's levels; `quantiles` is [R, 11]."""
    error = output[:, None] - quantiles
    levels = np.asarray(network.QUANTILE_LEVELS)
    return float(np.mean(np.maximum(levels * error, (levels - 1) * error)))


def _kind(predictor: Predictor, kind: str, rows: Examples) -> dict[str, Any]:
    prompts, output = prompts_of(kind, rows), rows.output
    began = time.process_time()
    quantiles = predictor.quantile(prompts, network.QUANTILE_LEVELS)
    batch = (time.process_time() - began) / len(output)
    single = []
    for i in range(min(500, len(output))):
        began = time.process_time()
        predictor.interval(prompts[i : i + 1])
        single.append(time.process_time() - began)
    bounds = {coverage: predictor.interval(prompts, coverage) for coverage in COVERAGES}
    truth = classes_of(predictor, output)
    guess = predictor.classes(prompts)
    return {
        "coverage": {str(c): float(np.mean((lo <= output) & (output <= up)))
                     for c, (lo, up) in bounds.items()},
        "lower_coverage": {str(c): float(np.mean(predictor.lower(prompts, c) <= output))
                           for c in COVERAGES},
        "width": {str(c): float(np.mean(up.astype(np.int64) - lo)) for c, (lo, up) in
                  bounds.items()},
        "below": {str(q): float(np.mean(output <= quantiles[:, i]))
                  for i, q in enumerate(network.QUANTILE_LEVELS)},
        "pinball": pinball(quantiles, output),
        "spearman": _spearman(quantiles[:, network.QUANTILE_LEVELS.index(0.5)], output),
        "class_accuracy": float(np.mean(guess == truth)),
        "class_majority": float(np.bincount(truth).max() / len(truth)),
        "us_per_request": 1e6 * float(np.median(single)),
        "us_per_request_in_batches": 1e6 * batch,
    }  # fmt: skip


def _nothing(predictor: Predictor, rows: Examples) -> dict[str, Any]:
    """The same figures of the training rows' own quantiles."""
    output = rows.output
    at = np.interp(network.QUANTILE_LEVELS, conformal.SCALE_GRID, predictor.marginal)
    quantiles = np.broadcast_to(at, (len(output), len(at)))
    truth = classes_of(predictor, output)
    bounds = {c: nothing(predictor, c) for c in COVERAGES}
    return {
        "coverage": {str(c): float(np.mean((lo <= output) & (output <= up)))
                     for c, (lo, up) in bounds.items()},
        "width": {str(c): float(up - lo) for c, (lo, up) in bounds.items()},
        "pinball": pinball(quantiles, output),
        "spearman": 0.0,
        "class_majority": float(np.bincount(truth).max() / len(truth)),
    }  # fmt: skip


def nothing(predictor: Predictor, coverage: float) -> tuple[int, int]:
    """The interval of all requests alike, from the outputs of the training rows."""
    sides = (1 - coverage) / 2, (1 + coverage) / 2
    low, high = np.interp(sides, conformal.SCALE_GRID, predictor.marginal)
    return max(1, int(np.floor(low))), int(np.ceil(high))


def _spearman(predicted: NDArray[np.float64], output: NDArray[np.integer]) -> float:
    if np.ptp(predicted) == 0 or np.ptp(output) == 0:
        return 0.0
    return float(stats.spearmanr(predicted, output).statistic)


def classes_of(predictor: Predictor, output: NDArray[np.integer]) -> NDArray[np.int64]:
    """The class that each length is in."""
    return np.searchsorted(predictor.edges, output, side="right") - 1


def groups(predictor: Predictor, rows: Examples) -> Iterator[tuple[str, pd.DataFrame]]:
    """Coverage at `SHOWN` by predicted class, true class and prompt length, a table each."""
    kind = next(iter(predictor.params))
    prompts, output = prompts_of(kind, rows), rows.output
    lower, upper = predictor.interval(prompts, SHOWN)
    held = pd.DataFrame({"below": output < lower, "above": output > upper})
    held["inside"] = ~(held["below"] | held["above"])
    held["width"] = upper.astype(np.int64) - lower
    names = [_between(*pair) for pair in zip(predictor.edges, [*predictor.edges[1:], None],
                                             strict=True)]  # fmt: skip
    length = rows.prompt if rows.prompt is not None else [len(text) for text in rows.texts]
    cuts = np.unique(np.quantile(length, [0, 0.2, 0.4, 0.6, 0.8]).astype(int))
    spans = [_between(*pair) for pair in zip(cuts, [*cuts[1:], None], strict=True)]
    keys = {
        "predicted class": (predictor.classes(prompts), names),
        "true class": (classes_of(predictor, output), names),
        "prompt length": (np.searchsorted(cuts, length, side="right") - 1, spans),
    }
    for name, (group, texts) in keys.items():
        grouped = held.groupby(group)
        table = grouped.mean()
        table.insert(0, "rows", grouped.size())
        table.insert(0, "group", [texts[i] for i in table.index])
        yield name, table


def _between(low: int, high: int | None) -> str:
    return f"{low:,} or more" if high is None else f"{low:,} to {high - 1:,}"
