"""`jaxsched report`: the figures and the page of a sweep."""

from __future__ import annotations

import argparse

from jaxsched.report import sweep_page
from jaxsched.report.terminal import console, say


def run(args: argparse.Namespace) -> None:
    """Writes the page and the figures, and says where."""
    out = console()
    with out.status("drawing"):
        paths = sweep_page.write(args.folder)
    for path in paths:
        say(out, f"{'page:  ' if path.suffix == '.html' else 'figure:'} {path}")
