"""The report of a sweep: one HTML page that needs nothing else, and its figures as files."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context

from jaxsched.report import plots
from jaxsched.report.formats import shown
from jaxsched.report.plots import Drawing
from jaxsched.report.sweep_figures import drawings
from jaxsched.report.sweep_view import SweepView
from jaxsched.studies import read_sweep, store
from jaxsched.studies import sweep as sweeps
from jaxsched.studies.frames import summarize

_MOST_ROWS = 40
"""Policies in the table of the page; of more, the best."""

PAGE_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 2rem auto;
  max-width: 62rem; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block;
  overflow-x: auto }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #e3e3e3 }
th:first-child, td:first-child { text-align: left }
figure { margin: 1rem 0 } figure img { max-width: 100%; height: auto }
figcaption, .note { color: #555; font-size: .87rem }
pre { background: #f5f5f5; padding: .7rem 1rem; overflow-x: auto; font-size: .83rem }
"""


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
        *((one.title, _figure(one)) for one in drawn),
        ("Axes", _axes(sweep)),
        ("Configuration", _code(manifest["config"])),
        ("How to reproduce", _reproduce(manifest)),
    ]
    title = escape(name)
    parts = "\n".join(f"<h2>{escape(name)}</h2>\n{section}" for name, section in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{title}</title>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{PAGE_STYLE}</style></head><body>\n"
        f"<h1>Sweep {title}</h1>\n<p>{rows}{unfinished}.</p>\n{parts}\n</body></html>\n"
    )


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
        for policy in sweep.best(seen.rows, "mean_latency", _MOST_ROWS)
        for row in [summary.loc[policy]]
    ]  # fmt: skip
    about = f"{seen.held}; means over {seen.instances:,} instances, ± half a 95 % interval"
    return f"{_table(header, rows)}\n{_note(about)}"


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
    return _table(("axis", "values", ""), rows, left=True)


def _reproduce(manifest: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    command = _code("jaxsched sweep config.toml --out DIR\njaxsched report DIR")
    read = _code('import jaxsched as js\n\nframe = js.read_sweep("DIR")')
    about = (
        f"{versions}; begun on {manifest['device']}, {manifest['started']}. "
        "Figures are also in figures/, as PNG and PDF."
    )
    return (
        f"<p>Save the configuration above as config.toml, then</p>\n{command}\n<p>gives the same "
        "table, row by row, on any number of devices and processes. In Python:</p>"
        f"{read}\n{_note(about)}"
    )


def _code(text: str) -> str:
    """Text as it is, in a box."""
    return f"<pre>{escape(text)}</pre>"


def _note(text: str) -> str:
    """A remark in small print."""
    return f'<p class="note">{escape(text)}</p>'


def _table(header: Iterable[str], rows: Iterable[Iterable[str]], left: bool = False) -> str:
    """A table of texts, the first column on the left, the others on the right or all `left`."""

    def line(tag: str, cells: Iterable[str]) -> str:
        style = ' style="text-align:left"' if left else ""
        return "<tr>" + "".join(f"<{tag}{style}>{escape(c)}</{tag}>" for c in cells) + "</tr>"

    return "<table>" + line("th", header) + "".join(line("td", row) for row in rows) + "</table>"


def _figure(one: Drawing) -> str:
    """A figure within the page, with its caption."""
    assert one.figure is not None  # or it was left out
    image = io.BytesIO()
    # The same results give the same page: no date, and no random names.
    with rc_context({"svg.hashsalt": one.name}):
        one.figure.savefig(image, format="svg", metadata={"Date": None})
    data = base64.b64encode(image.getvalue()).decode()
    return (
        f'<figure><img alt="{escape(one.title)}" src="data:image/svg+xml;base64,{data}">\n'
        f"<figcaption>{escape(one.caption)}</figcaption></figure>"
    )
