"""`jaxsched capacity`: the largest rate at which each policy keeps a service level on a trace."""

from __future__ import annotations

import argparse

from jaxsched.cli.resume import finished, kept_in
from jaxsched.cli.simulate_command import say_kinds, settings_of
from jaxsched.report import study_tables
from jaxsched.report.terminal import console, say, show
from jaxsched.studies import capacity, replay, store


def run(args: argparse.Namespace) -> None:
    """Searches for one policy after another, prints a table and writes what --out asks for."""
    settings, out = settings_of(args, capacity.CapacityConfig, arrivals="trace"), console(args.form)
    with out.status("reading the trace"):
        loaded = replay.load_requests(settings)
    say_kinds(out, settings)
    work = capacity.capacity_work(settings, loaded)
    (tried,) = finished(work, args.out, out)
    told = capacity.told(settings, tried)
    if args.out is not None:
        with kept_in(args.out):
            store.open_store(args.out, work.text).finish(told, "capacity")
    show(
        out,
        study_tables.capacity_table(told, settings.slo, settings.at),
        args.form,
        loaded.trace.notes(),
    )
    if args.out is not None:
        say(out, f"results:  {args.out / 'capacity.parquet'}")
        say(out, f"tried:    {args.out / 'results.parquet'} ({len(tried):,} simulations)")
