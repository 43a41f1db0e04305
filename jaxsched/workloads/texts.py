"""Short texts for predictions, lengths and arrivals, as configurations and commands take them.

Each kind of text is one registry: `PREDICTIONS`, `LENGTHS`, `ARRIVALS`. An entry says how the text
is written, what it means and how it is read; errors and the help of the commands are made from it.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jaxsched.workloads import arrivals, embedded, intervals, joint, lengths, traces
from jaxsched.workloads.arrivals import ArrivalSource
from jaxsched.workloads.intervals import IntervalSource


@dataclasses.dataclass(frozen=True)
class Form:
    """A form of text: a kind, and what may follow its colon.

    Attributes:
      usage: How it is written, as errors say it.
      example: One of its texts, as the help of commands shows it.
      about: What that text means.
      read: What follows the colon -> what is wanted; ValueError says what is wrong with it.
    """

    usage: str
    example: str
    about: str
    read: Callable[[str], Any]


def unknown(shown: str, name: str, known: Iterable[str], what: str) -> str:
    """Text of the error for a name that is not one of `known`, with the nearest of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"unknown {what} {shown}{hint}; expected one of: {', '.join(known)}"


def help_lines(forms: Mapping[str, Form]) -> list[str]:
    """A line for each form: an example, and what it means."""
    return [f"  {form.example:<24} {form.about}" for form in forms.values()]


def _integers(rest: str, separator: str, size: int | None) -> tuple[int, ...]:
    values = tuple(int(part) for part in rest.split(separator))
    if size is not None and len(values) != size:
        raise ValueError(f"got {len(values)} numbers")
    return values


def _nothing(rest: str) -> None:
    if rest:
        raise ValueError(f"got {rest!r} after the colon")


