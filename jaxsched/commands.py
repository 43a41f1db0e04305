"""What the commands of `jaxsched` do, once their arguments are read."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
from rich import progress
from rich.console import Console

from jaxsched import config, frames, job, replay, store, tables


def run(args: argparse.Namespace) -> None:
    """`jaxsched run`: the main job, then its table and figures."""
    from jaxsched import plots  # here because no other command needs matplotlib

    chosen = {"lanes": args.lanes, "seed": args.seed}
    overrides = {key: value for key, value in chosen.items() if value is not None}
    settings = config.load(args.config, config.JobConfig, overrides)
    folder = args.out or Path("out") / args.config.stem
    console = tables.console()
    try:
        frame = _run_with_progress(settings, folder, console)
    except ValueError as error:
        raise ValueError(f"{args.config}: {error}") from None
    except KeyboardInterrupt:
        _say(console, f"what is finished is kept in {folder}; run the same again to go on")
        raise
    console.print(*tables.job_table(frame), sep="\n")
    _say(console, f"results: {folder / 'results.parquet'} ({len(frame):,} rows)")
    for path in plots.write_all(frame, folder / "figures"):
        _say(console, f"figure:  {path} (and .pdf)")
    if reason := plots.why_no_ratio(frame):
        _say(console, f"figure:  no ratio_against_width, since {reason}")


def _run_with_progress(settings: config.JobConfig, folder: Path, console: Console) -> pd.DataFrame:
    columns = (
        progress.TextColumn("{task.description:<28}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=console) as bar:
        total = sum(point.cost(settings) for point in job.points(settings))
        task = bar.add_task("", total=total)

        def on_point(point: job.Point, finished: bool) -> None:
            bar.update(task, description=f"n = {point.n:,}  {point.policy.name}")
            bar.advance(task, point.cost(settings) if finished else 0)

        return job.run(settings, folder, on_point)


def simulate(args: argparse.Namespace) -> None:
    """`jaxsched simulate`: a trace under each policy."""
    if args.per_request and args.out is None:
        raise ValueError("--per-request writes a file; give a folder for it with --out")
    settings = _replay_config(args)
    console = tables.console()
    with console.status("reading the trace") as status:
        loaded = replay.load(settings)
        # Not earlier: a trace that is refused should leave no folder behind.
        kept = store.open_store(args.out, config.to_toml(settings)) if args.out else None
        done = list(replay.run(settings, loaded, lambda name: status.update(f"simulating {name}")))
    rows, requests = (pd.concat(parts, ignore_index=True) for parts in zip(*done, strict=True))
    rows = frames.with_ratios(rows, ["lane"])
    console.print(*tables.replay_table(rows), sep="\n")
    for note in _notes(loaded):
        _say(console, note)
    if kept is not None:
        _say(console, f"results:  {kept.finish(rows)}")
    if kept is not None and args.per_request:
        _say(console, f"requests: {kept.finish(requests, 'requests')}")


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


def _replay_config(args: argparse.Namespace) -> replay.ReplayConfig:
    given = {key: value for key, value in vars(args).items() if value is not None}
    names = [field.name for field in dataclasses.fields(replay.ReplayConfig)]
    options = {name: given[name] for name in names if name in given}
    options |= {"trace": str(args.trace), "sha256": replay.digest(args.trace)}
    return config.from_table(replay.ReplayConfig, options)


def _say(console: Console, text: str) -> None:
    """Prints a line as it is: paths are not wrapped to the terminal's width."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {"run": run, "simulate": simulate}
