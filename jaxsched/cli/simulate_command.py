"""`jaxsched simulate`: a trace under each policy."""

from __future__ import annotations

import argparse
import dataclasses
import json
import tomllib
from typing import Any, TypeVar

import pandas as pd
from rich.console import Console

from jaxsched import toml
from jaxsched.cli.resume import finished
from jaxsched.report import page, reports
from jaxsched.report.terminal import console, say, show
from jaxsched.studies import replay, store
from jaxsched.studies.config import used_elsewhere
from jaxsched.studies.curves import CURVES

Settings = TypeVar("Settings", bound=replay.ReplayConfig)


def run(args: argparse.Namespace) -> None:
    """Simulates one policy after another, prints a table and writes what options ask for."""
    if args.per_request and args.out is None:
        raise ValueError("--per-request writes a file; give a folder for it with --out")
    settings, out = settings_of(args, replay.ReplayConfig), console(args.form)
    with out.status("reading the trace"):
        loaded = replay.load_requests(settings)
    say_kinds(out, settings)
    watched = bool(args.out or args.report)
    if watched:  # not for nothing: it reads the whole file
        settings = settings.with_digest()
    notes = list(loaded.trace.notes())
    if settings.worker and args.report:
        notes.append(reports.NO_TIMELINE)
    work = replay.replay_work(settings, loaded, watched=watched, per_request=args.per_request,
                          notes=json.dumps(notes))  # fmt: skip
    rows, *more = finished(work, args.out, out)
    about = store.manifest(args.out) if args.out else store.about(settings.text())
    config = tomllib.loads(about["config"])
    times, held = (more if watched else [pd.DataFrame()] * 2)[: len(CURVES)]
    report = reports.replay_report(args.trace.name, config, rows, times, held, notes)
    if args.report:
        text = page.page(reports.completed(report, about, config))
        store.write_text(args.report, text)
    show(out, report.answer, args.form, notes)
    if args.out:
        say(out, f"results:  {args.out / 'results.parquet'}")
    if args.per_request:
        say(out, f"requests: {args.out / 'requests.parquet'}")
    if args.report:
        say(out, f"page:     {args.report}")


def settings_of(args: argparse.Namespace, kind: type[Settings], **default: Any) -> Settings:
    """The options, which are the fields of a kind of `ReplayConfig`."""
    given = default | {key: value for key, value in vars(args).items() if value is not None}
    names = [field.name for field in dataclasses.fields(kind)]
    options = {name: given[name] for name in names if name in given}
    options["path"] = str(args.trace)
    return toml.from_table(kind, options)


def say_kinds(out: Console, settings: replay.ReplayConfig) -> None:
    """Says which tuned rules were tuned for another kind of use."""
    for line in used_elsewhere(
        settings.policies, workers=[settings.worker], arrivals=[settings.arrivals],
        clocks=[settings.clock], predictions=[settings.interval or "columns"],
    ):  # fmt: skip
        say(out, line)
