"""`jaxsched tune`, once its arguments are read."""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path

from rich import progress
from rich.console import Console

from jaxsched import plots, tables
from jaxsched.studies import toml
from jaxsched.studies.config import digest
from jaxsched.terminal import progress_bar, say
from jaxsched.tuning import report, search
from jaxsched.tuning.config import TuneConfig
from jaxsched.tuning.loop import Progress
from jaxsched.tuning.method import Method
from jaxsched.tuning.problem import Problem
from jaxsched.tuning.rules import lengths_text


def tune(args: argparse.Namespace) -> None:
    """`jaxsched tune`: searches a rule, compares the methods, writes the rule."""
    settings = _settings(args)
    folder = args.out or Path("out") / args.config.stem
    console = tables.console()
    try:
        with console.status("drawing the instances"):
            problem = Problem(settings)
        outcome = _run_with_progress(settings, problem, folder, console)
    except (KeyboardInterrupt, RuntimeError, ValueError) as error:
        # Where Ctrl-C falls into a callback, XLA makes an error of its own of it.
        if isinstance(error, KeyboardInterrupt) or "KeyboardInterrupt" in str(error):
            say(console, f"what is done is kept in {folder}; run the same again to go on")
            raise KeyboardInterrupt from None
        if isinstance(error, ValueError):
            raise ValueError(f"{args.config}: {error}") from None
        raise
    console.print(*report.table(settings, outcome), sep="\n")
    say(console, f"rule:    {outcome.rule}; use it as --policies tuned:{outcome.rule}")
    figure = report.score_against_work(outcome.curves, lengths_text(settings))
    path = plots.save(figure, folder / "figures" / "score_against_work")
    say(console, f"figure:  {path} (and .pdf)")
    say(console, f"results: {folder / 'results.parquet'}, methods.parquet, curves.parquet")


def _settings(args: argparse.Namespace) -> TuneConfig:
    """The file's configuration with what the command line replaces."""
    given = {"seed": args.seed, "descent.steps": args.steps, "trace.path": args.trace}
    overrides = {key: value for key, value in given.items() if value is not None}
    settings = toml.load(args.config, TuneConfig, overrides)
    if settings.trace is None:
        return settings
    found = digest(settings.trace.path)
    if settings.trace.sha256 not in ("", found):
        raise ValueError(
            f"{args.config}: trace.sha256: got {settings.trace.sha256!r}; expected {found!r}, "
            f"that of {settings.trace.path}"
        )
    return dataclasses.replace(settings, trace=dataclasses.replace(settings.trace, sha256=found))


def _run_with_progress(
    settings: TuneConfig, problem: Problem, folder: Path, console: Console
) -> search.Outcome:
    chosen = search.methods(settings, problem, search.space_of(settings))
    score = progress.TextColumn("{task.fields[score]}")
    with progress_bar(console, score) as bar:
        tasks = {
            method.name: bar.add_task(method.label, total=method.steps, score="", start=False)
            for method in chosen
        }

        def on_step(method: Method, done: Progress) -> None:
            task = tasks[method.name]
            bar.start_task(task)
            bar.update(task, completed=int(done.steps), score=_live(done))

        return search.run(settings, problem, chosen, folder, on_step)


def _live(done: Progress) -> str:
    """The latest figures: best ratio to h_sf on the validation instances, and work."""
    if not math.isfinite(done.score):
        return ""
    return f"best {math.exp(done.score):.4f} h_sf, {tables.count(int(done.work))} requests"
