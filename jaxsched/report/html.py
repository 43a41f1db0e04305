"""Pieces of a page that needs nothing else: tables, figures, code, and the page around them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape

from matplotlib import rc_context

from jaxsched.report.plots import Drawing

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


def page(title: str, head: str, sections: Iterable[tuple[str, str]]) -> str:
    """A whole page: its head as HTML, and sections of a title and HTML."""
    parts = [head, *(f"<h2>{escape(name)}</h2>\n{section}" for name, section in sections)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def code(text: str) -> str:
    """Text as it is, in a box."""
    return f"<pre>{escape(text)}</pre>"


def note(text: str) -> str:
    """A remark in small print."""
    return f'<p class="note">{escape(text)}</p>'


def table(header: Iterable[str], rows: Iterable[Iterable[str]], left: bool = False) -> str:
    """A table of texts, the first column on the left, the others on the right or all `left`."""

    def line(tag: str, cells: Iterable[str]) -> str:
        style = ' style="text-align:left"' if left else ""
        return "<tr>" + "".join(f"<{tag}{style}>{escape(c)}</{tag}>" for c in cells) + "</tr>"

    return "<table>" + line("th", header) + "".join(line("td", row) for row in rows) + "</table>"


def figure(one: Drawing) -> str:
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
