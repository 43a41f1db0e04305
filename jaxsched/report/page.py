"""A page to send: results of any study as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from rich.text import Text

from jaxsched.report import plots
from jaxsched.report.plots import Drawing
from jaxsched.report.tables import Answer, PrintedTable, TableCell, text_of
from jaxsched.studies import store

PAGE_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 2rem auto;
  max-width: 62rem; padding: 0 1rem; overflow-wrap: break-word }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block;
  overflow-x: auto; margin: 1rem 0 }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #e3e3e3 }
td { white-space: nowrap } th { vertical-align: bottom }
th:first-child, td:first-child, .texts td, .texts th { text-align: left }
.texts { display: table } .texts td:first-child { min-width: 6rem }
.texts td { white-space: normal; vertical-align: top; overflow-wrap: anywhere }
th[colspan] { padding-top: .8rem } .alarm { color: #b00020 }
figure { margin: 1rem 0; overflow-x: auto } figure img { max-width: 100%; height: auto }
figcaption, .note { color: #555; font-size: .87rem } .note { margin: .3rem 0 }
pre { background: #f5f5f5; padding: .7rem 1rem; overflow-x: auto; font-size: .83rem }
.advice { background: #eef4fa; padding: .6rem 1rem; border-left: 4px solid #0072b2 }
.advice p { margin: .3rem 0 }
@media (max-width: 40rem) { figure img { max-width: none; width: 38rem } }
"""


@dataclasses.dataclass(frozen=True)
class Report:
    """What is on a page; all of it is text, nothing markup."""

    title: str
    lead: str  # what it is of, in a line
    answer: Answer
    commands: str  # that make it again
    # Of the folder, or as it would be there
    manifest: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    advice: tuple[str, ...] = ()  # which policy, and by how much
    assumed: tuple[tuple[str, str], ...] = ()  # name and meaning
    notes: tuple[str, ...] = ()  # what else a reader should know
    drawings: tuple[Drawing, ...] = ()
    axes: tuple[tuple[str, ...], ...] = ()  # of a sweep: name, number of values, values
    remark: str = ""  # how to go on


def laid_out(drawn: Iterable[Drawing]) -> tuple[Drawing, ...]:
    """The figures laid out once and for all: every file would do it again, a little differently."""
    drawn = tuple(drawn)
    for made in filter(None, (one.figure for one in drawn)):
        made.draw_without_rendering()
        made.set_layout_engine("none")
    return drawn


def page(report: Report) -> str:
    """The page as HTML."""
    sections = [
        ("Which policy", _advice(report.advice)),
        ("Results", f"{note(report.answer.title)}\n{results(report.answer, report.notes)}"),
        *((one.title or one.name.replace("_", " ").capitalize(), figure(one))
          for one in report.drawings),
        ("What was assumed", texts_html(report.assumed)),
        ("Axes", texts_html(report.axes, ("axis", "values", ""))),
        ("How to reproduce", _reproduce(report)),
    ]  # fmt: skip
    return whole_page(report.title, report.title, report.lead, sections)


def whole_page(title: str, heading: str, lead: str, sections: Iterable[tuple[str, str]]) -> str:
    """A page with these sections (heading and HTML); those without text are left out."""
    parts = "\n".join(f"<h2>{escape(name)}</h2>\n{text}" for name, text in sections if text)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{PAGE_STYLE}</style></head><body>\n"
        f"<h1>{escape(heading)}</h1>\n<p>{escape(lead)}</p>\n{parts}\n</body></html>\n"
    )


def results(answer: Answer, notes: Iterable[str] = ()) -> str:
    """The tables of an answer with all notes below them."""
    return "\n".join([*map(table_html, answer.tables), *map(note, (*answer.notes, *notes))])


def write_page(folder: Path, drawings: Iterable[Drawing], text: str) -> list[Path]:
    """Writes figures/ and report.html into a folder of results; returns the paths."""
    path = folder / "report.html"
    paths = plots.save_all(drawings, folder / "figures")
    store.write_text(path, text)
    return [*paths, path]


def table_html(one: PrintedTable) -> str:
    """A table, the first column on the left, the others on the right."""
    lines = [_line("th", ("", *one.headings))]
    for title, rows in one.sections:
        if title:
            lines.append(f'<tr><th colspan="{1 + len(one.headings)}">{escape(title)}</th></tr>')
        lines += [_line("td", row) for row in rows]
    return f"<table>{''.join(lines)}</table>"


def texts_html(rows: Iterable[Iterable[str]], header: Iterable[str] = ()) -> str:
    """A table of texts, all on the left; nothing without rows."""
    lines = [_line("td", row) for row in rows]
    header = [_line("th", header)] if header else []
    return f'<table class="texts">{"".join([*header, *lines])}</table>' if lines else ""


def _line(tag: str, cells: Iterable[TableCell]) -> str:
    def cell(one: TableCell) -> str:
        red = isinstance(one, Text) and "red" in (one.style, *(span.style for span in one.spans))
        look = ' class="alarm"' if red else ""
        return f"<{tag}{look}>{escape(text_of(one))}</{tag}>"

    return f"<tr>{''.join(map(cell, cells))}</tr>"


def _advice(lines: Iterable[str]) -> str:
    told = "".join(f"<p>{escape(line)}</p>" for line in lines if line)
    return f'<div class="advice">{told}</div>' if told else ""


def _reproduce(report: Report) -> str:
    manifest = report.manifest
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    about = f"{versions}; begun on {manifest['device']}, {manifest['started']}."
    return (
        f"{code(report.commands)}\n{note(report.remark)}\n"
        f"<p>The configuration, complete:</p>\n{code(manifest['config'])}\n{note(about)}"
    )


def code(text: str) -> str:
    """Text as it is, in a box."""
    return f"<pre>{escape(text)}</pre>"


def note(text: str) -> str:
    """A remark in small print."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def figure(one: Drawing) -> str:
    """A figure within the page, with its caption; the caption alone if it is left out."""
    if one.figure is None:
        return note(f"Not drawn, since {one.caption}.")
    image = io.BytesIO()
    # The same results give the same page: no date, and no random names.
    with rc_context({"svg.hashsalt": one.name}):
        one.figure.savefig(image, format="svg", metadata={"Date": None})
    data = base64.b64encode(image.getvalue()).decode()
    return (
        f'<figure><img alt="{escape(one.title or one.name)}" '
        f'src="data:image/svg+xml;base64,{data}">\n'
        f"<figcaption>{escape(one.caption)}</figcaption></figure>"
    )
