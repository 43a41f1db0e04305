"""Drawing in the house style: panels, lines with bands, axes, legends, files."""

from __future__ import annotations

import dataclasses
import io
import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from jaxsched.machine import faults
from jaxsched.report.formats import plain
from jaxsched.report.looks import FAINT, look_of
from jaxsched.studies import store
from jaxsched.studies.axes import YARDSTICK


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure of a report."""

    name: str  # of its files
    figure: Figure | None  # None if it is left out
    title: str = ""
    caption: str = ""  # what was held, and how to read it; of one that is left out, why


def panels(
    count: int, columns: int, size: tuple[float, float], more: tuple[float, float] = (0, 0),
    least: float = 0, **shared: Any,
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """A figure with a grid of so many panels, in so many columns at most.

    In inches, `size` is that of a panel, `more` is beside them all, and `least` the least width
    that they have together; `shared` goes to `Figure.subplots`.
    """
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    across, down = max(size[0] * columns, least) + more[0], size[1] * rows + more[1]
    figure = Figure(figsize=(across, down), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **shared).ravel()
    for axes in grid[count:]:
        axes.set_visible(False)
    return figure, list(grid[:count])


def name_axes(figure: Figure, x: str, y: str) -> None:
    """Names the axes that all panels share."""
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)


def subtitle(axes: Axes, text: str) -> None:
    """A faint title on the left, in as many lines as it takes."""
    inches = axes.get_position().width * axes.figure.get_figure(root=True).get_figwidth()
    text = textwrap.fill(text, int(17 * inches), break_on_hyphens=False)
    axes.set_title(text, loc="left", color=FAINT)


def draw_policies(axes: Axes, table: pd.DataFrame, x: str, y: str) -> None:
    """A line with a confidence band for each policy of a table from `summarize`."""
    for policy in dict.fromkeys(table["policy"]):
        look = look_of(policy)
        line = table[table["policy"] == policy].sort_values(x)
        # The yardstick lies under the others so that lines which meet it can be seen.
        order = 2 if policy == YARDSTICK else 3
        axes.plot(
            line[x], line[y], color=look.color, marker=look.marker, ls=look.line,
            label=look.label, zorder=order, mec="white", mew=0.4,
        )  # fmt: skip
        band(axes, line, x, y, color=look.color, alpha=0.18, zorder=order)


def band(axes: Axes, line: pd.DataFrame, x: str, y: str, **how: Any) -> None:
    """The confidence band of a line, from columns `y` and `y`_ci."""
    axes.fill_between(line[x], line[y] - line[f"{y}_ci"], line[y] + line[f"{y}_ci"], lw=0, **how)


def label_ends(axes: Axes, table: pd.DataFrame, x: str, y: str) -> None:
    """Writes each policy's name at the right end of its line, moved apart where ends meet."""
    last = table[table[x] == table[x].max()].dropna(subset=[y]).sort_values(y)
    low, high = (math.log(limit) for limit in axes.get_ylim())
    gap = (high - low) * 0.062
    heights: list[float] = []
    for value in last[y]:
        wanted = math.log(value)
        heights.append(max(wanted, heights[-1] + gap) if heights else wanted)
    # What was pushed out at the top moves everything down by as much.
    excess = max(0.0, heights[-1] - high) if heights else 0.0
    for policy, height in zip(last["policy"], heights, strict=True):
        look = look_of(policy)
        axes.annotate(
            look.label, (1.0, (height - excess - low) / (high - low)), xycoords="axes fraction",
            xytext=(4, 0), textcoords="offset points", va="center", color=look.color, fontsize=8,
            annotation_clip=False,
        )  # fmt: skip


def plain_log_axis(axes: Axes) -> None:
    """A logarithmic y axis with plain numbers: 1, 2, 5, 10 … rather than powers of ten."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    subs: Sequence[float] = (1, 2, 5) if high / low < 300 else (1,)
    if high / low < 4:
        subs = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 7)
    axes.yaxis.set_major_locator(LogLocator(subs=subs) if high / low > 1.5 else MaxNLocator(5))
    axes.yaxis.set_minor_locator(NullLocator())
    write_ticks(axes.yaxis)


def write_ticks(axis: Axis, form: Callable[[float], str] = plain) -> None:
    """Writes the numbers of an axis in this form."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))


def legend_above(figure: Figure, axes: Axes, columns: int = 4) -> None:
    """One legend for all panels, above them, of so many columns at most."""
    handles, labels = axes.get_legend_handles_labels()
    columns = min(columns, len(labels))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, handlelength=2.6)


def save(figure: Figure, stem: Path) -> Path:
    """Writes `stem`.png and `stem`.pdf, each whole or not at all; returns the path of the PNG."""
    # No date, so that the same results give the same file.
    for suffix, metadata in ((".png", None), (".pdf", {"CreationDate": None})):
        drawn = io.BytesIO()  # matplotlib loses its way where a disk refuses
        figure.savefig(drawn, format=suffix[1:], dpi=200, metadata=metadata)
        write = partial(Path.write_bytes, data=drawn.getvalue())
        store.write_atomically(stem.with_suffix(suffix), write)
    return stem.with_suffix(".png")


def save_all(drawings: Iterable[Drawing], folder: Path) -> list[Path]:
    """Writes the figures that are not left out; returns the paths of the PNGs.

    ValueError if the folder is a link to somewhere else.
    """
    faults.refuse_link(folder)
    return [save(one.figure, folder / one.name) for one in drawings if one.figure is not None]
