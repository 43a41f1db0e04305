"""`jaxsched worst-case`: an input on which a policy does badly, as a file and a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from rich.console import Console

import jaxsched as js
from jaxsched.engines import reference
from jaxsched.report import gantt, plots
from jaxsched.report.tables import Answer, table
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
    out = console()
    first, last = _evolved(game, args, out)
    total, evictions = game.replay(last.output)
    found = js.simulate(game.instance(last.output), game.policy)
    if (total, evictions) != (int(found.total_latency), int(found.evictions)):
        raise RuntimeError("the reference counts otherwise than the engine")
    least, most = adversary.proved_ratio(game, last.output)
    title = f"{game.policy.name} / {game.against}, M = {game.memory}, n = {game.requests}, "
    title += f"lengths in [{game.lower}, {game.upper}]"
    rows = (
        ("worst case made by hand", f"{first.ratio:.3f}"),
        ("worst case found", f"{last.ratio:.3f}"),
        ("more than by hand", f"{last.ratio / first.ratio - 1:.1%}"),
        ("its total latency / optimum", f"{least:.3f} to {most:.3f}"),
        ("its evictions", f"{evictions:,}"),
    )
    show(out, Answer(title, (table(["total latency"], [("", rows)]),), (), pd.DataFrame(rows)))
    _write(game, last.output, args.out, out)


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


def _write(game: adversary.Game, output: adversary.Lengths, folder: Path, out: Console) -> None:
    columns = {name: getattr(game.instance(output), name) for name in
               ("prompt", "output", "lower", "upper", "point")}  # fmt: skip
    path = folder / "worst_case.csv"
    folder.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(columns)
    store.write_atomically(path, lambda partial: frame.to_csv(partial, index=False))
    say(out, f"instance: {path}; simulate it with")
    fields = ",".join(f"{name}={name}" for name in ("prompt", "output", "lower", "upper"))
    say(out, f"jaxsched simulate {path} --columns {fields} --memory {game.memory} --policies "
        f"h_sf,{game.policy.name}")  # fmt: skip
    if game.requests > adversary.LARGEST_REPLAY:
        return
    requests = [reference.Request(*row) for row in frame.assign(a=0)[
        ["prompt", "output", "lower", "upper", "a", "point"]].to_numpy().tolist()]  # fmt: skip
    drawn = {
        policy.name: reference.simulate(requests, game.memory, policy)
        for policy in (game.policy, js.h_sf())
    }
    figure = gantt.schedules(requests, game.memory, drawn)
    say(out, f"figure:   {plots.save(figure, folder / 'worst_case')} (and .pdf)")
