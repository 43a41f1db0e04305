"""Gradients of the relaxation: limit, quality, cost. docs/relaxation.md says what comes out.

Usage:

    python -m experiments.gradients out/gradients

Writes limit, estimators, work, coordinates and cost as CSV, and figures, into the folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from rich.console import Console

from experiments.relaxation import cost, figures, limit, quality
from experiments.relaxation.cases import WORKLOADS
from jaxsched.report import plots, terminal


def main(folder: Path) -> None:
    """Runs everything."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = measured(Console())
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    drawn = {
        "relaxation_limit": figures.limit(tables["limit"]),
        "gradient_cosine": figures.cosine(tables["work"], "work"),
        "gradient_time": figures.cosine(tables["work"], "seconds"),
        "gradient_coordinates": figures.coordinates(tables["coordinates"]),
    }
    for name, figure in drawn.items():
        print(plots.save(figure, folder / name))


def measured(console: Console) -> dict[str, pd.DataFrame]:
    """All tables."""
    points = [(w, name, z) for w in WORKLOADS for name, z in w.points().items()]
    total = limit.ADVANCES + len(points) * quality.ADVANCES + cost.ADVANCES
    with terminal.progress_bar(console) as bar:
        task = bar.add_task("temperature", total=total)
        tables = {"limit": limit.table(lambda: bar.advance(task))}
        parts = []
        for workload, name, z in points:
            bar.update(task, description=f"{workload.name.split(',')[0]}, {name}")
            parts.append(quality.tables(workload, name, z, lambda: bar.advance(task)))
        for name in parts[0]:
            tables[name] = pd.concat([part[name] for part in parts], ignore_index=True)
        bar.update(task, description="cost")
        tables["cost"] = cost.table(lambda: bar.advance(task))
    return tables


if __name__ == "__main__":
    main(Path(sys.argv[1])) if len(sys.argv) == 2 else sys.exit(__doc__)