# Predictions.


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A kind of prediction.

    Attributes:
      text: Its text, such as "relative:0.5".
      kind: What stands before the first colon, a key of `PREDICTIONS`.
      label: What it is called in tables and figures.
      parameter: The number that a figure would put on its axis: X, WIDTH, or UPPER; else None.
      source: memory -> a source of `jaxsched.workloads.intervals`; None for "columns".
    """

    text: str
    kind: str
    label: str
    parameter: float | None
    source: Callable[[int], IntervalSource] | None

    @property
    def reads_memory(self) -> bool:
        """Whether another memory gives other intervals."""
        return self.kind == "edges"


Parsed = tuple[str, float | None, Callable[[int], IntervalSource] | None]
"""Label, parameter and source, as in `Prediction`."""


def read_prediction(text: str) -> Prediction:
    """Reads the text of a prediction, one of `PREDICTIONS`.

    Raises:
      ValueError: If it is none; the text says what was expected.
    """
    kind, _, rest = text.partition(":")
    if kind not in PREDICTIONS:
        raise ValueError(unknown(repr(text), kind, PREDICTIONS, "prediction"))
    try:
        return Prediction(text, kind, *PREDICTIONS[kind].read(rest))
    except ValueError as error:
        usage = PREDICTIONS[kind].usage
        raise ValueError(f"prediction {text!r}: {error}; expected {usage}") from None


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


def _one(rest: str) -> Parsed:
    lower, upper = _integers(rest, ":", 2)
    source = intervals.one_for_all(lower, upper)
    return f"[{lower}, {upper}] for all", upper, lambda memory: source


def _classes(rest: str) -> Parsed:
    width, number = _integers(rest, ":", 2)
    source = intervals.classes(width=width, count=number)
    return f"{number} classes of {width}", width, lambda memory: source


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


PREDICTIONS: dict[str, Form] = {
    "relative": Form(
        "relative:X with X from 0 to below 1, such as relative:0.5",
        "relative:0.5", "from 0.5 to 1.5 times the true length", _relative,
    ),
    "one": Form(
        "one:LOWER:UPPER, such as one:1:1000", "one:1:1000", "the same interval for all", _one
    ),
    "classes": Form(
        "classes:WIDTH:COUNT, such as classes:100:10",
        "classes:100:10", "the class of the true length: 10 classes of 100 tokens", _classes,
    ),
    "edges": Form(
        "edges:E1,E2,…, such as edges:42,141,294,503",
        "edges:42,141,294,503", "the same with these edges; the last class ends at M", _edges,
    ),
    "exact": Form("exact, without anything after it", "exact", "the true length", _exact),
    "real": Form(
        "real, without anything after it",
        "real", "a class of LMSYS tokens, as wrong as a real predictor's", _real,
    ),
    "columns": Form(
        "columns, without anything after it",
        "columns", "the columns `lower` and `upper` of the trace", _columns,
    ),
}  # fmt: skip
"""Predictions of the output lengths; `read` gives `Parsed`."""


# Lengths: a law, then options after commas.

OPTIONS = "prompt:LOW:HIGH, max_prompt:N, max_output:N or max_total:N"
LIMITS = ("max_prompt", "max_output", "max_total")

EMBEDDED: dict[str, Callable[[], joint.Lengths]] = {
    "lmsys": embedded.lmsys,
    "lmsys_tokens": embedded.lmsys_tokens,
    "sharegpt": embedded.sharegpt,
}
"""Embedded length distributions by name."""


def read_lengths(text: str) -> joint.Lengths:
    """Reads the text of a law of lengths: one of `LENGTHS`, then `OPTIONS` after commas.

    `prompt:LOW:HIGH` (prompts equally likely, else one token) is for uniform and geometric; the
    other options condition the law on limits in tokens.

    Raises:
      ValueError: If it is none; the text says what was expected.
      OSError: If it names a trace that cannot be read.
    """
    head, *options = text.split(",")
    kind, _, rest = head.partition(":")
    try:
        chosen = dict(_option(option) for option in options)
        if kind not in LENGTHS:
            raise ValueError(unknown(repr(kind), kind, LENGTHS, "law of lengths"))
        if "prompt" in chosen and kind not in SYNTHETIC:
            raise ValueError(f"{kind} has prompts of its own; expected no option prompt")
        law = LENGTHS[kind].read(rest)
        if kind in SYNTHETIC:
            low, high = chosen.get("prompt", (1, 1))
            law = law(low if "prompt" not in chosen else (low, high))
        limits = {name: numbers[0] for name, numbers in chosen.items() if name in LIMITS}
        return law.truncated(**limits) if limits else law
    except ValueError as error:
        raise ValueError(f"workload {text!r}: {error}") from None


def trace_file(text: str) -> str | None:
    """The file that a law of lengths is drawn from, if it is a trace."""
    kind, _, rest = text.split(",")[0].partition(":")
    return rest if kind == "trace" else None


def _option(text: str) -> tuple[str, list[int]]:
    name, _, rest = text.partition(":")
    if name not in ("prompt", *LIMITS):
        raise ValueError(f"got option {text!r}; expected {OPTIONS}")
    return name, _whole(rest, 2 if name == "prompt" else 1, OPTIONS)


def _whole(rest: str, size: int, usage: str) -> list[int]:
    parts = rest.split(":")
    if len(parts) != size or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"got {rest!r}; expected {usage}, in whole numbers")
    return [int(part) for part in parts]


def _embedded(name: str) -> Callable[[str], joint.Lengths]:
    def read(rest: str) -> joint.Lengths:
        if rest:
            raise ValueError(f"got {rest!r} after the colon; expected {name} without it")
        return EMBEDDED[name]()

    return read


def _uniform(rest: str) -> Callable[[lengths.Spec], joint.Lengths]:
    low, high = _whole(rest, 2, LENGTHS["uniform"].usage)
    return lambda prompt: lengths.uniform((low, high), prompt=prompt)


def _geometric(rest: str) -> Callable[[lengths.Spec], joint.Lengths]:
    mean, maximum = _whole(rest, 2, LENGTHS["geometric"].usage)
    return lambda prompt: lengths.geometric(mean, prompt=prompt, maximum=maximum)


def _trace(rest: str) -> joint.Lengths:
    if not rest:
        raise ValueError(f"got no file; expected {LENGTHS['trace'].usage}")
    return traces.read_trace(rest).lengths()


SYNTHETIC = ("uniform", "geometric")
"""Laws whose prompts an option says; `read` gives a function of them."""

LENGTHS: dict[str, Form] = {
    **{name: Form(name, name, "an embedded distribution", _embedded(name)) for name in EMBEDDED},
    "uniform": Form(
        "uniform:LOW:HIGH, such as uniform:1:100",
        "uniform:1:100", "outputs equally likely", _uniform,
    ),
    "geometric": Form(
        "geometric:MEAN:MAX, such as geometric:50:1000",
        "geometric:50:1000", "geometric outputs of mean 50, up to 1000", _geometric,
    ),
    "trace": Form(
        "trace:FILE, such as trace:requests.csv",
        "trace:FILE", "the requests of a trace, drawn with replacement", _trace,
    ),
}  # fmt: skip
"""Laws of prompt and output lengths."""


# Arrivals.


@dataclasses.dataclass(frozen=True)
class Arrivals:
    """A kind of arrivals.

    Attributes:
      text: Its text, such as "poisson:2".
      kind: What stands before the colon, a key of `ARRIVALS`.
      number: Seconds of a round, the speed, or requests per round or second; infinite for a
        backlog.
    """

    text: str
    kind: str
    number: float

    @property
    def in_trace(self) -> bool:
        """Whether they are a trace's own."""
        return self.kind in ("rounds", "trace")

    @property
    def backlog(self) -> bool:
        """Whether everything is there from the start."""
        return self.kind == "backlog"

    def source(self, in_seconds: bool) -> ArrivalSource | None:
        """Random ones as in `jaxsched.workloads.arrivals`; None for a backlog."""
        if self.backlog:
            return None
        return (arrivals.poisson_seconds if in_seconds else arrivals.poisson)(self.number)


