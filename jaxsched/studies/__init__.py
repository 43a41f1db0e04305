"""Studies: many simulations of one configuration, drawn, run, measured and kept.

There is one kind of study. It has *axes* (`axes.py`: a key of a configuration, a column of the
tables, and what a value does, an entry each), and a row for every combination of their values and
every random instance:

    configuration ─► Values of the axes ─► Plan, the order of the rows ─► Calls, some rows each
         Drawn, the requests of a tile ─► Instance ─► simulate ─► measured columns ─► a store

Five settings of it, a file each, with the dataclass whose fields are the keys of a configuration:

| `backlog.py` | the paper's experiment | a point for each n and policy, all columns in rounds     |
| `serving.py` | latency against rates  | a point for each policy and prediction, all of serving   |
| `sweep.py`   | every combination      | chunks of rows, by time, for any number of processes     |
| `replay.py`  | a trace                | a point for each policy; the one instance is the trace   |
| `capacity.py`| rates of a trace       | a point for each policy, whose rates are lanes           |

A point, or a chunk, is a part file that appears whole or not at all (`run.py`, `store.py`), so
that a study can be interrupted anywhere. `plan.py`, `draw.py`, `rows.py` and `estimate.py` are the
machine; `frames.py` has the columns, `config.py` what several configurations share. Texts such as
"relative:0.5" are read in `jaxsched.workloads.texts`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def read_sweep(
    folder: str | os.PathLike[str], columns: Sequence[str] | None = None, *, partial: bool = False
) -> pd.DataFrame:
    """The table of a sweep: one row per simulation, in the order of its axes.

    Args:
      folder: Where `jaxsched sweep` wrote it.
      columns: Columns to read; None for all.
      partial: Whether to take what is there of a sweep that is not finished.

    Raises:
      FileNotFoundError: If there is no sweep, or it is not finished and `partial` is False.
      ValueError: If it has no such column, or a file is damaged.
    """
    from jaxsched.studies import sweep  # here, so that `import jaxsched` need not wait for pandas

    return sweep.read_folder(folder, columns, partial)


__all__ = ["read_sweep"]
