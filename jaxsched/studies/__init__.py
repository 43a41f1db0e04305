"""Studies."""

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
      ValueError: If a file is damaged.
    """
    from jaxsched.studies import reading  # here, so that `import jaxsched` need not wait for pandas

    return reading.read(folder, columns, partial)


__all__ = ["read_sweep"]
