"""What the commands of `jaxsched` do, once their arguments are read."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from jaxsched import tables
from jaxsched.serving import tables as serving_tables
from jaxsched.studies import frames, replay, serving, store, toml
from jaxsched.studies.backlog import BacklogConfig
from jaxsched.studies.config import digest
from jaxsched.studies.run import Point
from jaxsched.sweep import command as sweep_command
from jaxsched.terminal import progress_bar, say


@dataclasses.dataclass(frozen=True)
class Job:
    """A kind of job that a configuration file can describe.

    Attributes:
      config: Its dataclass.
      table: table -> what is printed.
      figures: (table, folder) -> paths of the figures written.
    """

    config: type[Any]
    table: Callable[[pd.DataFrame], tuple[Any, ...]]
    figures: Callable[[pd.DataFrame, Path], list[Path]]


def _draw(frame: pd.DataFrame, folder: Path) -> list[Path]:
    from jaxsched import plots  # here because other commands do not need matplotlib

    return plots.write_all(frame, folder)


def _draw_serving(frame: pd.DataFrame, folder: Path) -> list[Path]:
    from jaxsched.serving import plots

    return plots.write_all(frame, folder)


JOBS = {
    "backlog": Job(BacklogConfig, tables.job_table, _draw),
    serving.JOB: Job(serving.ServingConfig, serving_tables.job_table, _draw_serving),
}  # fmt: skip
"""Kinds of jobs; a file without the key `job` describes a backlog."""


def run(args: argparse.Namespace) -> None:
    """`jaxsched run`: a job, then its table and figures."""
    chosen = {"lanes": args.lanes, "seed": args.seed}
    overrides = {key: value for key, value in chosen.items() if value is not None}
    kind = JOBS[toml.job_of(args.config, JOBS)]
    settings = toml.load(args.config, kind.config, overrides)
    folder = args.out or Path("out") / args.config.stem
    console = tables.console()
    try:
        frame = _run_with_progress(settings, folder, console)
    except ValueError as error:
        raise ValueError(f"{args.config}: {error}") from None
    except KeyboardInterrupt:
        say(console, f"what is finished is kept in {folder}; run the same again to go on")
        raise
    console.print(*kind.table(frame), sep="\n")
    say(console, f"results: {folder / 'results.parquet'} ({len(frame):,} rows)")
    for path in kind.figures(frame, folder / "figures"):
        say(console, f"figure:  {path} (and .pdf)")
    if kind.config is BacklogConfig and (reason := _why_no_ratio(frame)):
        say(console, f"figure:  no ratio_against_width, since {reason}")


def _why_no_ratio(frame: pd.DataFrame) -> str | None:
    from jaxsched import plots

    return plots.why_no_ratio(frame)


def _run_with_progress(settings: Any, folder: Path, console: Console) -> pd.DataFrame:
    with progress_bar(console) as bar:
        work = settings.work()
        task = bar.add_task("", total=sum(point.requests for point in work.points))

        def on_point(point: Point, finished: bool) -> None:
            bar.update(task, description=point.label)
            bar.advance(task, point.requests if finished else 0)

        return work.run(folder, on_point)


def simulate(args: argparse.Namespace) -> None:
    """`jaxsched simulate`: a trace under each policy."""
    if args.per_request and args.out is None:
        raise ValueError("--per-request writes a file; give a folder for it with --out")
    settings = _replay_config(args)
    console = tables.console()
    with console.status("reading the trace") as status:
        loaded = replay.load(settings)
        # Not earlier: a trace that is refused should leave no folder behind.
        kept = store.open_store(args.out, settings.text()) if args.out else None
        done = list(replay.run(settings, loaded, lambda name: status.update(f"simulating {name}")))
    rows, requests = (pd.concat(parts, ignore_index=True) for parts in zip(*done, strict=True))
    if settings.clock is None:
        rows = frames.with_ratios(rows, ["lane"])
        console.print(*tables.replay_table(rows), sep="\n")
    else:
        console.print(*serving_tables.replay_table(rows), sep="\n")
    for note in _notes(loaded):
        say(console, note)
    if kept is not None:
        say(console, f"results:  {kept.finish(rows)}")
    if kept is not None and args.per_request:
        say(console, f"requests: {kept.finish(requests, 'requests')}")


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
    options |= {"trace": str(args.trace), "sha256": digest(args.trace)}
    return toml.from_table(replay.ReplayConfig, options)


def tune(args: argparse.Namespace) -> None:
    """`jaxsched tune`: see `jaxsched.tuning.command`."""
    from jaxsched.tuning import command  # here because other commands do not need matplotlib

    command.tune(args)


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "run": run,
    "simulate": simulate,
    "sweep": sweep_command.sweep,
    "report": sweep_command.report,
    "tune": tune,
}
