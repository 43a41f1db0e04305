"""`jaxsched simulate`: a trace under each policy."""

from __future__ import annotations

import argparse
import dataclasses

import pandas as pd

from jaxsched import toml
from jaxsched.cli.resume import say_notes
from jaxsched.report import study_tables
from jaxsched.report.terminal import console, say
from jaxsched.studies import frames, replay, store


def run(args: argparse.Namespace) -> None:
    """Simulates one policy after another, prints a table and writes what --out asks for."""
    if args.per_request and args.out is None:
        raise ValueError("--per-request writes a file; give a folder for it with --out")
    settings = _settings(args)
    out = console()
    with out.status("reading the trace") as status:
        loaded = replay.load_requests(settings)
        # Not earlier: a trace that is refused should leave no folder behind.
        kept = None
        if args.out is not None:
            settings = dataclasses.replace(settings, sha256=settings.section.with_digest().sha256)
            kept = store.open_store(args.out, settings.text())
        done = list(
            replay.run_policies(settings, loaded, lambda name: status.update(f"simulating {name}"))
        )
    rows, requests = (pd.concat(parts, ignore_index=True) for parts in zip(*done, strict=True))
    if settings.clock is None:
        rows = frames.with_ratios(rows, ["lane"])
    out.print(*study_tables.replay(rows), sep="\n")
    say_notes(out, loaded.trace)
    if kept is not None:
        say(out, f"results:  {kept.finish(rows)}")
    if kept is not None and args.per_request:
        say(out, f"requests: {kept.finish(requests, 'requests')}")


def _settings(args: argparse.Namespace) -> replay.ReplayConfig:
    """The options, which are the fields of `ReplayConfig`."""
    given = {key: value for key, value in vars(args).items() if value is not None}
    names = [field.name for field in dataclasses.fields(replay.ReplayConfig)]
    options = {name: given[name] for name in names if name in given}
    options["trace"] = str(args.trace)
    return toml.from_table(replay.ReplayConfig, options)
