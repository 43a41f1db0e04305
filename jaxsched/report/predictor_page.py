"""The report of a predictor: one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from jaxsched.predict.evaluation import LABELS, NONE, SHOWN
from jaxsched.report import page, plots
from jaxsched.report.looks import DASHES, DOTS, Line, in_house_style
from jaxsched.report.plots import Drawing
from jaxsched.report.tables import Answer, table

COLORS: dict[str, tuple[str, Line]] = {
    "text": ("#0072B2", "-"), "length": ("#D55E00", DASHES), NONE: ("#777777", DOTS),
}  # fmt: skip


def write(folder: Path, report: dict[str, Any]) -> list[Path]:
    """Writes report.html and figures/ into the folder of a predictor; returns the paths."""
    drawn = page.laid_out([_reliability(report), _groups(report)])
    return page.write_page(folder, drawn, predictor_report(folder.resolve().name, report, drawn))


def predictor_report(name: str, report: dict[str, Any], drawn: Iterable[Drawing]) -> str:
    """The page as HTML."""
    left_out = "; ".join(f"{why}: {count:,}" for why, count in report["data"]["left_out"].items())
    split = ", ".join(f"{count:,} {part}" for part, count in report["split"].items())
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    weights = ", ".join(f"{count:,} ({LABELS[kind]})" for kind, count in report["bytes"].items())
    about = [
        ("data", report["data"]["source"]), ("SHA-256 of it", report["data"]["sha256"]),
        ("left out", left_out or "nothing"), ("tokens counted by", report["tokenizer"]),
        ("requests", split), ("bytes of weights", weights),
        ("digest", report["digest"]), ("versions", versions),
    ]  # fmt: skip
    sections = [
        ("How good it is", page.results(answer_of(report))),
        *((one.title, page.figure(one)) for one in drawn),
        *((f"By {name}", _by(rows)) for name, rows in report["by"].items()),
        ("Where it comes from", page.texts_html(about)),
        ("Configuration", page.code(report["config"])),
    ]
    lead = f"On {report['rows']:,} requests that neither training nor calibration has seen."
    return page.whole_page(name, f"Predictor {name}", lead, sections)


def answer_of(report: dict[str, Any]) -> Answer:
    """The table of the predictor and of what it is compared with."""
    held = {row["group"]: f"{row['inside']:.0%}" for row in report["by"]["true class"]}
    notes = (
        "Pinball loss in tokens, mean over 11 levels; width in tokens. Who sees nothing calls the "
        f"same class for all, the most frequent one: {report['class_majority']:.1%}.",
        f"coverage at {SHOWN} by true length: "
        + ", ".join(f"{group} tokens {share}" for group, share in held.items()),
    )
    headings = ("pinball", "/ nothing", "Spearman", f"coverage at {SHOWN}", "width", "class right",
                "µs a request")  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for kind, found in report["kinds"].items():
        accuracy, time = found.get("class_accuracy"), found.get("us_per_request")
        rows.append((
            LABELS[kind], f"{found['pinball']:.2f}",
            f"{found['pinball'] / report['pinball_marginal']:.3f}", f"{found['spearman']:.2f}",
            f"{found['coverage'][str(SHOWN)]:.3f}", f"{found['width'][str(SHOWN)]:.0f}",
            f"{found['class_majority'] if accuracy is None else accuracy:.1%}",
            "–" if time is None else f"{time:.0f}",
        ))  # fmt: skip
    numbers = [{"sees": kind, **found} for kind, found in report["kinds"].items()]
    title = f"{report['rows']:,} test requests"
    return Answer(title, (table(headings, [("", rows)]),), notes, pd.json_normalize(numbers))


def _by(rows: list[dict[str, Any]]) -> str:
    header = ("requests", "inside", "below", "above", "width")
    cells = [
        (row["group"], f"{row['rows']:,}", f"{row['inside']:.1%}", f"{row['below']:.1%}",
         f"{row['above']:.1%}", f"{row['width']:.0f}")
        for row in rows
    ]  # fmt: skip
    return page.table_html(table(header, [("", cells)]))


@in_house_style
def _reliability(report: dict[str, Any]) -> Drawing:
    figure, (left, right) = plots.panels(2, 2, (3.0, 2.7))
    for axes, key, title in ((left, "coverage", "two-sided intervals"),
                             (right, "lower_coverage", "lower bounds alone")):  # fmt: skip
        axes.plot([0, 1], [0, 1], color="#bbbbbb", lw=1)
        for kind, found in report["kinds"].items():
            if key in found:
                color, line = COLORS[kind]
                asked = [float(level) for level in found[key]]
                axes.plot(asked, list(found[key].values()), color=color, ls=line, marker="o",
                          label=f"sees {LABELS[kind]}")  # fmt: skip
        plots.subtitle(axes, title)
    plots.name_axes(figure, "coverage asked for", "coverage found")
    plots.legend_above(figure, left)
    return Drawing("reliability", figure, "Reliability",
                   "On the diagonal bounds hold as often as they say.")  # fmt: skip


@in_house_style
def _groups(report: dict[str, Any]) -> Drawing:
    figure, grid = plots.panels(len(report["by"]), 3, (2.6, 2.6), sharey=True)
    for axes, (name, rows) in zip(grid, report["by"].items(), strict=True):
        places = range(len(rows))
        axes.bar(places, [row["inside"] for row in rows], color="#0072B2", width=0.7)
        axes.axhline(SHOWN, color="#000000", lw=1)
        axes.set_xticks(places, [row["group"] for row in rows], rotation=35, ha="right")
        axes.grid(axis="x", visible=False)
        plots.subtitle(axes, f"by {name}")
    plots.name_axes(figure, "tokens", f"coverage of the {SHOWN} intervals")
    return Drawing("coverage_by_group", figure, "Who is covered",
                   f"A coverage of {SHOWN} overall hides that the shortest and the longest answers "
                   "are missed far more often: the line is what was asked for.")  # fmt: skip
