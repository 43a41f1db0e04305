"""`jaxsched run`: a study of a configuration file, then its table and figures."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from jaxsched import config, job
from jaxsched.cli.resume import folder_of, kept_in, named, replaced
from jaxsched.report import figures, plots, study_tables
from jaxsched.report.plots import Drawing
from jaxsched.report.terminal import console, progress_bar, say
from jaxsched.serving import config as serving_config
from jaxsched.serving import job as serving_job


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of study that a configuration file can describe.

    Attributes:
      config: Its dataclass.
      points: configuration -> the parts that it is made of.
      run: (configuration, folder, called before and after each point) -> its table.
      printed: table -> what is printed.
      figures: table -> what is drawn.
    """

    config: type[Any]
    points: Callable[[Any], Sequence[Any]]
    run: Callable[[Any, Path, Callable[[Any, bool], Any]], pd.DataFrame]
    printed: Callable[[pd.DataFrame], study_tables.Printed]
    figures: Callable[[pd.DataFrame], Iterator[Drawing]]


KINDS = {
    "backlog": Kind(
        config.JobConfig, job.points, job.run, study_tables.backlog, figures.of_backlog
    ),
    serving_config.JOB: Kind(
        serving_config.ServingConfig, serving_job.points, serving_job.run,
        study_tables.serving_job, figures.of_serving,
    ),
}  # fmt: skip
"""Kinds of studies; a file without the key `job` describes a backlog."""


def run(args: argparse.Namespace) -> None:
    """Runs what is left of the study, prints its table and draws its figures."""
    kind = KINDS[config.job_of(args.config, KINDS)]
    keys = replaced(args, lanes="lanes", seed="seed", policies="policies")
    settings = config.load(args.config, kind.config, keys)
    folder, out = folder_of(args), console()
    with named(args.config), kept_in(out, folder):
        frame = _run_with_progress(kind, settings, folder, out)
    out.print(*kind.printed(frame), sep="\n")
    say(out, f"results: {folder / 'results.parquet'} ({len(frame):,} rows)")
    drawn = list(kind.figures(frame))
    for path in plots.save_all(drawn, folder / "figures"):
        say(out, f"figure:  {path} (and .pdf)")
    for one in drawn:
        if one.figure is None:
            say(out, f"figure:  no {one.name}, since {one.caption}")


def _run_with_progress(kind: Kind, settings: Any, folder: Path, out: Console) -> pd.DataFrame:
    with progress_bar(out) as bar:
        total = sum(point.cost(settings) for point in kind.points(settings))
        task = bar.add_task("", total=total)

        def on_point(point: Any, finished: bool) -> None:
            bar.update(task, description=point.label)
            bar.advance(task, point.cost(settings) if finished else 0)

        return kind.run(settings, folder, on_point)