def read_arrivals(text: str, kinds: Sequence[str] | None = None) -> Arrivals:
    """Reads the text of arrivals, one of `kinds` (by default all of `ARRIVALS`).

    Raises:
      ValueError: If it is none; the text says what was expected.
    """
    forms = {kind: ARRIVALS[kind] for kind in kinds or ARRIVALS}
    kind, colon, rest = text.partition(":")
    try:
        number = forms[kind].read(rest) if not colon or rest else math.nan
        if not 0 < number <= math.inf or (math.isinf(number) and kind != "backlog"):
            raise ValueError
    except (KeyError, ValueError):
        expected = ", ".join(form.usage for form in forms.values())
        raise ValueError(f"{text!r}; expected one of {expected}, more than 0") from None
    return Arrivals(text, kind, number)


def _backlog(rest: str) -> float:
    _nothing(rest)
    return math.inf


ARRIVALS: dict[str, Form] = {
    "backlog": Form("backlog", "backlog", "everything is there from the start", _backlog),
    "rounds": Form(
        "rounds:SECONDS", "rounds:SECONDS", "the trace's own times, in rounds of that length", float
    ),
    "trace": Form(
        "trace, trace:SPEED", "trace, trace:SPEED",
        "the trace's own times, or SPEED times as fast; with --clock",
        lambda rest: float(rest) if rest else 1.0,
    ),
    "poisson": Form(
        "poisson:RATE", "poisson:RATE", "RATE requests per second at random; with --clock", float
    ),
}  # fmt: skip
"""Arrivals of requests; `read` gives the number of `Arrivals`."""

RANDOM_ARRIVALS = ("backlog", "poisson")
"""Arrivals that need no trace; without a clock the rate of the second is per round."""
