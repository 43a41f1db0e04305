"""The report of a sweep: one HTML page that needs nothing else, and its figures as files."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from jaxsched.report import html, plots
from jaxsched.report.formats import shown
from jaxsched.report.plots import Drawing
from jaxsched.report.sweep_figures import drawings
from jaxsched.report.sweep_view import SweepView
from jaxsched.studies import read_sweep, store
from jaxsched.studies import sweep as sweeps
from jaxsched.studies.frames import summarize

MOST_ROWS = 40
"""Policies in the table of the page; of more, the best."""


def write(folder: Path) -> list[Path]:
    """Writes report.html and figures/ into the folder of a sweep; returns the paths.

    What there is of a sweep that is not finished is reported as such.

    Raises:
      FileNotFoundError: If there is no sweep, or nothing of it is finished.
      ValueError: If a file of it is damaged.
    """
    manifest = sweeps.manifest(folder)
    sweep = SweepView(read_sweep(folder, partial=True))
    drawn = laid_out(drawings(sweep))
    paths = plots.save_all(drawn, folder / "figures")
    text = page(folder, manifest, sweep, drawn)
    path = folder / "report.html"
    store.write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return [*paths, path]


def laid_out(drawn: Iterable[Drawing]) -> list[Drawing]:
    """The figures laid out once and for all: every file would do it again, a little differently."""
    drawn = list(drawn)
    for figure in filter(None, (one.figure for one in drawn)):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    return drawn


def page(folder: Path, manifest: dict[str, Any], sweep: SweepView, drawn: Iterable[Drawing]) -> str:
    """The page as HTML."""
    finished = (folder / "results.parquet").exists()
    rows, name = f"{len(sweep.frame):,} simulations", folder.resolve().name
    unfinished = "" if finished else ", <strong>not finished yet</strong>"
    sections = [
        ("Policies", _policies(sweep)),
        *((one.title, html.figure(one)) for one in drawn),
        ("Axes", _axes(sweep)),
        ("Configuration", html.code(manifest["config"])),
        ("How to reproduce", _reproduce(manifest)),
    ]
    return html.page(name, f"<h1>Sweep {escape(name)}</h1>\n<p>{rows}{unfinished}.</p>", sections)


def _policies(sweep: SweepView) -> str:
    """A table of the policies where all other axes are held at typical values."""
    seen = sweep.slice([])
    summary = summarize(seen.rows, ["policy"]).set_index("policy")
    header = ("policy", f"mean latency ({sweep.time()})", "/ H-SF", "/ bound", "evictions",
              "wasted", "unfinished")  # fmt: skip
    rows = [
        (policy, _with_half(row, "mean_latency", ",.4g", ",.2g"),
         _with_half(row, "ratio_to_h_sf", ".3f", ".3f"), shown(row["ratio_to_bound"], ".3f"),
         shown(row["evictions"], ",.1f"), shown(row["wasted"], ".1%"), f"{int(row['unfinished'])}")
        for policy in sweep.best(seen.rows, "mean_latency", MOST_ROWS)
        for row in [summary.loc[policy]]
    ]  # fmt: skip
    about = f"{seen.held}; means over {seen.instances:,} instances, ± half a 95 % interval"
    return f"{html.table(header, rows)}\n{html.note(about)}"


def _with_half(row: pd.Series, name: str, form: str, half: str) -> str:
    mean, width = shown(row[name], form), shown(row[f"{name}_ci"], half)
    return mean if width == "–" else f"{mean} ± {width}"


def _axes(sweep: SweepView) -> str:
    rows = []
    for name, axis in sweep.axes.items():
        values = [axis.said(value) for value in sweep.values[name]]
        few = values if len(values) <= 12 else [*values[:10], "…", values[-1]]
        rows.append((name.replace("_", " "), f"{len(values):,}", "; ".join(few)))
    instances = len(sweep.frame[["seed", "lane"]].drop_duplicates())
    rows.append(("instances", f"{instances:,}", "seeds × lanes at each point"))
    return html.table(("axis", "values", ""), rows, left=True)


def _reproduce(manifest: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    command = html.code("jaxsched sweep config.toml --out DIR\njaxsched report DIR")
    read = html.code('import jaxsched as js\n\nframe = js.read_sweep("DIR")')
    about = (
        f"{versions}; begun on {manifest['device']}, {manifest['started']}. "
        "Figures are also in figures/, as PNG and PDF."
    )
    return (
        f"<p>Save the configuration above as config.toml, then</p>\n{command}\n<p>gives the same "
        "table, row by row, on any number of devices and processes. In Python:</p>"
        f"{read}\n{html.note(about)}"
    )
