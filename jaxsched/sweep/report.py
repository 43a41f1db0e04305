"""The report of a sweep: one HTML page that needs nothing else, and its figures as files."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context

from jaxsched import plots
from jaxsched.studies import read_sweep, store
from jaxsched.studies import sweep as sweeps
from jaxsched.studies.frames import summarize
from jaxsched.sweep.figures import drawings
from jaxsched.sweep.select import AXES, Drawing, Sweep, said

MOST_ROWS = 40
"""Policies in the table of the page; of more, the best."""

STYLE = """
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
    sweep = Sweep(read_sweep(folder, partial=True))
    drawn = laid_out(drawings(sweep))
    paths = [plots.save(one.figure, folder / "figures" / one.name) for one in drawn]
    text = page(folder, manifest, sweep, drawn)
    path = folder / "report.html"
    store.write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return [*paths, path]


def laid_out(drawn: Iterable[Drawing]) -> list[Drawing]:
    """The figures laid out once and for all: every file would do it again, a little differently."""
    drawn = list(drawn)
    for one in drawn:
        one.figure.draw_without_rendering()
        one.figure.set_layout_engine("none")
    return drawn


def page(folder: Path, manifest: dict[str, Any], sweep: Sweep, drawn: Iterable[Drawing]) -> str:
    """The page as HTML."""
    finished = (folder / "results.parquet").exists()
    rows = f"{len(sweep.frame):,} simulations"
    name = html.escape(folder.resolve().name)
    parts = [
        f"<h1>Sweep {name}</h1>",
        f"<p>{rows}{'' if finished else ', <strong>not finished yet</strong>'}.</p>",
        "<h2>Policies</h2>", *_policies(sweep),
        *(part for one in drawn for part in _figure(one)),
        "<h2>Axes</h2>", _axes(sweep),
        "<h2>Configuration</h2>", f"<pre>{html.escape(manifest['config'])}</pre>",
        "<h2>How to reproduce</h2>", *_reproduce(manifest, sweep),
    ]  # fmt: skip
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _policies(sweep: Sweep) -> list[str]:
    """A table of the policies where all other axes are held at typical values."""
    shown = sweep.slice([])
    summary = summarize(shown.rows, ["policy"]).set_index("policy")
    best = sweep.best(shown.rows, "mean_latency", MOST_ROWS)
    time = sweep.time(sweep.typical("clock"))
    header = ("policy", f"mean latency ({time})", "/ H-SF", "/ bound", "evictions", "wasted",
              "unfinished")  # fmt: skip
    rows = [
        (policy, _with_half(row, "mean_latency", ",.4g"), _with_half(row, "ratio_to_h_sf", ".3f"),
         _number(row["ratio_to_bound"], ".3f"), _number(row["evictions"], ",.1f"),
         _number(row["wasted"], ".1%"), f"{int(row['unfinished'])}")
        for policy in best for row in [summary.loc[policy]]
    ]  # fmt: skip
    note = f"{shown.held}; means over {shown.instances:,} instances, ± half a 95 % interval"
    return [_table(header, rows), f'<p class="note">{html.escape(note)}</p>']


def _with_half(row: pd.Series, name: str, form: str) -> str:
    mean, half = _number(row[name], form), _number(row[f"{name}_ci"], form.replace(",.4", ".2"))
    return mean if half == "–" else f"{mean} ± {half}"


def _number(value: float, form: str) -> str:
    return "–" if pd.isna(value) else format(value, form)


def _figure(one: Drawing) -> list[str]:
    image = io.BytesIO()
    # The same results give the same page: no date, and no random names.
    with rc_context({"svg.hashsalt": one.name}):
        one.figure.savefig(image, format="svg", metadata={"Date": None})
    data = base64.b64encode(image.getvalue()).decode()
    return [
        f"<h2>{html.escape(one.title)}</h2>",
        f'<figure><img alt="{html.escape(one.title)}" src="data:image/svg+xml;base64,{data}">',
        f"<figcaption>{html.escape(one.caption)}</figcaption></figure>",
    ]


def _axes(sweep: Sweep) -> str:
    rows = []
    for name in AXES:
        values = [said(name, value) for value in sweep.values[name]]
        shown = values if len(values) <= 12 else [*values[:10], "…", values[-1]]
        rows.append((name.replace("_", " "), f"{len(values):,}", "; ".join(shown)))
    instances = len(sweep.frame[["seed", "lane"]].drop_duplicates())
    rows.append(("instances", f"{instances:,}", "seeds × lanes at each point"))
    return _table(("axis", "values", ""), rows, left=True)


def _table(header: Iterable[str], rows: Iterable[Iterable[str]], left: bool = False) -> str:
    def line(tag: str, cells: Iterable[str]) -> str:
        style = ' style="text-align:left"' if left else ""
        return "<tr>" + "".join(f"<{tag}{style}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    return "<table>" + line("th", header) + "".join(line("td", row) for row in rows) + "</table>"


def _reproduce(manifest: dict[str, Any], sweep: Sweep) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    command = "jaxsched sweep config.toml --out DIR\njaxsched report DIR"
    read = 'import jaxsched as js\n\nframe = js.read_sweep("DIR")'
    return [
        "<p>Save the configuration above as config.toml, then</p>", f"<pre>{command}</pre>",
        "<p>gives the same table, row by row, on any number of devices and processes. In Python:"
        f"</p><pre>{html.escape(read)}</pre>",
        f'<p class="note">{html.escape(versions)}; begun on {html.escape(manifest["device"])}, '
        f"{html.escape(manifest['started'])}. Figures are also in figures/, as PNG and PDF.</p>",
    ]  # fmt: skip
