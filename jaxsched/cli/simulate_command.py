"""`jaxsched simulate`: a trace under each policy."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import pandas as pd
from rich.console import Console

from jaxsched import toml
from jaxsched.cli.resume import kept_in
from jaxsched.instance import Instance
from jaxsched.report import page, reports
from jaxsched.report.terminal import console, say, show
from jaxsched.result import Result
from jaxsched.studies import curves, frames, replay, store
from jaxsched.studies.config import used_elsewhere

Settings = TypeVar("Settings", bound=replay.ReplayConfig)


def run(args: argparse.Namespace) -> None:
    """Simulates one policy after another, prints a table and writes what options ask for."""
    if args.per_request and args.out is None:
        raise ValueError("--per-request writes a file; give a folder for it with --out")
    settings, out = settings_of(args, replay.ReplayConfig), console(args.form)
    with out.status("reading the trace"):
        loaded = replay.load_requests(settings)
    say_kinds(out, settings)
    if args.out or args.report:  # not for nothing: it reads the whole file
        settings = dataclasses.replace(settings, sha256=settings.section.with_digest().sha256)
    notes, kept, about = list(notes_on(loaded)), None, store.about(settings.text())
    if settings.worker and args.report:
        notes.append(reports.NO_TIMELINE)
    with contextlib.ExitStack() as stack:
        # Not earlier: a trace that is refused should leave no folder behind.
        if args.out:
            stack.enter_context(kept_in(args.out, what="what is written is"))
            kept, about = store.open_store(args.out, about["config"]), store.manifest(args.out)
            stack.enter_context(store.alone(args.out))
        found = _simulate(settings, loaded, out, watch=bool(kept or args.report),
                          per_request=args.per_request)  # fmt: skip
        report = reports.replay_report(args.trace.name, about, *found[:3], notes)
        if kept is not None:
            for name, table in zip(("results", *reports.CURVES), found, strict=False):
                kept.finish(table, name, notes=json.dumps(notes))
            if args.per_request:
                kept.finish(found[3], "requests")
        if args.report:
            drawings = page.laid_out(report.drawings)
            page.write_page(args.report, dataclasses.replace(report, drawings=drawings))
    show(out, report.answer, args.form, notes)
    if kept is not None:
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
    options["trace"] = str(args.trace)
    return toml.from_table(kind, options)


def say_kinds(out: Console, settings: replay.ReplayConfig) -> None:
    """Says which tuned rules were tuned for another kind of use."""
    for line in used_elsewhere(
        settings.policies, workers=[settings.worker], arrivals=[settings.arrivals],
        clocks=[settings.clock], predictions=[settings.interval or "columns"],
    ):  # fmt: skip
        say(out, line)


def _simulate(
    settings: replay.ReplayConfig,
    loaded: replay.Loaded,
    out: Console,
    *,
    watch: bool,
    per_request: bool,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The tables of all policies: results, distributions and timelines if watched, requests."""
    distributions, timelines = [pd.DataFrame()], [pd.DataFrame()]

    def on_result(policy: str, batch: Instance, result: Result) -> None:
        distributions.append(curves.distributions(batch, result, policy=policy))
        if settings.worker is None:  # elsewhere the history does not say what a round held
            timelines.append(curves.held_over_time(batch, result, policy=policy))

    with out.status("simulating") as status:
        found = replay.run_policies(
            settings, loaded,
            on_policy=lambda name: status.update(f"simulating {name}"),
            on_result=on_result if watch else None,
            per_request=per_request,
        )  # fmt: skip
        done = list(found)
        rows = _joined(row for row, _ in done)
        requests = _joined(each for _, each in done) if per_request else pd.DataFrame()
    if settings.clock is None:
        rows = frames.with_ratios(rows, ["lane"])
    return rows, _joined(distributions), _joined(timelines), requests


def _joined(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True)


def notes_on(loaded: replay.Loaded) -> Iterator[str]:
    """What a reader of the table should know about the trace."""
    yield from loaded.trace.notes()
    if (missed := loaded.missed) > 0.5:
        yield (
            f"{missed:.0%} of the predicted intervals miss the true length: is --interval right? "
            "policies that read predictions are told of other requests than those that come"
        )
