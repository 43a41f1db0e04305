"""`jaxsched report`: the page and the figures of a folder of results."""

from __future__ import annotations

import argparse

from jaxsched.report import reports
from jaxsched.report.terminal import console, say, show


def run(args: argparse.Namespace) -> None:
    """Prints the table, writes the page and the figures, and says where."""
    out = console(args.form)
    with out.status("drawing"):
        answer, paths = reports.write_report(args.folder)
    show(out, answer, args.form)
    for path in paths:
        say(out, f"{'page:  ' if path.suffix == '.html' else 'figure:'} {path}")
