"""`python -m benchmarks`: measures, shows progress, and writes a table of results."""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.report import Report
    from benchmarks.scale import Scale
    from benchmarks.section import Section

RESULTS = Path(__file__).with_name("results")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    sections = _sections()
    options = _parser(list(sections)).parse_args(arguments)
    if options.peer_python:
        from benchmarks.peer import PYTHON

        os.environ[PYTHON] = options.peer_python
    if options.vllm_python:
        from benchmarks.vllm import PYTHON

        os.environ[PYTHON] = options.vllm_python
    if options.compiler_python:
        from benchmarks.compiled import PYTHON

        os.environ[PYTHON] = options.compiler_python
    from benchmarks.scale import FULL, QUICK

    chosen = tuple(sections[name] for name in options.only or sections)
    report = measure(chosen, QUICK if options.quick else FULL, _command(options))
    parts = [report.facts["date"], _slug(), *(["quick"] if options.quick else [])]
    path = report.save(options.out, "-".join(parts + (options.only or [])))
    print(report.markdown())
    print(f"written to {path}", file=sys.stderr)
    return 1 if report.failures else 0


def measure(sections: tuple[Section, ...], scale: Scale, command: str) -> Report:
    """Runs every job of the sections; one that fails is noted and does not stop the others."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from benchmarks.machine import describe
    from benchmarks.report import Report

    facts = {"date": datetime.date.today().isoformat(), "command": command, **describe()}
    jobs = [(section.name, job) for section in sections for job in section.jobs(scale)]
    report = Report(facts, sections, {}, {})
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())  # fmt: skip
    begun = time.perf_counter()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("benchmarks", total=len(jobs))
        for name, job in jobs:
            progress.update(bar, description=f"{name}: {job.label}")
            started = time.perf_counter()
            try:
                report.results.setdefault(name, []).extend(job.run())
            except Exception as error:
                report.failures[f"{name}: {job.label}"] = f"{type(error).__name__}: {error}"
            progress.console.print(f"{time.perf_counter() - started:7.1f} s  {name}: {job.label}")
            progress.advance(bar)
    facts["took"] = f"{(time.perf_counter() - begun) / 60:.1f} minutes"
    return report


def _sections() -> dict[str, Section]:
    _prepare_jax()
    if importlib.util.find_spec("numba") is None:
        raise SystemExit("the benchmarks need numba: pip install numba")
    from benchmarks import (
        accelerator,
        compiled,
        engines,
        growth,
        loop,
        peer,
        processes,
        readers,
        relaxation,
        steps,
        tricks,
        vllm,
    )

    found = (
        engines.ENGINES, engines.REFERENCE, growth.GROWTH, growth.UNEVEN, processes.PARALLEL,
        processes.STARTUP, processes.MEMORY, readers.READERS, loop.LOOP, steps.STEPS,
        tricks.TRICKS, peer.PEER, vllm.WORKER, relaxation.RELAXATION, compiled.COMPILED,
        accelerator.ACCELERATOR,
    )  # fmt: skip
    return {section.name: section for section in found}


def _prepare_jax() -> None:
    """A CPU device for each core, as the command line has it; only before JAX has started."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import jax

    from jaxsched.machine.cores import cores

    if jax.config.jax_num_cpu_devices < 0:
        jax.config.update("jax_num_cpu_devices", cores())


def _parser(names: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer sizes: a few minutes")
    parser.add_argument("--only", nargs="+", choices=names, metavar="TABLE",
                        help=f"only these tables: {', '.join(names)}")  # fmt: skip
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    parser.add_argument("--peer-python", help="a Python that can import ai-dynamo-runtime")
    parser.add_argument("--vllm-python", help="a Python that can import vllm")
    parser.add_argument("--compiler-python", help="a Python with the compilers for a GPU or TPU")
    return parser


def _command(options: argparse.Namespace) -> str:
    """What was typed, without paths of this machine."""
    words = ["python", "-m", "benchmarks", *(["--quick"] if options.quick else [])]
    words += ["--only", *options.only] if options.only else []
    words += ["--peer-python", "PYTHON"] if options.peer_python else []
    words += ["--vllm-python", "PYTHON"] if options.vllm_python else []
    words += ["--compiler-python", "PYTHON"] if options.compiler_python else []
    return f"`{shlex.join(words)}`"


def _slug() -> str:
    from benchmarks.machine import slug

    return slug()


if __name__ == "__main__":
    sys.exit(main())
