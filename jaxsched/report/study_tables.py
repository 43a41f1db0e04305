"""What each command prints of its results: a title, tables and a note."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
from rich.text import Text

from jaxsched.metrics import LIMITED_COLUMNS, METRICS, STATISTICS, Metric
from jaxsched.report.formats import (
    UNIT_FORMS,
    NumberForm,
    count,
    percent,
    rounds,
    seconds,
    shown,
    with_half,
)
from jaxsched.report.sweep_view import SweepView
from jaxsched.report.tables import Answer, PrintedTable, TableCell, alarm, table
from jaxsched.studies import frames
from jaxsched.studies.frames import summarize
from jaxsched.studies.serving import ANY
from jaxsched.workloads.texts import read_prediction

WAIT = "wait: most rounds that gave a request no token that it kept"

BACKLOG_NOTE = (
    "means over the finished instances, ± half a 95 % confidence interval (paired for / h_sf)",
    f"latency in rounds; bound: proved lower bound; {WAIT}; KV, peak: mean and peak use of M",
)

ROUNDS_NOTE = (f"latency in rounds; bound: proved lower bound on the mean latency; longest {WAIT}",)

BEST_NOTE = (
    "best: best schedule found in hindsight; a policy is above the optimum by / best - 1 at least "
    "and by / bound - 1 at most",
)

BOUND_NOTE = (
    "a policy is above the optimum by / bound - 1 at most; with best:hindsight among the policies "
    "the table says by how much at least",
)

CLOCK_NOTE = "how far a policy is above the optimum is known in rounds only, not under a clock"

SERVED_NOTE = (
    "TTFT and E2EL count from arrival; a token that is generated again is not seen again; names "
    "are those of `vllm bench serve`, P50 being its median",
    "KV, peak: mean and peak use of M; wasted: tokens computed again",
    CLOCK_NOTE,
)

SERVING_NOTE = (
    "means over the streams; TTFT and end to end in seconds; gain: mean end to end of fcfs over "
    "the policy's, ± half a paired 95 % confidence interval",
    "KV, peak: use of M; preempted: per request; sustains: largest rate of the job kept up with "
    "(proved: {bound}/s is the most, for long)",
    CLOCK_NOTE,
)

TUNING_NOTE = (
    "mean ratios of mean latencies (p99, missed: of those) on test instances, ± half a paired 95 % "
    "confidence interval",
    "P99 of the latency and longest wait: means over the test instances, in rounds or in seconds",
    "work: requests simulated for candidates; as written: the best by validation, made readable",
    "validation, test: geometric means of the scores over all predictions (and loads); a word "
    "where they differ by more than that interval",
)
"""How to read the tables, a remark each."""

TableColumn = tuple[str, Callable[[pd.Series], TableCell]]
"""A heading, and from the row of a data frame to the cell."""


def _number(heading: str, name: str, form: NumberForm) -> TableColumn:
    """A column of a data frame; dashes where it has none, as in folders of earlier versions."""
    return heading, lambda row: shown(row.get(name, math.nan), form)


def _mean(heading: str, name: str, form: NumberForm) -> TableColumn:
    """The same with half its confidence interval."""
    return heading, lambda row: with_half(row[name], row[f"{name}_ci"], form)


def _name_of(row: pd.Series) -> Text:
    """The policy of a row of means, and how many of its simulations did not finish."""
    left = row["unfinished"]
    return Text.assemble(row["policy"], alarm(f" ({count(left)} unfinished)") if left else "")


def _table(
    columns: Sequence[TableColumn],
    sections: Iterable[tuple[str, pd.DataFrame]],
    name: Callable[[pd.Series], TableCell] = _name_of,
) -> PrintedTable:
    """A table with a row for each of the data frames' rows."""
    headings, cells = zip(*columns, strict=True)
    made = (
        (title, [(name(row), *(cell(row) for cell in cells)) for _, row in rows.iterrows()])
        for title, rows in sections
    )
    return table(headings, made)


_policy = operator.itemgetter("policy")


