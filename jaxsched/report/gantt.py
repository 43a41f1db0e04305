"""A picture of one schedule: which requests run when, what was lost, and the memory in use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jaxsched import policies
from jaxsched.engines import reference
from jaxsched.engines.reference import COMPLETED, Outcome, Request
from jaxsched.report import looks, plots
from jaxsched.studies.adversary import LARGEST_REPLAY


def of_case(path: Path, memory: int, name: str) -> Figure | None:
    """The schedules of a policy and of h_sf on the requests of a file; None if they are many."""
    frame = pd.read_csv(path)
    if len(frame) > LARGEST_REPLAY:
        return None
    columns = frame.assign(a=0)[["prompt", "output", "lower", "upper", "a", "point"]]
    requests = [reference.Request(*row) for row in columns.to_numpy().tolist()]
    rules = (policies.policy(name), policies.policy("h_sf"))
    drawn = {rule.name: reference.simulate(requests, memory, rule) for rule in rules}
    return schedules(requests, memory, drawn)


@looks.in_house_style
def schedules(requests: Sequence[Request], memory: int, outcomes: dict[str, Outcome]) -> Figure:
    """A panel for each schedule of the same requests, by what it is called; the same rounds in all.

    A line per request in order of its index, black for the run that completes and red for those
    that were evicted; below it the share of the memory in use.
    """
    figure = Figure(figsize=(3.6 * len(outcomes), 4.2), layout="constrained")
    grid: Any = figure.subplots(
        2, len(outcomes), squeeze=False, sharex=True, sharey="row", height_ratios=(4, 1)
    )
    for (name, outcome), above, below in zip(outcomes.items(), *grid, strict=True):
        runs = [(i, run) for i, own in enumerate(outcome.runs) for run in own]
        for color, what, kept in (("#D55E00", "evicted", False), ("#000000", "completed", True)):
            chosen = [(i, run) for i, run in runs if (run.how == COMPLETED) == kept]
            rows = [i for i, _ in chosen]
            starts, ends = [run.admitted for _, run in chosen], [run.ended for _, run in chosen]
            width = min(2.0, 200 / len(requests))
            above.hlines(rows, starts, ends, color=color, lw=width, label=what)
        use = np.zeros(max(run.ended for _, run in runs) + 1)
        for i, run in runs:
            use[run.admitted : run.ended] += (
                requests[i].prompt + 1 + np.arange(run.ended - run.admitted)
            )
        below.plot(use / memory, color=looks.FAINT, lw=0.8, drawstyle="steps-post")
        plots.subtitle(above, f"{name}: mean {outcome.total_latency / len(requests):,.0f} rounds")
    grid[0][0].set_ylabel("request")
    grid[0][0].invert_yaxis()
    grid[1][0].set_ylabel("use of M")
    figure.supxlabel("round", fontsize=9)
    plots.legend_above(figure, grid[0][0])
    return figure
