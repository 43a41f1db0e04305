"""`jaxsched tune`: searches a rule, compares the methods, writes the rule."""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path

from rich.console import Console

from jaxsched import toml
from jaxsched.cli.resume import folder_of, kept_in, replaced, say_figures, say_notes
from jaxsched.report import reports
from jaxsched.report.formats import count
from jaxsched.report.terminal import console, progress_bar, say, show
from jaxsched.tuning import search
from jaxsched.tuning.config import TuneConfig
from jaxsched.tuning.loop import Progress
from jaxsched.tuning.methods import Method
from jaxsched.tuning.problem import Problem


def run(args: argparse.Namespace) -> None:
    """Runs what is left of the tuning, prints its table and draws its figure."""
    settings = _settings(args)
    folder, out = folder_of(args), console(args.form)
    with kept_in(folder, args.config, "what is done is"):
        with out.status("drawing the instances"):
            problem = Problem(settings)
        if problem.trace is not None:
            say_notes(out, problem.trace)
        outcome = _run_with_progress(settings, problem, folder, out)
        report = reports.of_folder(folder)
    show(out, report.answer, args.form)
    say(out, f"rule:    {outcome.rule}; use it as --policies tuned:{outcome.rule}")
    with kept_in(folder):
        say_figures(out, report.drawings, folder)
    say(out, f"results: {folder / 'results.parquet'}, methods.parquet, curves.parquet")
    say(out, f"page:    jaxsched report {folder} makes one to send")


def _settings(args: argparse.Namespace) -> TuneConfig:
    """The file's configuration with what the command line replaces."""
    keys = replaced(
        args, seed="seed", steps="descent.steps", lengths="lengths", predictions="predictions"
    )
    settings = toml.load(args.config, TuneConfig, keys)
    if settings.trace is None:
        return settings
    with toml.naming(args.config):
        return dataclasses.replace(settings, trace=settings.trace.with_digest())


def _run_with_progress(
    settings: TuneConfig, problem: Problem, folder: Path, out: Console
) -> search.Found:
    chosen = search.methods(settings, problem, search.space_of(settings))
    with progress_bar(out, "score") as bar:
        tasks = {
            method.name: bar.add_task(method.label, total=method.steps, score="", start=False)
            for method in chosen
        }

        def on_step(method: Method, done: Progress) -> None:
            task = tasks[method.name]
            bar.start_task(task)
            bar.update(task, completed=int(done.steps), score=_live(done, settings.against[0]))

        return search.run_search(settings, problem, chosen, folder, on_step)


def _live(done: Progress, yardstick: str) -> str:
    """The latest figures: best ratio to the yardstick on the validation instances, and work."""
    if not math.isfinite(done.score):
        return ""
    return f"best {math.exp(done.score):.4f} {yardstick}, {count(int(done.work))} requests"
