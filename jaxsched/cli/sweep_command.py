"""`jaxsched sweep`: every simulation of a configuration file that is not there yet."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import time

import pyarrow.parquet as pq
from rich.console import Console

from jaxsched import toml
from jaxsched.cli.resume import folder_of, kept_in, replaced, say_notes
from jaxsched.report.formats import duration, size
from jaxsched.report.study_tables import missed_notes
from jaxsched.report.terminal import console, progress_bar, say
from jaxsched.studies import run as runs
from jaxsched.studies import store
from jaxsched.studies.config import used_elsewhere
from jaxsched.studies.estimate import estimate_costs
from jaxsched.studies.plan import Plan, RowRange
from jaxsched.studies.rows import Simulator
from jaxsched.studies.run import Parts, Processes, join_processes
from jaxsched.studies.sweep import SweepConfig


def run(args: argparse.Namespace) -> None:
    """Announces what there is to do, does it, and makes the table."""
    processes, told = Processes(), (args.coordinator, args.num_processes, args.process_id)
    if args.distributed or told != (None, None, None):
        processes = join_processes(*told)
    out = console()
    out.quiet = not processes.first
    settings = toml.load(args.config, SweepConfig, replaced(args, policies="policies"))
    plan = Plan(settings.study())
    work = _Work(out, Simulator(plan, args.engine, args.chunk), processes, args.chunk)
    folder, share = folder_of(args), plan.share(processes.index, processes.count)
    titles = plan.values.titles
    for line in used_elsewhere(
        titles["policies"], workers=titles["workers"], arrivals=titles["arrivals"],
        clocks=titles["clocks"], predictions=titles["predictions"], lengths=titles["workloads"],
    ):  # fmt: skip
        say(out, line)
    for path in settings.files():
        say_notes(out, settings.requests(path))
    if args.dry_run:
        work.announce(share, share)
        return
    parts = Parts(store.open_store(folder, settings.text()), plan)
    what = "the current chunk is dropped, finished chunks are"
    lock = store.alone(folder) if processes.first else contextlib.nullcontext()
    with lock, kept_in(folder, what=what):
        ranges = parts.missing(share)
        if ranges:
            work.announce(share, ranges)
            work.simulate(parts, ranges)
        work.finish(parts)


@dataclasses.dataclass(frozen=True)
class _Work:
    """What one process does, and where it says so."""

    out: Console
    simulator: Simulator
    processes: Processes
    chunk: int | None

    def announce(self, share: list[RowRange], ranges: list[RowRange]) -> None:
        """Says what there is to do and what it is expected to take."""
        plan = self.simulator.plan
        self._say("", f"{plan.total:,} simulations: {_axes(plan)}")
        if self.simulator.different < plan.total:
            self._say(" ", f"{self.simulator.different:,} different ones, as some policies read no "
                "prediction")  # fmt: skip
        with self.out.status("estimating, with a few small runs"):
            guess = estimate_costs(self.simulator, ranges, self.chunk)
        rows, mine = (sum(stop - start for start, stop in some) for some in (ranges, share))
        whose = f" of process 1 of {self.processes.count}" if self.processes.count > 1 else ""
        there = f"; {mine - rows:,} are there" if mine > rows else ""
        self._say("to do:", f"{rows:,}{whose}{there}")
        kinds = guess.per_request.size
        rough = "" if 2 * guess.tried >= kinds else "rough: "
        self._say("time:", f"about {duration(guess.seconds)} on {store.device()} "
            f"({rough}from {guess.tried} of {kinds} kinds of simulation)")  # fmt: skip
        self._say("memory:", f"about {size(guess.memory)} at most")
        programs = f"{len(guess.programs)} programs" if guess.programs else "none; native engine"
        more = f", about {duration(guess.compiling)}" if guess.compiling else ""
        self._say("compiles:", f"{programs}{more}")
        for text in sorted(set(guess.programs)):
            self._say(" ", text)

    def simulate(self, parts: Parts, ranges: list[RowRange]) -> None:
        """Simulates with a progress bar."""
        rows = sum(stop - start for start, stop in ranges)
        began = time.perf_counter()
        with progress_bar(self.out, "rate") as bar:
            task = bar.add_task(f"{rows:,} simulations", total=rows, rate="–/s")

            def on_rows(count: int) -> None:
                bar.advance(task, count)
                done = bar.tasks[0].completed
                bar.update(task, rate=f"{done / (time.perf_counter() - began):,.0f}/s")

            runs.run_rows(self.simulator, parts, ranges, chunk=self.chunk, on_rows=on_rows)
        spent = time.perf_counter() - began
        self._say("", f"{rows:,} simulations in {duration(spent)}, {rows / spent:,.0f} a second")

    def finish(self, parts: Parts) -> None:
        """Makes the table.

        Raises:
          ValueError: If rows are missing, as another process failed or wrote elsewhere.
        """
        several = self.processes.count > 1
        with self.out.status("waiting for the other processes" if several else "writing"):
            missing = runs.finish(parts, self.processes)
        if missing:
            rows = sum(stop - start for start, stop in missing)
            raise ValueError(
                f"{rows:,} of {parts.plan.total:,} simulations are not in {parts.store.folder}: "
                "run the same command again, or put the parts/ of the other machines there first"
            )
        if self.processes.first:
            self._say("results:", f"{parts.results} ({parts.plan.total:,} rows)")
            self._say("figures:", f"jaxsched report {parts.store.folder}")
            there = pq.read_schema(parts.results).names
            few = [name for name in ("prediction", "missed") if name in there]
            for warning in missed_notes(store.read_parquet(parts.results, few)[0]):
                say(self.out, warning)

    def _say(self, title: str, text: str) -> None:
        say(self.out, f"{title:<9} {text}" if title else text)


def _axes(plan: Plan) -> str:
    """The sizes of the axes that have several values."""
    sizes = {**plan.sizes, "lanes": plan.study.lanes}
    texts = [f"{size:,} {name.replace('_', ' ')}" for name, size in sizes.items() if size > 1]
    return " × ".join(texts) or "one of everything"
