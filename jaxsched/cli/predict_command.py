"""`jaxsched predict`: trains a predictor of output lengths, and adds its intervals to requests."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from jaxsched import toml
from jaxsched.cli.resume import folder_of, kept_in
from jaxsched.predict import data, pipeline, predictor
from jaxsched.predict.config import PredictConfig
from jaxsched.report import predictor_page
from jaxsched.report.terminal import console, progress_bar, say, show
from jaxsched.studies import store


def run(args: argparse.Namespace) -> None:
    """Trains or applies."""
    {"train": _train, "apply": _apply}[args.action](args)


def _train(args: argparse.Namespace) -> None:
    names = ("data", "columns", "seed")
    keys = {name: value for name in names if (value := getattr(args, name)) is not None}
    settings = toml.load(args.config, PredictConfig, keys)
    folder, out = folder_of(args), console(args.form)
    with kept_in(folder, args.config, "finished epochs are"), progress_bar(out, "loss") as bar:
        tasks = {
            kind: bar.add_task(f"the {kind}", total=settings.training.epochs, loss="", start=False)
            for kind in predictor.HEAD_KINDS
        }

        def on_epoch(kind: str, epoch: int, loss: float) -> None:
            bar.start_task(tasks[kind])
            bar.update(tasks[kind], completed=epoch, loss=f"loss {loss:.4f}")

        trained, report = pipeline.fit_and_report(settings, folder, on_epoch)
        for kind, task in tasks.items():
            # It stopped early, or the data have nothing to train it on.
            bar.update(task, total=bar.tasks[task].completed or 1, visible=kind in trained.params)
    show(out, predictor_page.answer_of(report), args.form)
    for path in predictor_page.write(folder, report):
        say(out, f"{'page:     ' if path.suffix == '.html' else 'figure:   '} {path}")
    say(out, f"report:    {folder / 'report.json'}")
    say(out, f"predictor: {folder}; use it with jaxsched predict apply {folder} REQUESTS")


def _apply(args: argparse.Namespace) -> None:
    loaded, out = predictor.load(args.predictor), console()
    found = data.frame(args.requests)
    named = dict(pair.partition("=")[::2] for pair in args.columns or ())
    named = {"text": "text", "prompt": "prompt"} | named
    for field in named:
        toml.one_of("columns", field, ("text", "prompt"))
    prompts = _prompts(loaded, args.requests, found, named)
    given = np.asarray(prompts) if isinstance(prompts, np.ndarray) else list(prompts)
    lower, upper = loaded.interval(given, args.coverage)
    if args.level is not None:
        lower = loaded.lower(given, args.level)
        upper = np.maximum(lower, upper)
    frame = found
    # The text is not needed any more, and often should not travel.
    frame = frame.drop(columns=named["text"], errors="ignore")
    frame = frame.assign(lower=lower, upper=upper)
    about = {"predictor": loaded.digest, "coverage": str(args.coverage), "level": str(args.level)}
    store.write_parquet(args.out, frame, about)
    say(out, f"requests: {args.out} ({len(frame):,} rows, with columns lower and upper)")
    columns = {"prompt": named["prompt"], "output": "output", "lower": "lower", "upper": "upper"}
    more = ""
    if named["prompt"] not in frame:  # a length for all will do
        del columns["prompt"]
        more = " --prompt S"
    pairs = [f"{x}={name if name in frame else 'COLUMN'}" for x, name in columns.items()]
    say(out, f"next: jaxsched simulate {args.out} --memory 16492 --columns {','.join(pairs)}{more}")


def _prompts(
    loaded: predictor.Predictor, path: Path, found: pd.DataFrame, named: dict[str, str]
) -> predictor.Prompts:
    """The texts if there are such and the predictor reads them, or else the token counts."""
    if "text" in loaded.params and named["text"] in found:
        return data.texts_in(path, found, named["text"])
    if "length" in loaded.params and named["prompt"] in found:
        return data.tokens_of(path, found, named["prompt"])
    kinds = (("text", "text"), ("prompt", "length"))
    wanted = " or ".join(repr(named[field]) for field, kind in kinds if kind in loaded.params)
    raise ValueError(
        f"{path}: has the columns {', '.join(map(str, found))}; expected {wanted}, or their "
        "names in --columns"
    )
