"""Which policy to take, and by how much: a few sentences from a table of results."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from jaxsched import policies
from jaxsched.report.formats import NumberForm, shown
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
    frame: pd.DataFrame,
    mean: str,
    what: str,
    form: NumberForm,
    tail: str = "",
    same: Sequence[str] = (),
) -> str:
    """The policy with the smallest mean, without those that look at the true lengths.

    Args:
      frame: A row per policy and instance.
      mean: The column that is compared, smaller being better; NaN where a run did not finish.
      what: What it is called.
      form: How its numbers are written.
      tail: The column of its 99th percentile; empty if there is none.
      same: The columns that together name an instance, on which policies are compared in pairs.

    Returns:
      Sentences; empty if there are no two policies to choose between.
    """
    ahead = [name for name in frame["policy"].unique() if looks_ahead(name)]
    table = frame[~frame["policy"].isin(ahead)]
    groups = table.groupby("policy", sort=False, observed=True)[mean]
    # NaN where a run did not finish
    means = groups.agg(lambda values: values.mean(skipna=False)).dropna()
    if len(means) < 2:
        return ""
    means = means.sort_values(kind="stable")
    best, *others = means.index
    saved = {name: _saved(table, best, name, mean, means, same) for name in others}
    near = [name for name in others if saved[name][0] <= max(saved[name][1], 0)]
    named = shown(means[best], form)
    lines = [f"{best} has the shortest {what}: {named}."]
    if near:
        # Nobody should change a scheduler for what may be chance.
        lines = [f"{best} has the shortest {what}, {named}, but not by much: "
                 f"{', '.join(near)} cannot be told from it."]  # fmt: skip
    baseline = [SERVING_YARDSTICK] if SERVING_YARDSTICK in others else []
    for other in dict.fromkeys([*baseline, others[0]]):
        if other not in near:
            share, half = saved[other]
            interval = f" ± {half:.1%}" if same else ""
            lines.append(
                f"That is {share:.1%}{interval} less than that of {other} "
                f"({shown(means[other], form)})."
            )
    if tail:
        lines += _tail(table, best, [*baseline, others[0]], tail, form)
    return " ".join(lines)


_LEVELS = {
    "attainment": "{:.1f} % of the requests keep the service level",
    "goodput": "{:.3f} requests/s keep the service level",
}
"""Columns of a service level, the first that is there being told, and how."""


def level_kept(frame: pd.DataFrame) -> str:
    """Under which policy most requests keep the service level; empty if none was given."""
    table = frame[~frame["policy"].map(looks_ahead)]
    known = (name for name in _LEVELS if name in frame and table[name].notna().any())
    if (column := next(known, None)) is None:
        return ""
    means = table.groupby("policy", sort=False, observed=True)[column].mean()
    best = means.idxmax()
    most = means.index[means == means[best]]
    others = [SERVING_YARDSTICK] if SERVING_YARDSTICK in means and best != SERVING_YARDSTICK else []
    beside = "".join(f"; under {name} {means[name]:.3g}" for name in others)
    return f"{_LEVELS[column].format(means[best])} under {', '.join(most)}{beside}."


def left_out(frame: pd.DataFrame) -> str:
    """Who is not recommended, whatever the numbers; empty if there is nobody."""
    ahead = [name for name in frame["policy"].unique() if looks_ahead(name)]
    return f"Left out, as they are told the true lengths: {', '.join(ahead)}." if ahead else ""


def _saved(
    table: pd.DataFrame, best: str, other: str, mean: str, means: pd.Series, same: Sequence[str]
) -> tuple[float, float]:
    """The share of another's mean that the best one saves, and what could be chance of it."""
    if not same:
        return 1 - means[best] / means[other], CLOSE
    pair = table[table["policy"].isin((best, other))].astype({"policy": str})
    each = pair.pivot(index=list(same), columns="policy", values=mean)
    ratio = each[best] / each[other]
    half = half_width(ratio)
    return 1 - ratio.mean(), CLOSE if pd.isna(half) else half


def _tail(
    table: pd.DataFrame, best: str, others: Sequence[str], tail: str, form: NumberForm
) -> list[str]:
    """The 99th percentile beside it, since shortest-first orders let long requests wait."""
    means = table.groupby("policy", observed=True)[tail].mean()
    others = list(dict.fromkeys(others))
    if means[[best, *others]].isna().any():
        return []
    listed = ", ".join(f"{name} {shown(means[name], form)}" for name in others)
    worse = [name for name in others if means[best] > means[name]]
    verdict = f": longer than that of {' and '.join(worse)}" if worse else ""
    return [f"Its P99 is {shown(means[best], form)} ({listed}){verdict}."]
