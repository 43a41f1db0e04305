"""`jaxsched worst-case`: an input on which a policy does badly, as a file and a picture."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd
from rich.console import Console

import jaxsched as js
from jaxsched import toml
from jaxsched.report import plots, reports
from jaxsched.report.terminal import console, progress_bar, say, show
from jaxsched.studies import adversary, store


def run(args: argparse.Namespace) -> None:
    """Evolves cases, prints how bad the worst is, and writes it with a picture of its schedule."""
    if not 0 < args.alpha <= 1:
        raise ValueError(f"alpha is {args.alpha}; expected more than 0 and at most 1")
    upper = args.memory - args.prompt
    game = adversary.Game(
        js.policy(args.policy), args.against, args.memory, args.requests,
        max(1, round(args.alpha * upper)), upper, args.prompt,
    )  # fmt: skip
    out = console(args.form)
    first, last = _evolved(game, args, out)
    changes = 0
    if args.check:
        *_, around = adversary.worsen(game, last.output)
        changes = around.number
        last = adversary.Generation(last.number, around.output, around.ratio)
    total, evictions = game.replay(last.output)
    found = js.simulate(game.instance(last.output), game.policy)
    if (total, evictions) != (int(found.total_latency), int(found.evictions)):
        raise RuntimeError("the reference counts otherwise than the engine")
    least, most = adversary.proved_ratio(game, last.output)
    row = {
        "policy": game.policy.name, "against": game.against, "memory": game.memory,
        "n": game.requests, "lower": game.lower, "upper": game.upper,
        "ratio_by_hand": first.ratio, "ratio": last.ratio, "least": least, "most": most,
        "evictions": evictions, "changes": changes,
    }  # fmt: skip
    options = ("policy", "against", "alpha", "memory", "requests", "prompt", "lanes",
               "generations", "seed", *["check"] * args.check)  # fmt: skip
    about = store.about(toml.to_toml({name: getattr(args, name) for name in options}))
    _write(game, last.output, args.out)
    store.write_text(args.out / "manifest.json", json.dumps(about, indent=2) + "\n")
    texts = {"config": about["config"]}
    store.write_parquet(args.out / "results.parquet", pd.DataFrame([row]), texts)
    report = reports.of_folder(args.out)
    show(out, report.answer, args.form)
    path = args.out / "worst_case.csv"
    say(out, f"instance: {path}; simulate it with")
    fields = ",".join(f"{name}={name}" for name in ("prompt", "output", "lower", "upper"))
    say(out, f"jaxsched simulate {path} --columns {fields} --memory {game.memory} --policies "
        f"h_sf,{game.policy.name}")  # fmt: skip
    for drawing in report.drawings:
        if drawing.figure is not None:
            path = plots.save(drawing.figure, args.out / "worst_case")
            say(out, f"figure:   {path} (and .pdf)")


def _evolved(
    game: adversary.Game, args: argparse.Namespace, out: Console
) -> tuple[adversary.Generation, adversary.Generation]:
    """The worst case made by hand and the worst one found."""
    seen = []
    with progress_bar(out) as bar:
        task = bar.add_task("", total=args.generations + 1)
        for one in adversary.evolve(game, args.lanes, args.generations, args.seed):
            seen.append(one)
            bar.update(task, advance=1, description=f"{one.number}: {one.ratio:.3f}")
    return seen[0], seen[-1]


def _write(game: adversary.Game, output: adversary.CaseOutputs, folder: Path) -> None:
    names = ("prompt", "output", "lower", "upper", "point")
    frame = pd.DataFrame({name: getattr(game.instance(output), name) for name in names})
    path = folder / "worst_case.csv"
    store.write_atomically(path, lambda partial: frame.to_csv(partial, index=False))
