"""Which policy to take, and by how much: a few sentences from a table of results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from jaxsched import policies
from jaxsched.report.formats import Form, shown
from jaxsched.studies.frames import SERVING_YARDSTICK, half_width

CLOSE = 0.01
"""Means that differ by no more are called about the same where there is no interval."""


def looks_ahead(name: str) -> bool:
    """Whether a policy of this name reads the true lengths, which no server can."""
    try:
        return policies.policy(name).hindsight
    except (ValueError, OSError):
        return False  # a policy of a file that the name does not say


def recommended(
    frame: pd.DataFrame, mean: str, what: str, form: Form, tail: str = "", same: Sequence[str] = (),
) -> tuple[str, ...]:  # fmt: skip
    """The policy with the smallest mean, without those that look at the true lengths.

    Args:
      frame: A row per policy and instance.
      mean: The column that is compared, smaller being better; NaN where a run did not finish.
      what: What it is called.
      form: How its numbers are written.
      tail: The column of its 99th percentile; empty if there is none.
      same: The columns that together name an instance, on which policies are compared in pairs.

    Returns:
      Sentences; none if there are no two policies to choose between.
    """
    told = dict.fromkeys(frame["policy"])
    honest = [name for name in told if not looks_ahead(name)]
    table = frame[frame["policy"].isin(honest)]
    known = table.groupby("policy", sort=False)[mean].agg(lambda x: x.mean(skipna=False)).dropna()
    if len(known) < 2:
        return ()
    order = known.sort_values(kind="stable")
    best, second = order.index[:2]
    lines = [f"{best} has the shortest {what}: {shown(order[best], form)}."]
    others = [SERVING_YARDSTICK] if SERVING_YARDSTICK in known else []
    others += [second] if second not in others else []
    lines += [
        _compared(table, best, other, mean, order, form, same) for other in others if other != best
    ]
    if tail and (line := _tail(table, best, others, tail, form)):
        lines.append(line)
    if ahead := [name for name in told if name not in honest]:
        lines.append(f"Not considered, since they are told the true lengths: {', '.join(ahead)}.")
    return tuple(lines)


def _compared(
    table: pd.DataFrame, best: str, other: str, mean: str, means: pd.Series, form: Form,
    same: Sequence[str],
) -> str:  # fmt: skip
    """By how much the best is better than another, and whether that can be chance."""
    share = 1 - means[best] / means[other]
    half = np.nan
    if same:
        each = table.pivot_table(index=list(same), columns="policy", values=mean, observed=True)
        ratio = each[best] / each[other]
        share, half = 1 - ratio.mean(), half_width(ratio)
    whose = f"that of {other} ({shown(means[other], form)})"
    if np.isnan(half):
        close = share <= CLOSE
        return f"That is {'about' if close else f'{share:.1%} less than'} {whose}."
    interval = f"{share:.1%} ± {half:.1%} less than {whose}"
    return f"That is {interval}{'; the two cannot be told apart' if half >= share else ''}."


def _tail(table: pd.DataFrame, best: str, others: Sequence[str], tail: str, form: Form) -> str:
    """The 99th percentile beside it, since shortest-first orders let long requests wait."""
    means = table.groupby("policy", sort=False)[tail].mean()
    if means[[best, *others]].isna().any():
        return ""
    listed = ", ".join(f"{name} {shown(means[name], form)}" for name in others if name != best)
    worse = any(means[best] > means[name] for name in others if name != best)
    verdict = "; in the tail it is not the best" if worse else ""
    return f"Its P99 is {shown(means[best], form)} ({listed}){verdict}."
