"""Short texts for predictions and lengths, as written in configuration files and on command lines.

Predictions:

    one:LOWER:UPPER       one interval for all requests
    classes:WIDTH:COUNT   the class of the true length: COUNT classes of WIDTH tokens, [1, WIDTH], …
    edges:E1,…,EK         the class of the true length: [1, E1), [E1, E2), …, [EK, memory]
    relative:X            (1 ± X) times the true length
    exact                 the true length
    real                  a class of LMSYS tokens, as wrong as a real predictor (for lmsys_tokens)
    columns               the trace's own columns `lower` and `upper`

Arrivals of a trace:

    backlog               everything is there from the start
    rounds:SECONDS        the trace's own times, in rounds of that length
    trace, trace:SPEED    the trace's own times in seconds, or SPEED times as fast; under a clock
    poisson:RATE          RATE requests per second at random, in the trace's order; under a clock
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Sequence

from jaxsched.workloads import embedded, intervals
from jaxsched.workloads.intervals import IntervalSource
from jaxsched.workloads.lengths import Lengths

LENGTHS: dict[str, Callable[[], Lengths]] = {
    "lmsys": embedded.lmsys,
    "lmsys_tokens": embedded.lmsys_tokens,
    "sharegpt": embedded.sharegpt,
}
"""Embedded length distributions by name."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """A kind of prediction.

    Attributes:
      text: Its specification, such as "relative:0.5".
      kind: What stands before the first colon.
      label: What it is called in tables and figures.
      parameter: The number that a figure would put on its axis: X, WIDTH, or UPPER; else None.
      source: memory -> a source of `jaxsched.workloads.intervals`; None for "columns".
    """

    text: str
    kind: str
    label: str
    parameter: float | None
    source: Callable[[int], IntervalSource] | None


Parsed = tuple[str, float | None, Callable[[int], IntervalSource] | None]
"""Label, parameter and source, as in `Interval`."""


def interval(text: str) -> Interval:
    """Reads the specification of a prediction.

    Raises:
      ValueError: If it is none; the text says what was expected.
    """
    kind, _, rest = text.partition(":")
    if kind not in KINDS:
        raise ValueError(unknown(repr(text), kind, KINDS, "prediction"))
    try:
        label, parameter, source = KINDS[kind](rest)
    except ValueError as error:
        raise ValueError(f"prediction {text!r}: {error}; expected {USAGE[kind]}") from None
    return Interval(text, kind, label, parameter, source)


def class_edges(edges: Sequence[int], memory: int) -> tuple[int, ...]:
    """Edges of `intervals.classes` for the inner edges of "edges:…"; the last class ends at M.

    Raises:
      ValueError: If they leave no room for the last class.
    """
    if edges[-1] > memory:
        text = ",".join(map(str, edges))
        raise ValueError(
            f"edges:{text}: the last edge is {edges[-1]}; expected at most M = {memory}"
        )
    return (1, *edges, memory + 1)


def unknown(shown: str, name: str, known: Iterable[str], what: str) -> str:
    """Text of the error for a name that is not one of `known`, with the nearest of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"unknown {what} {shown}{hint}; expected one of: {', '.join(known)}"


def _one(rest: str) -> Parsed:
    lower, upper = _integers(rest, ":", 2)
    source = intervals.one_for_all(lower, upper)
    return f"[{lower}, {upper}] for all", upper, lambda memory: source


def _classes(rest: str) -> Parsed:
    width, count = _integers(rest, ":", 2)
    source = intervals.classes(width=width, count=count)
    return f"{count} classes of {width}", width, lambda memory: source


def _edges(rest: str) -> Parsed:
    edges = _integers(rest, ",", None)
    intervals.classes(edges=(1, *edges))  # refuses bad edges before the memory is known
    label = f"classes {', '.join(map(str, edges))}"
    return label, None, lambda memory: intervals.classes(edges=class_edges(edges, memory))


def _relative(rest: str) -> Parsed:
    x = float(rest)
    source = intervals.relative(x)
    return f"length × (1 ± {x:g})", x, lambda memory: source


def _exact(rest: str) -> Parsed:
    _nothing(rest)
    return "true length", 0.0, lambda memory: intervals.relative(0.0)


def _real(rest: str) -> Parsed:
    _nothing(rest)
    source = embedded.real_predictions()
    return "real predicted classes", None, lambda memory: source


def _columns(rest: str) -> Parsed:
    _nothing(rest)
    return "the trace's own intervals", None, None


def _integers(rest: str, separator: str, count: int | None) -> tuple[int, ...]:
    values = tuple(int(part) for part in rest.split(separator))
    if count is not None and len(values) != count:
        raise ValueError(f"got {len(values)} numbers")
    return values


def _nothing(rest: str) -> None:
    if rest:
        raise ValueError(f"got {rest!r} after the colon")


KINDS: dict[str, Callable[[str], Parsed]] = {
    "one": _one,
    "classes": _classes,
    "edges": _edges,
    "relative": _relative,
    "exact": _exact,
    "real": _real,
    "columns": _columns,
}
USAGE = {
    "one": "one:LOWER:UPPER, such as one:1:1000",
    "classes": "classes:WIDTH:COUNT, such as classes:100:10",
    "edges": "edges:E1,E2,…, such as edges:42,141,294,503",
    "relative": "relative:X with X from 0 to below 1, such as relative:0.5",
    "exact": "exact, without anything after it",
    "real": "real, without anything after it",
    "columns": "columns, without anything after it",
}


@dataclasses.dataclass(frozen=True)
class Arrivals:
    """How the requests of a trace arrive.

    Attributes:
      kind: "backlog", "rounds", "trace" or "poisson".
      number: Seconds of a round, the speed, or requests per second; None for a backlog.
    """

    kind: str
    number: float | None

    @property
    def in_seconds(self) -> bool:
        """Whether the arrivals are in seconds, for simulations under a clock."""
        return self.kind in ("trace", "poisson")


ARRIVALS = ("backlog", "rounds:SECONDS", "trace", "trace:SPEED", "poisson:RATE")


def arrivals(text: str) -> Arrivals:
    """Reads the specification of a trace's arrivals.

    Raises:
      ValueError: If it is none; the text says what was expected.
    """
    kind, colon, rest = text.partition(":")
    if text == "backlog":
        return Arrivals(kind, None)
    if text == "trace":
        return Arrivals(kind, 1.0)
    try:
        number = float(rest) if colon and kind in ("rounds", "trace", "poisson") else 0.0
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise ValueError(f"{text!r}; expected one of {', '.join(ARRIVALS)}, more than 0")
    return Arrivals(kind, number)