def backlog_job(frame: pd.DataFrame) -> Answer:
    """Every policy under every prediction at the largest number of requests.

    Policies whose results are the same under every prediction stand once, at the top.
    """
    n = frame["n"].max()
    chosen = frame[frame["n"] == n]
    summary = summarize(chosen, ["prediction", "policy"])
    lanes, memory = chosen["lane"].nunique(), int(chosen["memory"].iloc[0])
    spread = summary.groupby("policy")["mean_latency"].agg(["min", "max", "count"])
    fixed = spread.index[(spread["min"] == spread["max"]) & (spread["count"] > 1)]
    alike = summary["policy"].isin(fixed)
    sections = [("any prediction", summary[alike].drop_duplicates("policy")), *_by(summary[~alike])]
    columns = [
        _mean("latency", "mean_latency", rounds),
        _mean("/ h_sf", "ratio_to_h_sf", ".3f"),
        *_gap(chosen),
        *_tail(rounds),
        _number("evicted", "evictions", count),
        _number("wasted", "wasted_tokens", count),
        ("KV", lambda row: shown(row["mean_memory"] / memory, percent)),
        ("peak", lambda row: shown(row["peak_memory"] / memory, percent)),
    ]
    title = f"n = {n:,} requests, M = {memory:,} tokens, {lanes} instances"
    notes = BACKLOG_NOTE + _gap_note(chosen)
    made = _table(columns, sections)
    return Answer(title, (made,), (*notes, *missed_notes(chosen)), summary)


TAIL = {"P99": "latency_p99", "longest": "latency_max", "wait": "longest_wait"}
"""What stands beside a mean latency, as shortest-first orders let long requests wait."""


def _tail(form: NumberForm) -> list[TableColumn]:
    return [_number(heading, name, form) for heading, name in TAIL.items()]


def missed_notes(frame: pd.DataFrame) -> list[str]:
    """A warning for each prediction most of whose intervals miss the truth."""
    if "missed" not in frame or frame["missed"].isna().all():
        return []
    named = "prediction" in frame
    keys = frame["prediction"] if named else pd.Series("", frame.index)
    shares = frame["missed"].groupby(keys, sort=False, observed=True).mean()
    return [
        f"{share:.0%} of the predicted intervals{f' of {text}' if named else ''} miss the true "
        "length: is that prediction right? Policies that read it are told of other requests than "
        "those that come"
        for text, share in shares.items()
        if share > 0.5
    ]


