"""`jaxsched simulate`: a trace under each policy."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator

import pandas as pd

from jaxsched import toml
from jaxsched.policies.files import digest
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
        kept = store.open_store(args.out, settings.text()) if args.out else None
        done = list(
            replay.run_policies(settings, loaded, lambda name: status.update(f"simulating {name}"))
        )
    rows, requests = (pd.concat(parts, ignore_index=True) for parts in zip(*done, strict=True))
    if settings.clock is None:
        rows = frames.with_ratios(rows, ["lane"])
    out.print(*study_tables.replay(rows), sep="\n")
    for note in _notes(loaded):
        say(out, note)
    if kept is not None:
        say(out, f"results:  {kept.finish(rows)}")
    if kept is not None and args.per_request:
        say(out, f"requests: {kept.finish(requests, 'requests')}")


def _settings(args: argparse.Namespace) -> replay.ReplayConfig:
    """The options, which are the fields of `ReplayConfig`."""
    given = {key: value for key, value in vars(args).items() if value is not None}
    names = [field.name for field in dataclasses.fields(replay.ReplayConfig)]
    options = {name: given[name] for name in names if name in given}
    options |= {"trace": str(args.trace), "sha256": digest(args.trace)}
    return toml.from_table(replay.ReplayConfig, options)


def _notes(loaded: replay.Loaded) -> Iterator[str]:
    """What a reader of the table should know about the trace."""
    trace = loaded.trace
    if trace.unterminated:
        yield f"the last line of {trace.source} does not end in a newline; was it cut off?"
    if trace.moved:
        yield f"{trace.moved:,} rows were out of order, sorted by arrival"
    for count, why in ((loaded.too_large, "can never fit"), (trace.skipped, "no output")):
        if count:
            yield f"left out: {count:,} requests of the trace ({why})"
