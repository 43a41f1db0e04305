"""`jaxsched sweep` and `jaxsched report`, once their arguments are read."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich import progress
from rich.console import Console

from jaxsched import tables
from jaxsched.studies import run as runs
from jaxsched.studies import store, toml
from jaxsched.studies.estimate import estimate
from jaxsched.studies.plan import Plan, Range
from jaxsched.studies.rows import Simulator
from jaxsched.studies.run import Processes, join_processes
from jaxsched.studies.sweep import SweepConfig, open_parts, plan_of
from jaxsched.terminal import duration, progress_bar, say, size


def sweep(args: argparse.Namespace) -> None:
    """`jaxsched sweep`: every simulation of a configuration that is not there yet."""
    processes = Processes()
    if args.distributed or args.coordinator or args.num_processes:
        processes = join_processes(args.coordinator, args.num_processes, args.process_id)
    console = tables.console()
    console.quiet = not processes.first
    settings = toml.load(args.config, SweepConfig)
    plan = plan_of(settings)
    simulator = Simulator(plan, args.engine, args.chunk)
    folder = args.out or Path("out") / args.config.stem
    share = plan.share(processes.index, processes.count)
    if args.dry_run:
        _announce(console, plan, simulator, share, share, processes, args.chunk)
        return
    parts = open_parts(settings, plan, folder)
    with runs.alone(folder, processes), _kept(console, folder):
        ranges = parts.missing(share)
        if ranges:
            _announce(console, plan, simulator, share, ranges, processes, args.chunk)
            _run(console, simulator, parts, ranges, args.chunk)
        _finish(console, parts, processes)


@contextmanager
def _kept(console: Console, folder: Path) -> Iterator[None]:
    """Says how to go on after an interruption, and of a full disk where."""
    kept = f"finished chunks are kept in {folder}; run the same command again to go on"
    try:
        yield
    except KeyboardInterrupt:
        say(console, f"the current chunk is dropped, {kept}")
        raise
    except OSError as error:
        where = "" if str(folder) in str(error) else f"{folder}: "
        raise OSError(f"{where}{error}; {kept}") from None


def _announce(
    console: Console,
    plan: Plan,
    simulator: Simulator,
    share: list[Range],
    ranges: list[Range],
    processes: Processes,
    chunk: int | None,
) -> None:
    """Says what there is to do and what it is expected to take."""
    say(console, f"{plan.total:,} simulations: {_axes(plan)}")
    if simulator.different < plan.total:
        say(console, f"          {simulator.different:,} different ones, as some policies read no "
            "prediction")  # fmt: skip
    with console.status("estimating, with a few small runs"):
        guess = estimate(simulator, ranges, chunk)
    rows = sum(stop - start for start, stop in ranges)
    there = sum(stop - start for start, stop in share) - rows
    whose = f" of process 1 of {processes.count}" if processes.count > 1 else ""
    say(console, f"to do:    {rows:,}{whose}" + (f"; {there:,} are there" if there else ""))
    kinds = guess.per_request.size
    say(console, f"time:     about {duration(guess.seconds)} on {store.device()} "
        f"({'' if 2 * guess.tried >= kinds else 'rough: '}from {guess.tried} of {kinds} kinds of "
        "simulation)")  # fmt: skip
    say(console, f"memory:   about {size(guess.memory)} at most")
    programs = f"{len(guess.programs)} programs" if guess.programs else "none; native engine"
    more = f", about {duration(guess.compiling)}" if guess.compiling else ""
    say(console, f"compiles: {programs}{more}")
    for text in sorted(set(guess.programs)):
        say(console, f"          {text}")


def _axes(plan: Plan) -> str:
    """The sizes of the axes that have several values."""
    sizes = {**plan.sizes, "lanes": plan.study.lanes}
    texts = [f"{size:,} {name.replace('_', ' ')}" for name, size in sizes.items() if size > 1]
    return " × ".join(texts) or "one of everything"


def _run(
    console: Console,
    simulator: Simulator,
    parts: runs.Parts,
    ranges: list[Range],
    chunk: int | None,
) -> None:
    """Simulates with a progress bar."""
    rows = sum(stop - start for start, stop in ranges)
    began = time.perf_counter()
    rate = progress.TextColumn("{task.fields[rate]}/s")
    with progress_bar(console, rate) as bar:
        task = bar.add_task(f"{rows:,} simulations", total=rows, rate="–")

        def on_rows(count: int) -> None:
            bar.advance(task, count)
            done = bar.tasks[0].completed
            bar.update(task, rate=f"{done / (time.perf_counter() - began):,.0f}")

        runs.run_rows(simulator, parts, ranges, chunk=chunk, on_rows=on_rows)
    spent = time.perf_counter() - began
    say(console, f"{rows:,} simulations in {duration(spent)}, {rows / spent:,.0f} a second")


def _finish(console: Console, parts: runs.Parts, processes: Processes) -> None:
    """Makes the table.

    Raises:
      ValueError: If rows are missing, as another process failed or wrote elsewhere.
    """
    with console.status("waiting for the other processes" if processes.count > 1 else "writing"):
        missing = runs.finish(parts, processes)
    if missing:
        rows = sum(stop - start for start, stop in missing)
        raise ValueError(
            f"{rows:,} of {parts.plan.total:,} simulations are not in {parts.store.folder}: run "
            "the same command again, or put the parts/ of the other machines there first"
        )
    if processes.first:
        say(console, f"results:  {parts.results} ({parts.plan.total:,} rows)")
        say(console, f"figures:  jaxsched report {parts.store.folder}")


def report(args: argparse.Namespace) -> None:
    """`jaxsched report`: the figures and the page of a sweep."""
    from jaxsched.sweep import report as reports  # here, as only this needs matplotlib

    console = tables.console()
    with console.status("drawing"):
        paths = reports.write(args.folder)
    for path in paths:
        say(console, f"{'page:  ' if path.suffix == '.html' else 'figure:'} {path}")
