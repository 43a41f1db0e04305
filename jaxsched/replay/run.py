"""Runs one policy after another on a trace, and tabulates what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pandas as pd

from jaxsched import clocks, frames, metrics, policies
from jaxsched.instance import Instance
from jaxsched.replay.config import ReplayConfig
from jaxsched.replay.load import Loaded
from jaxsched.result import Result
from jaxsched.serving import frames as serving_frames
from jaxsched.simulate import simulate

PERCENTILES = (50, 90, 99)
"""Of the latency in rounds; under a clock they are those of `jaxsched.metrics`."""


def run(
    config: ReplayConfig, loaded: Loaded, on_policy: Callable[[str], Any] = lambda _: None
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Simulates one policy after another; `on_policy` is called with the name of each before it.

    Yields:
      A table of one row (see `jaxsched.frames`): without a clock with `latency_figures`, under one
      with the metrics of serving. And one with a row per request (`frames.request_frame`,
      `serving.frames.served_frame`), which has the options --seed and --memory as columns, the
      request's number in order of arrival as `request` and its line in the file (of Parquet its
      row) as `line`.
    """
    batch = jax.tree.map(lambda leaf: np.asarray(leaf)[None], loaded.instance)
    clock = None if config.clock is None else clocks.clock(config.clock)
    tabulate = _in_rounds if clock is None else _in_seconds
    for name in config.policies:
        policy = policies.policy(name)
        on_policy(policy.name)
        result = simulate(
            batch, policy, clock=clock, max_batch=config.max_batch, history=clock is not None
        )
        about = {
            "policy": policy.name,
            "seed": pd.array([config.seed] * len(loaded.rows), "Int64"),
            "memory": config.memory,
            "request": loaded.rows,
            "line": loaded.trace.line,
        }
        yield tabulate(config, batch, result, about)


def _in_rounds(
    config: ReplayConfig, batch: Instance, result: Result, about: dict[str, Any]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    requests = frames.request_frame(batch, result, **about)
    bound = frames.bound_of(batch)
    row = frames.result_frame(batch, result, bound, policy=about["policy"], lane=0)
    return row.assign(**latency_figures(requests["latency"])), requests


def _in_seconds(
    config: ReplayConfig, batch: Instance, result: Result, about: dict[str, Any]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    assert config.clock is not None  # or it would be in rounds
    found = metrics.serving(
        batch,
        result,
        clocks.clock(config.clock),
        energy=clocks.energy(config.clock),
        ttft_limit=config.ttft_limit,
        tpot_limit=config.tpot_limit,
    )
    columns = {"policy": about["policy"], "lane": 0, "clock": config.clock}
    row = serving_frames.serving_frame(batch, result, found, **columns)
    return row, serving_frames.served_frame(batch, result, **about)


def latency_figures(latency: pd.Series) -> dict[str, float]:
    """`unfinished` requests, and P50, P90 and P99 of the others as `latency_p50` and so on.

    By linear interpolation; NaN where no request finished.
    """
    known = latency.dropna().to_numpy(np.int64)
    quantiles = np.percentile(known, PERCENTILES) if len(known) else [np.nan] * len(PERCENTILES)
    named = {f"latency_p{q}": float(x) for q, x in zip(PERCENTILES, quantiles, strict=True)}
    return {"unfinished": len(latency) - len(known), **named}
