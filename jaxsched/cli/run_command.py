"""`jaxsched run`: a study of a configuration file, then its table and figures."""

from __future__ import annotations

import argparse
from typing import Any

from jaxsched import toml
from jaxsched.cli.resume import finished, folder_of, kept_in, replaced, say_figures, say_notes
from jaxsched.report import reports
from jaxsched.report.terminal import console, say, show
from jaxsched.studies import serving
from jaxsched.studies.backlog import BacklogConfig
from jaxsched.studies.config import used_elsewhere

JOBS = {"backlog": BacklogConfig, serving.JOB: serving.ServingConfig}
"""Kinds of studies and their configurations; a file without the key `job` describes a backlog."""


def run(args: argparse.Namespace) -> None:
    """Runs what is left of the study, prints its table and draws its figures."""
    config = JOBS[toml.job_of(args.config, JOBS)]
    keys = replaced(args, lanes="lanes", seed="seed", policies="policies")
    settings: Any = toml.load(args.config, config, keys)
    folder, out = folder_of(args), console(args.form)
    random = getattr(settings, "trace", None) is None
    if not random:
        with toml.naming(args.config):
            say_notes(out, settings.requests())
    for line in used_elsewhere(
        settings.policies, workers=[getattr(settings, "worker", None)],
        arrivals=["poisson" if hasattr(settings, "rates") else "backlog"],
        clocks=[getattr(settings, "clock", None)], predictions=settings.predictions,
        lengths=[settings.lengths.text] if random else [],
    ):  # fmt: skip
        say(out, line)
    with kept_in(folder, args.config):
        work = settings.work()
    (table,) = finished(work, folder, out, args.config)
    with kept_in(folder):
        report = reports.of_folder(folder)
    show(out, report.answer, args.form)
    say(out, f"results: {folder / 'results.parquet'} ({len(table):,} rows)")
    with kept_in(folder):
        say_figures(out, report.drawings, folder)
    say(out, f"page:    jaxsched report {folder} makes one to send")
