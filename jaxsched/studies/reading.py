"""Reads folders of results again."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from jaxsched.studies import store, toml
from jaxsched.studies.parts import ALL_AGAIN, Parts
from jaxsched.studies.sweep import SweepConfig, plan_of


def manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a sweep: configuration, versions, device and when it was begun.

    Raises:
      FileNotFoundError: If there is none.
      ValueError: If it is none of a sweep.
    """
    path = Path(folder) / "manifest.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a folder of `jaxsched sweep`")
    try:
        found = json.loads(path.read_text())
        tomllib.loads(found["config"])["lanes"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is not the manifest of a sweep") from None
    return found


def open_parts(folder: str | os.PathLike[str]) -> Parts:
    """The parts of a sweep, to read only."""
    text = manifest(folder)["config"]
    plan = plan_of(toml.from_table(SweepConfig, tomllib.loads(text)))
    return Parts(store.Store(Path(folder), {"config": text}), plan)


def read(
    folder: str | os.PathLike[str], columns: Sequence[str] | None, partial: bool
) -> pd.DataFrame:
    """See `jaxsched.read_sweep`."""
    path = Path(folder) / "results.parquet"
    if path.exists():
        try:
            return store.read_parquet(path, columns)[0]
        except ValueError as error:
            raise ValueError(f"{error}; {ALL_AGAIN}") from None
    parts = open_parts(folder)
    missing = sum(stop - start for start, stop in parts.missing())
    if missing and not (partial and missing < parts.plan.total):
        raise FileNotFoundError(
            f"{folder}: {missing:,} of {parts.plan.total:,} simulations are missing; run `jaxsched "
            "sweep` again, or read what is there with partial=True"
        )
    frame = pd.concat(list(parts.tables()), ignore_index=True)
    return frame if columns is None else frame[list(columns)]
