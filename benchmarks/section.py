"""What a table of the results is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from benchmarks.scale import Scale

Row = dict[str, Any]
"""A line of a table by column; what is missing was not measured."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One step of the progress bar.

    Attributes:
      label: What it measures.
      run: Measures it.
    """

    label: str
    run: Callable[[], list[Row]]


@dataclasses.dataclass(frozen=True)
class Section:
    """A table.

    Attributes:
      name: Its name on the command line.
      title: Its heading.
      note: What a reader must know, in a paragraph.
      columns: Key in a row -> (heading, format); a format without braces is for `format`.
      jobs: What has to be measured.
    """

    name: str
    title: str
    note: str
    columns: dict[str, tuple[str, str]]
    jobs: Callable[[Scale], list[Job]]
