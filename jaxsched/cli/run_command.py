"""`jaxsched run`: a study of a configuration file, then its table and figures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from jaxsched import toml
from jaxsched.cli.resume import folder_of, kept_in, replaced, say_notes
from jaxsched.report import figures, plots, study_tables
from jaxsched.report.terminal import console, progress_bar, say
from jaxsched.studies import serving
from jaxsched.studies.backlog import BacklogConfig
from jaxsched.studies.run import Point

JOBS = {
    "backlog": (BacklogConfig, study_tables.backlog_job, figures.of_backlog),
    serving.JOB: (serving.ServingConfig, study_tables.serving_job, figures.of_serving),
}
"""Kinds of studies: configuration, what is printed of its table, and what is drawn.

A file without the key `job` describes a backlog.
"""


def run(args: argparse.Namespace) -> None:
    """Runs what is left of the study, prints its table and draws its figures."""
    config, printed, drawings = JOBS[toml.job_of(args.config, JOBS)]
    keys = replaced(args, lanes="lanes", seed="seed", policies="policies")
    settings: Any = toml.load(args.config, config, keys)
    folder, out = folder_of(args), console()
    if getattr(settings, "trace", None) is not None:
        with toml.naming(args.config):
            say_notes(out, settings.requests())
    with kept_in(folder, out, args.config):
        frame = _run_with_progress(settings, folder, out)
    out.print(*printed(frame), sep="\n")
    say(out, f"results: {folder / 'results.parquet'} ({len(frame):,} rows)")
    drawn = list(drawings(frame))
    for path in plots.save_all(drawn, folder / "figures"):
        say(out, f"figure:  {path} (and .pdf)")
    for one in drawn:
        if one.figure is None:
            say(out, f"figure:  no {one.name}, since {one.caption}")


def _run_with_progress(settings: Any, folder: Path, out: Console) -> pd.DataFrame:
    with progress_bar(out) as bar:
        work = settings.work()
        task = bar.add_task("", total=sum(point.requests for point in work.points))

        def on_point(point: Point, finished: bool) -> None:
            bar.update(task, description=point.label)
            bar.advance(task, point.requests if finished else 0)

        return work.run(folder, on_point)
