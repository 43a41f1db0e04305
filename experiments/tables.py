"""Tables as Markdown, for the pages."""

from __future__ import annotations

import pandas as pd


def markdown(table: pd.DataFrame, digits: int = 3) -> str:
    """The table with its numbers rounded, in Markdown."""

    def text(value: object) -> str:
        return f"{value:,.{digits}f}" if isinstance(value, float) else str(value)

    rows = [list(table.columns), ["---"] * table.shape[1], *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(map(text, row)) + " |" for row in rows)
