"""`jaxsched capacity`: the largest rate at which each policy keeps a service level on a trace."""

from __future__ import annotations

import argparse
import contextlib

import pandas as pd

from jaxsched.cli.resume import kept_in
from jaxsched.cli.simulate_command import notes_on, say_kinds, settings_of
from jaxsched.report import study_tables
from jaxsched.report.terminal import console, progress_bar, say, show
from jaxsched.studies import capacity, replay, store
from jaxsched.studies.run import Point


def run(args: argparse.Namespace) -> None:
    """Searches for one policy after another, prints a table and writes what --out asks for."""
    settings, out = settings_of(args, capacity.CapacityConfig, arrivals="trace"), console(args.form)
    with out.status("reading the trace"):
        loaded = replay.load_requests(settings)
    say_kinds(out, settings)
    work = capacity.work_of(settings, loaded)
    with progress_bar(out) as bar, contextlib.ExitStack() as stack:
        task = bar.add_task("", total=len(work.points))

        def on_point(point: Point, finished: bool) -> None:
            bar.update(task, description=point.label)
            bar.advance(task, 1 if finished else 0)

        if args.out is None:
            tables = []
            for point in work.points:
                on_point(point, False)
                tables.append(point.table())
                on_point(point, True)
            tried = pd.concat(tables, ignore_index=True)
        else:
            stack.enter_context(kept_in(args.out))
            tried = work.run(args.out, on_point)
            store.open_store(args.out, work.text).finish(capacity.told(settings, tried), "capacity")
    told = capacity.told(settings, tried)
    show(
        out,
        study_tables.capacity_table(told, settings.slo, settings.at),
        args.form,
        notes_on(loaded),
    )
    if args.out is not None:
        say(out, f"results:  {args.out / 'capacity.parquet'}")
        say(out, f"tried:    {args.out / 'results.parquet'} ({len(tried):,} simulations)")
