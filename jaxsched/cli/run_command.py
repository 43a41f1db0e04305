"""`jaxsched run`: a study of a configuration file, then its table and figures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxsched import toml
from jaxsched.cli.resume import folder_of, kept_in, replaced, say_notes
from jaxsched.report import plots, reports
from jaxsched.report.terminal import console, progress_bar, say, show
from jaxsched.studies import serving
from jaxsched.studies.backlog import BacklogConfig
from jaxsched.studies.config import used_elsewhere
from jaxsched.studies.run import Point

JOBS = {"backlog": BacklogConfig, serving.JOB: serving.ServingConfig}
"""Kinds of studies and their configurations; a file without the key `job` describes a backlog."""


def run(args: argparse.Namespace) -> None:
    """Runs what is left of the study, prints its table and draws its figures."""
    config = JOBS[toml.job_of(args.config, JOBS)]
    keys = replaced(args, lanes="lanes", seed="seed", policies="policies")
    settings: Any = toml.load(args.config, config, keys)
    folder, out = folder_of(args), console(args.form)
    if getattr(settings, "trace", None) is not None:
        with toml.naming(args.config):
            say_notes(out, settings.requests())
    random = getattr(settings, "trace", None) is None
    for line in used_elsewhere(
        settings.policies, workers=[getattr(settings, "worker", None)],
        arrivals=["poisson" if hasattr(settings, "rates") else "backlog"],
        clocks=[getattr(settings, "clock", None)], predictions=settings.predictions,
        lengths=[settings.lengths.text] if random else [],
    ):  # fmt: skip
        say(out, line)
    with kept_in(folder, args.config):
        rows = _run_with_progress(settings, folder, out)
        report = reports.of_folder(folder)
    show(out, report.answer, args.form)
    say(out, f"results: {folder / 'results.parquet'} ({rows:,} rows)")
    with kept_in(folder):
        for path in plots.save_all(report.drawings, folder / "figures"):
            say(out, f"figure:  {path} (and .pdf)")
    for one in report.drawings:
        if one.figure is None:
            say(out, f"figure:  no {one.name}, since {one.caption}")
    say(out, f"page:    jaxsched report {folder} makes one to send")


def _run_with_progress(settings: Any, folder: Path, out: Console) -> int:
    with progress_bar(out) as bar:
        work = settings.work()
        task = bar.add_task("", total=sum(point.requests for point in work.points))

        def on_point(point: Point, finished: bool) -> None:
            bar.update(task, description=point.label)
            bar.advance(task, point.requests if finished else 0)

        return len(work.run(folder, on_point))
