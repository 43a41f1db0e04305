"""Results as Markdown for readers, and as JSON with everything that was measured."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import targets
from benchmarks.section import Row, Section
from benchmarks.targets import Results


@dataclasses.dataclass(frozen=True)
class Report:
    """A run of the benchmarks.

    Attributes:
      facts: Machine, versions, date and command.
      sections: What was to be measured.
      results: What was.
      failures: Jobs that failed, and why.
    """

    facts: dict[str, str]
    sections: tuple[Section, ...]
    results: Results
    failures: dict[str, str]

    def markdown(self) -> str:
        """The tables."""
        facts = [f"- {name}: {text}" for name, text in self.facts.items()]
        heading = ["what", "target", "jax", "native"]
        parts = [
            "# Benchmarks",
            "\n".join(facts),
            "## Targets",
            "The worst of the values that a target is about.",
            _table(heading, targets.table(self.results), [True, True, False, False]),
        ]
        for section in self.sections:
            parts += [f"## {section.title}", section.note, self._rows(section)]
        if self.failures:
            lines = [f"- {label}: {text}" for label, text in self.failures.items()]
            parts += ["## Failed", "\n".join(lines)]
        return "\n\n".join(parts) + "\n"

    def save(self, folder: Path, name: str) -> Path:
        """Writes both forms; returns where the Markdown is."""
        folder.mkdir(parents=True, exist_ok=True)
        raw = {"facts": self.facts, "results": self.results, "failures": self.failures}
        (folder / f"{name}.json").write_text(json.dumps(raw, indent=1, ensure_ascii=False) + "\n")
        path = folder / f"{name}.md"
        path.write_text(self.markdown())
        return path

    def _rows(self, section: Section) -> str:
        rows = self.results.get(section.name, [])
        if not rows:
            return "Not measured."
        columns = {key: column for key, column in section.columns.items()
                   if any(key in row for row in rows)}  # fmt: skip
        lines = [[_format(row, key, columns[key][1]) for key in columns] for row in rows]
        texts = [form == "s" for _, form in columns.values()]
        return _table([heading for heading, _ in columns.values()], lines, texts)


def _format(row: Row, key: str, form: str) -> str:
    value: Any = row.get(key)
    return "" if value is None else format(value, form)


def _table(heading: Sequence[str], lines: Sequence[Sequence[str]], texts: Sequence[bool]) -> str:
    """A Markdown table; columns that are not text go to the right."""
    rule = ["---" if text else "---:" for text in texts]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [heading, rule, *lines])
