"""From a configuration to a predictor: data, split, training, calibration, evaluation."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from jaxsched import toml
from jaxsched._version import __version__
from jaxsched.predict import conformal, data, evaluation, features, network, predictor, training
from jaxsched.predict.config import PredictConfig
from jaxsched.predict.data import Examples
from jaxsched.predict.predictor import Predictor
from jaxsched.predict.training import OnEpoch
from jaxsched.studies import store

LEAST_EXAMPLES = 10
"""Rows that each part of a split needs."""


@dataclasses.dataclass(frozen=True, eq=False)
class ExampleParts:
    """The rows of a data set by what they are for; later turns train as well, with less weight."""

    train: Examples
    validation: Examples
    calibration: Examples
    test: Examples
    later: Examples


def parts_of(config: PredictConfig, rows: Examples | None = None) -> ExampleParts:
    """Reads the data of a configuration, unless it is given, and splits it."""
    if rows is None:
        rows = data.read(config.data, config.columns, config.max_total)
    chosen = data.split_rows(rows, config.shares, config.seed)
    if min(map(len, chosen)) < LEAST_EXAMPLES:
        raise ValueError(f"{rows.source}: has {len(rows):,} requests; expected more, such that "
            f"every part of the split has {LEAST_EXAMPLES}")  # fmt: skip
    later = rows.later or rows.select(np.zeros(0, np.int64))
    train, validation, calibration, test = map(rows.select, chosen)
    later = later.select(data.later_rows(rows, chosen[0]))
    return ExampleParts(train, validation, calibration, test, later)


def train(
    config: PredictConfig | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    rows: Examples | None = None,
    on_epoch: OnEpoch = lambda *_: None,
) -> Predictor:
    """Trains a predictor and calibrates it.

    Args:
      config: A configuration, or the path of its TOML file (see docs/predict.md).
      out: A folder for the predictor, and for checkpoints from which an interrupted training goes
        on; `None` to write nothing.
      rows: Examples to learn from, in place of those that the configuration names.
      on_epoch: Called as (kind, epochs done, best validation loss) after every epoch.

    Raises:
      ValueError: If the configuration or the data are malformed.
      OSError: If a file cannot be read or written.
    """
    if not isinstance(config, PredictConfig):
        config = toml.load(config, PredictConfig)
    return _train(config, parts_of(config, rows), None if out is None else Path(out), on_epoch)


def fit_and_report(
    config: PredictConfig, folder: Path, on_epoch: OnEpoch = lambda *_: None
) -> tuple[Predictor, dict[str, Any]]:
    """Trains into a folder and evaluates on the test rows: the predictor and its report.

    The report is written to folder/report.json as well.
    """
    parts, began = parts_of(config), time.perf_counter()
    trained = _train(config, parts, folder, on_epoch)
    report = evaluation.evaluate(trained, parts.test, time.perf_counter() - began)
    report |= {"digest": trained.digest, "config": toml.to_toml(config)}
    text = json.dumps(report, indent=2) + "\n"
    store.write_atomically(
        folder / "report.json", lambda temporary: temporary.write_text(text, encoding="utf-8")
    )
    return trained, report


def _train(config: PredictConfig, parts: ExampleParts, folder: Path | None, on_epoch: OnEpoch
) -> Predictor:  # fmt: skip
    output = parts.train.output
    edges = _edges(config, output)
    # Checkpoints of another configuration, data set or version are others.
    stamp = f"{zlib.crc32(f'{__version__}{toml.to_toml(config)}{parts.train.digest}'.encode()):08x}"
    params = {}
    for kind in evaluation.kinds_of(parts.train):
        held = _rows(kind, parts.validation, config, edges)
        later = _rows(kind, parts.later, config, edges, config.training.later_weight)
        own = training.joined(_rows(kind, parts.train, config, edges), later)
        where = None if folder is None else folder / "checkpoints" / stamp / kind
        fitted = training.fit(kind, own, held, config, len(edges), where, on_epoch)
        params[kind] = network.packed(fitted)
    made = Predictor(
        params=params,
        moves={},
        marginal=np.quantile(output, conformal.SCALE_GRID),
        edges=edges,
        most=int(output.max()),
        about=_about(config, parts),
    )
    for kind in params:
        prompts = evaluation.prompts_of(kind, parts.calibration)
        made = made.calibrated(kind, prompts, parts.calibration.output)
    if folder is not None:
        predictor.save_predictor(made, folder)
    return made


def _edges(config: PredictConfig, output: Any) -> Any:
    """Given edges, or those that give the training rows equal shares."""
    given = config.classes.edges
    if given:
        return np.asarray(given, np.int32)
    inner = np.quantile(output, np.arange(1, config.classes.count) / config.classes.count)
    return np.unique([1, *np.ceil(inner).astype(int)]).astype(np.int32)


def _rows(
    kind: str, rows: Examples, config: PredictConfig, edges: Any, weight: float = 1.0
) -> training.TrainingRows:
    prompts: Any = evaluation.prompts_of(kind, rows)
    if kind == "text":
        seen = features.of_texts(prompts, config.network.buckets)
    else:
        seen = features.of_lengths(prompts)
    classes = np.searchsorted(edges, rows.output, side="right") - 1
    numbers, words = seen
    weights = np.full(len(rows), weight, np.float32)
    return training.TrainingRows(numbers, words, rows.output, classes.astype(np.int32), weights)


def _about(config: PredictConfig, parts: ExampleParts) -> dict[str, Any]:
    source = parts.train
    split = {field.name: len(getattr(parts, field.name)) for field in dataclasses.fields(parts)}
    versions = {**store.versions(), "optax": importlib.metadata.version("optax"),
                "orbax-checkpoint": importlib.metadata.version("orbax-checkpoint")}  # fmt: skip
    return {
        "scale": config.scale,
        "config": toml.to_toml(config),
        "data": {"source": source.source, "sha256": source.digest, "left_out": source.left_out},
        "split": split,
        "tokenizer": source.tokenizer,
        "versions": versions,
    }