def _by(summary: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The label and the rows of each prediction, in order of appearance."""
    for prediction in dict.fromkeys(summary["prediction"]):
        label = "no prediction" if prediction == ANY else read_prediction(prediction).label
        yield label, summary[summary["prediction"] == prediction]


_GAP = {"/ best": "ratio_to_best", "/ bound": "ratio_to_bound"}
"""Ratios that the optimum lies between."""


def _gap(frame: pd.DataFrame) -> list[TableColumn]:
    """Those that there are."""
    return [_number(heading, name, ".3f") for heading, name in _GAP.items() if name in frame]


def _gap_note(frame: pd.DataFrame) -> tuple[str, ...]:
    """What those say of a policy and the optimum."""
    return BEST_NOTE if "ratio_to_best" in frame else BOUND_NOTE


def replay(frame: pd.DataFrame) -> Answer:
    """What each policy made of a trace, in rounds or, under a clock, in seconds."""
    first = frame.iloc[0]
    title = f"{int(first['n']):,} requests, M = {int(first['memory']):,} tokens"
    if "clock" not in frame:
        notes = ROUNDS_NOTE + _gap_note(frame)
        return Answer(title, (_in_rounds(frame),), (*notes, *missed_notes(frame)), frame)
    rate = first["offered_rate"]
    offered = "" if math.isnan(rate) else f", {rate:.3g} req/s arrive"
    title = f"{title}, {first['clock']}{offered}"
    notes = (*SERVED_NOTE, *missed_notes(frame))
    return Answer(title, (_latencies(frame), _figures(frame)), notes, frame)


def _in_rounds(frame: pd.DataFrame) -> PrintedTable:
    """One column per policy, with percentiles of the latency.

    Requests that did not finish are counted in a row of their own, and are in no percentile.
    """
    shares = {f"{x}_share": frame[f"{x}_memory"] / frame["memory"] for x in ("mean", "peak")}
    frame = frame.assign(**shares)
    lines: list[tuple[str, str, NumberForm]] = [
        ("mean latency", "mean_latency", rounds),
        ("  / h_sf", "ratio_to_h_sf", ".3f"),
        *((f"  {heading}", name, ".3f") for heading, name in _GAP.items()),
        *((f"  P{q}", f"latency_p{q}", rounds) for q in (50, 90, 99)),
        ("  longest", "latency_max", rounds),
        ("longest wait", "longest_wait", rounds),
        ("total latency", "total_latency", count),
        ("rounds", "rounds", count),
        ("evictions", "evictions", count),
        ("wasted tokens", "wasted_tokens", count),
        ("KV use, mean", "mean_share", percent),
        ("KV use, peak", "peak_share", percent),
    ]
    if frame["unfinished"].any():
        lines.insert(0, ("unfinished", "unfinished", _alarming))
    rows = (
        (title, *(shown(x, form) for x in frame[name])) for title, name, form in lines
        if name in frame  # folders of earlier versions have fewer
    )  # fmt: skip
    return table(frame["policy"], [("", rows)])


def _alarming(value: float) -> Text:
    return alarm(count(value))


def _latencies(frame: pd.DataFrame) -> PrintedTable:
    """Mean and percentiles of every distribution, a row per policy."""
    sections = (
        (f"{_short(one)}, {one.unit}", (
            (row["policy"], *(shown(row.get(f"{which}_{name}", math.nan), UNIT_FORMS[one.unit])
                              for which in STATISTICS))
            for _, row in frame.iterrows()
        ))
        for name, one in METRICS.items() if f"mean_{name}" in frame
    )  # fmt: skip
    return table([which.replace("p", "P") for which in STATISTICS], sections)


def _short(metric: Metric) -> str:
    """The abbreviation of a metric, if it has one, or its heading."""
    _, has, short = metric.title.rpartition(", ")
    return short if has else metric.heading


def _figures(frame: pd.DataFrame) -> PrintedTable:
    """Every other metric that the table has, a row per policy."""
    told = [(name, one) for name, one in METRICS.items() if name in frame and one.heading]
    told.sort(key=lambda item: not item[1].unit.endswith("/s"))  # rates in front
    columns = [_number(one.heading, name, UNIT_FORMS[one.unit]) for name, one in told]
    if frame["unfinished"].any():
        columns.insert(0, _number("unfinished", "unfinished", _alarming))
    return _table(columns, [("", frame)], _policy)


def serving_job(frame: pd.DataFrame) -> Answer:
    """Does length prediction help? Gains over fcfs beside the memory pressure, at one rate.

    The rate is the largest that fcfs sustains (the smallest of all if it sustains none, or was not
    run): beyond it a latency says how long the streams are, rather than how good the policy is.
    """
    summary = frames.summarize_serving(frame)
    rate = told_rate(summary)
    chosen, largest = summary[summary["rate"] == rate], frames.saturation(summary)
    largest = largest.set_index(["prediction", "policy"])["rate"]
    columns = [
        _number(heading, f"{part}_{name}", seconds)
        for metric, name in (("TTFT", "ttft"), ("E2E", "e2el"))
        for heading, part in ((metric, "mean"), ("P99", "p99"), ("longest", "max"))
    ]
    columns += [
        _mean("gain", "gain", ".2f"),
        *(
            _number(METRICS[name].heading, name, UNIT_FORMS[METRICS[name].unit])
            for name in LIMITED_COLUMNS
            if name in chosen
        ),
        _number("KV", "kv_mean", percent),
        _number("peak", "kv_peak", percent),
        ("preempted", lambda row: f"{row['preemptions'] / row['n']:.1%}"),
        _number("wasted", "wasted_tokens", count),
        ("sustains", lambda row: shown(largest[row["prediction"], row["policy"]], "{:g}/s".format)),
    ]
    made = _table(columns, _by(chosen))
    first = frame.iloc[0]
    title = (
        f"{rate:g} requests/s, {first['clock']}, M = {int(first['memory']):,} tokens, "
        f"{frame['lane'].nunique()} streams of {int(first['n']):,} requests"
    )
    bound = f"{chosen['rate_bound'].mean():.3g}"
    note = (line.format(bound=bound) for line in SERVING_NOTE)
    return Answer(title, (made,), (*note, *missed_notes(frame)), summary)


def told_rate(summary: pd.DataFrame) -> float:
    """The rate of `serving_job`, from `summarize`."""
    fcfs = summary[(summary["policy"] == frames.SERVING_YARDSTICK) & summary["sustained"]]
    return float(fcfs["rate"].max() if len(fcfs) else summary["rate"].min())


def tuning(title: str, methods: pd.DataFrame, tests: pd.DataFrame) -> Answer:
    """One row per method, prediction and load, and the rule as written, from a `Found`'s tables."""
    tests = tests if "load" in tests else tests.assign(load=0.0)
    against = [name for name in tests if "_to_" in name]
    tails = [name for name in tests if name.partition("_of_")[0] in _TUNED]
    groups = tests.groupby(["load", "prediction", "method"], sort=False)
    halves = groups[against].agg(frames.half_width).add_suffix("_ci")
    means = groups[[*against, *tails]].mean()
    summary = means.join(halves).reset_index().merge(methods, "left", "method")
    sections = (
        (f"{label}, load {load:g}" if load else label,
         (_tuning_row(row, against, tails) for _, row in rows.iterrows()))
        for load, own in summary.groupby("load", sort=False)
        for label, rows in _by(own)
    )  # fmt: skip
    headings = [
        name.removeprefix("ratio_to_").replace("_to_", " / ").removesuffix(":on_eviction")
        for name in against
    ]
    headings = [name if "/" in name else f"/ {name}" for name in headings]
    for name in tails:
        own, _, other = name.partition("_of_")
        headings.append(f"{_TUNED[own]} of {other}" if other else _TUNED[own])
    made = table([*headings, "work", "time"], sections)
    warnings = missed_notes(tests)
    if "validation" not in methods:  # in folders of earlier versions
        return Answer(title, (made,), (*TUNING_NOTE[:1], *warnings), summary)
    both = _validated(methods, tests)
    rows = [
        (row["label"], f"{row['validation']:.4f}", with_half(row["test"], row["half"], ".4f"),
         row["word"])
        for _, row in both.iterrows()
    ]  # fmt: skip
    beside = table(("validation", "test", ""), [("", rows)])
    summary = summary.merge(both[["method", "test", "word"]], "left", "method")
    return Answer(title, (made, beside), (*TUNING_NOTE, *warnings), summary)


_TUNED = {"latency_p99": "P99", "p99_e2el": "P99", "longest_wait": "wait", "max_queueing": "wait"}
"""What stands beside the ratios of a tuned rule: its own, and another's."""


def _validated(methods: pd.DataFrame, tests: pd.DataFrame) -> pd.DataFrame:
    """For each method its validation score, the same of the test instances, and a word on both.

    The score is the geometric mean over all predictions and loads; `half` is half its 95 %
    confidence interval on the test instances, each of which counts once.
    """
    score = tests["score" if "score" in tests else "ratio_to_h_sf"]
    logs = np.log(score).groupby([tests["method"], tests["lane"]]).mean()
    groups = logs.groupby("method")
    told = pd.DataFrame({"test": np.exp(groups.mean()), "half": groups.agg(frames.half_width)})
    both = methods[["method", "label", "validation"]].merge(told, "left", "method")
    apart = np.log(both["test"] / both["validation"])
    both["word"] = np.where(
        apart.abs() <= both["half"], "",
        np.where(apart > 0, "worse than validation said", "better than validation said"),
    )  # fmt: skip
    return both.assign(half=both["half"] * both["test"])


def _tuning_row(row: pd.Series, against: Iterable[str], tails: Iterable[str]) -> tuple[str, ...]:
    ratios = (with_half(row[name], row[f"{name}_ci"], ".4f") for name in against)
    told = (
        shown(row[name], seconds if name.partition("_of_")[0] in _IN_SECONDS else rounds)
        for name in tails
    )
    cost = () if row.isna()["work"] else (count(row["work"]), f"{row['seconds']:.0f} s")
    return row["label"], *ratios, *told, *cost


_IN_SECONDS = frames.IN_SECONDS.values()

_MOST_ROWS = 40
"""Policies in the table of a sweep; of more, the best."""


def sweep_policies(view: SweepView) -> Answer:
    """A row per policy where all other axes are held at typical values."""
    seen = view.slice([])
    summary = summarize(seen.rows, ["policy"])
    best = view.best(seen.rows, "mean_latency", _MOST_ROWS)
    shown_rows = summary.set_index("policy", drop=False).loc[best]
    form = rounds if view.time() == "rounds" else seconds
    columns = [
        _mean(f"mean latency ({view.time()})", "mean_latency", form),
        *_tail(form),
        _mean("/ h_sf", "ratio_to_h_sf", ".3f"),
        _number("/ bound", "ratio_to_bound", ".3f"),
        _number("evicted", "evictions", ",.1f"),
        _number("wasted", "wasted", ".1%"),
    ]
    made = _table(columns, [("", shown_rows)])
    waits = WAIT if view.time() == "rounds" else "wait: most seconds until an admission"
    note = f"{seen.held}; means over {seen.instances:,} instances, ± half a 95 % interval; {waits}"
    notes = (note, *missed_notes(view.frame))
    return Answer(f"{len(view.frame):,} simulations", (made,), notes, summary)


CAPACITY_NOTE = (
    "the trace's arrivals are stretched to each rate; the answer is up to 0.5 % more, or what a "
    "higher rate gives by chance",
    "ceiling: proved, the rate that no policy serves more than for long, by memory and clock; a "
    "short trace may be served a little faster, since it ends",
)


def capacity_table(told: pd.DataFrame, slo: str, at: float) -> Answer:
    """The largest rate at which each policy keeps a service level, from `capacity.told`."""
    first = told.iloc[0]
    columns = [
        (
            "req/s",
            lambda row: f"{'over ' * row['more']}{row['rate']:.3f}" if row["rate"] else "none",
        ),
        _number("ceiling", "ceiling", ".3f"),
        ("of it", lambda row: shown(row["rate"] / row["ceiling"], percent)),
        _number("kept", "attainment", UNIT_FORMS["percent"]),
        *(
            _number(f"{title} {part.replace('p', 'P')}", f"{part}_{name}", seconds)
            for title, name in (("TTFT", "ttft"), ("E2EL", "e2el"))
            for part in ("mean", "p99", "max")
        ),
    ]
    made = _table(columns, [("", told)], _policy)
    title = (
        f"largest rate at which {at:g} % of the requests keep {slo}: {int(first['n']):,} requests, "
        f"M = {int(first['memory']):,} tokens, {first['clock']}"
    )
    return Answer(title, (made,), (*CAPACITY_NOTE, *missed_notes(told)), told)


def _largest_rate(row: pd.Series) -> str:
    return f"{'over ' * row['more']}{row['rate']:.3f}" if row["rate"] else "none"


def worst_case_table(found: pd.DataFrame) -> Answer:
    """How badly a policy does on the input that was found, from a table of one row."""
    one = found.iloc[0]
    title = (
        f"{one['policy']} / {one['against']}, M = {one['memory']}, n = {one['n']}, "
        f"lengths in [{one['lower']}, {one['upper']}]"
    )
    changes = one.get("changes", 0)  # none in folders of earlier versions
    rows = (
        ("worst case made by hand", f"{one['ratio_by_hand']:.3f}"),
        ("worst case found", f"{one['ratio']:.3f}"),
        ("more than by hand", f"{one['ratio'] / one['ratio_by_hand'] - 1:.1%}"),
        ("its total latency / optimum", f"{one['least']:.3f} to {one['most']:.3f}"),
        ("its evictions", f"{one['evictions']:,}"),
        *([("single changes, none worse", f"{changes:,}")] if changes else ()),
    )
    return Answer(title, (table(["total latency"], [("", rows)]),), (), found)
