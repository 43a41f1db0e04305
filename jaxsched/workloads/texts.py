"""Short texts for predictions, lengths and arrivals, as configurations and commands take them.

Each kind of text is one registry: `PREDICTIONS`, `LENGTHS`, `ARRIVALS`. An entry says how the text
is written, what it means and how it is read; errors and the help of the commands are made from it.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxsched.toml import unknown
from jaxsched.workloads import arrivals, embedded, intervals, lengths, traces
from jaxsched.workloads.arrivals import ArrivalSource
from jaxsched.workloads.intervals import IntervalSource


@dataclasses.dataclass(frozen=True)
class Form:
    """A form of text: a kind, and what may follow its colon."""

    form: str  # how it is written: "one:LOWER:UPPER"; without a colon if nothing may follow
    about: str  # what the example means
    read: Callable[[str], Any]  # what follows the colon -> what is wanted, or ValueError
    example: str = ""  # such a text, as the help of commands shows it; "" for the form itself


def _by_kind(*forms: Form) -> dict[str, Form]:
    return {re.split("[:,]", form.form)[0]: form for form in forms}


def help_lines(forms: Mapping[str, Form]) -> list[str]:
    """A line for each form: an example, and what it means."""
    return [f"  {form.example or form.form:<24} {form.about}" for form in forms.values()]


def _read(forms: Mapping[str, Form], text: str, what: str) -> tuple[str, Any]:
    """The kind of a text, and what its form reads."""
    kind, _, rest = text.partition(":")
    if kind not in forms:
        raise ValueError(unknown(repr(text), kind, forms, what))
    form = forms[kind]
    try:
        if text.endswith(":") or (rest and ":" not in form.form):
            raise ValueError(f"got {rest!r} after the colon")
        return kind, form.read(rest)
    except ValueError as error:
        usage = f"such as {form.example}" if ":" in form.form else "without anything after it"
        said = f"{error}; expected {form.form}, {usage}"
        raise ValueError(f"{what} {text!r}: {said}") from None


# Predictions.


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A kind of prediction."""

    text: str  # such as "relative:0.5"
    kind: str  # what stands before the first colon, a key of `PREDICTIONS`
    label: str  # what it is called in tables and figures
    parameter: float | None  # what a figure would put on its axis: X, WIDTH, or UPPER; else None
    source: Callable[[int], IntervalSource] | None  # memory -> intervals; None for "columns"

    @property
    def reads_memory(self) -> bool:
        """Whether another memory gives other intervals."""
        return self.kind == "edges"


Parsed = tuple[str, float | None, Callable[[int], IntervalSource] | None]
"""Label, parameter and source, as in `Prediction`."""


def read_prediction(text: str) -> Prediction:
    """Reads the text of a prediction; ValueError says what was expected of `PREDICTIONS`."""
    kind, parsed = _read(PREDICTIONS, text, "prediction")
    return Prediction(text, kind, *parsed)


def class_edges(edges: Sequence[int], memory: int) -> tuple[int, ...]:
    """Edges of `intervals.classes` for the inner edges of "edges:…"; the last class ends at M."""
    if edges[-1] > memory:
        text = f"edges:{','.join(map(str, edges))}"
        raise ValueError(f"{text}: the last edge is {edges[-1]}; expected at most M = {memory}")
    return (1, *edges, memory + 1)


def _one(rest: str) -> Parsed:
    lower, upper = _whole(rest, 2)
    source = intervals.one_for_all(lower, upper)
    return f"[{lower}, {upper}] for all", upper, lambda memory: source


def _classes(rest: str) -> Parsed:
    width, number = _whole(rest, 2)
    source = intervals.classes(width=width, count=number)
    return f"{number} classes of {width}", width, lambda memory: source


def _edges(rest: str) -> Parsed:
    edges = tuple(int(part) for part in rest.split(","))
    intervals.classes(edges=(1, *edges))  # refuses bad edges before the memory is known
    label = f"classes {', '.join(map(str, edges))}"
    return label, None, lambda memory: intervals.classes(edges=class_edges(edges, memory))


def _relative(rest: str) -> Parsed:
    x = float(rest)
    source = intervals.relative(x)
    return f"length × (1 ± {x:g})", x, lambda memory: source


PREDICTIONS = _by_kind(
    Form("one:LOWER:UPPER", "the same interval for all", _one, "one:1:1000"),
    Form(
        "classes:WIDTH:COUNT", "the class of the true length: 10 classes of 100 tokens", _classes,
        "classes:100:10",
    ),
    Form(
        "edges:E1,E2,…", "the same with these edges; the last class ends at M", _edges,
        "edges:42,141,294,503",
    ),
    Form(
        "relative:X with X from 0 to below 1", "from 0.5 to 1.5 times the true length", _relative,
        "relative:0.5",
    ),
    Form(
        "exact", "the true length",
        lambda rest: ("true length", 0.0, lambda memory: intervals.relative(0.0)),
    ),
    Form(
        "real", "a class of LMSYS tokens, as wrong as a real predictor's",
        lambda rest: ("real predicted classes", None, lambda memory: embedded.real_predictions()),
    ),
    Form(
        "columns", "the columns `lower` and `upper` of the trace",
        lambda rest: ("the trace's own intervals", None, None),
    ),
)  # fmt: skip
"""Predictions of the output lengths; `read` gives `Parsed`."""


# Lengths: a law, then options after commas.

LENGTHS_OPTIONS = "prompt:LOW:HIGH, max_prompt:N, max_output:N or max_total:N"

EMBEDDED: dict[str, Callable[[], lengths.Lengths]] = {
    "lmsys": embedded.lmsys,
    "lmsys_tokens": embedded.lmsys_tokens,
    "sharegpt": embedded.sharegpt,
}
"""Embedded length distributions by name."""


def read_lengths(
    text: str, read_file: Callable[[str], traces.Trace] = traces.read_trace
) -> lengths.Lengths:
    """Reads the text of a law of lengths: one of `LENGTHS`, then `LENGTHS_OPTIONS` after commas.

    `prompt:LOW:HIGH` (prompts equally likely, else one token) is for `SYNTHETIC` laws; the other
    options condition the law on limits in tokens. `read_file` reads a trace.

    Raises:
      ValueError: If it is none; the text says what was expected.
      OSError: If it names a trace that cannot be read.
    """
    head, *options = text.split(",")
    kind, law = _read(LENGTHS, head, "law of lengths")
    try:
        if kind == "trace":
            law = _of_trace(head.partition(":")[2], read_file)
        limits = dict(_option(option) for option in options)
        prompt = limits.pop("prompt", 1)
        if prompt != 1 and kind not in SYNTHETIC:
            raise ValueError(f"{kind} has prompts of its own; expected no option prompt")
        return law(prompt).truncated(**limits) if limits else law(prompt)
    except ValueError as error:
        raise ValueError(f"workload {text!r}: {error}") from None


def trace_file(text: str) -> str | None:
    """The file that a law of lengths is drawn from, if it is a trace."""
    kind, _, rest = text.split(",")[0].partition(":")
    return rest if kind == "trace" else None


def _option(text: str) -> tuple[str, Any]:
    name, _, rest = text.partition(":")
    if name not in ("prompt", "max_prompt", "max_output", "max_total"):
        raise ValueError(f"got option {text!r}; expected {LENGTHS_OPTIONS}")
    expected = f"; expected {LENGTHS_OPTIONS}, in whole numbers"
    return name, _whole(rest, 2, expected) if name == "prompt" else _whole(rest, 1, expected)[0]


def _whole(rest: str, size: int, expected: str = "") -> tuple[int, ...]:
    parts = rest.split(":")
    if len(parts) != size or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"got {rest!r}{expected}")
    return tuple(map(int, parts))


Law = Callable[[lengths.Spec], lengths.Lengths]
"""prompt, for laws that have none of their own -> law."""


def _embedded(name: str) -> Form:
    return Form(name, "an embedded distribution", lambda _: lambda prompt: EMBEDDED[name]())


def _uniform(rest: str) -> Law:
    low, high = _whole(rest, 2)
    return lambda prompt: lengths.uniform((low, high), prompt=prompt)


def _geometric(rest: str) -> Law:
    mean, maximum = _whole(rest, 2)
    return lambda prompt: lengths.geometric(mean, prompt=prompt, maximum=maximum)


def _trace(rest: str) -> Law:
    if not rest:
        raise ValueError("got no file")
    return _of_trace(rest, traces.read_trace)


def _of_trace(file: str, read_file: Callable[[str], traces.Trace]) -> Law:
    return lambda prompt: read_file(file).lengths()


SYNTHETIC = ("uniform", "geometric")
"""Laws whose prompts an option says."""

LENGTHS = _by_kind(
    *map(_embedded, EMBEDDED),
    Form("uniform:LOW:HIGH", "outputs equally likely", _uniform, "uniform:1:100"),
    Form(
        "geometric:MEAN:MAX", "geometric outputs of mean 50, up to 1000", _geometric,
        "geometric:50:1000",
    ),
    Form(
        "trace:FILE", "the requests of a trace, drawn with replacement", _trace,
        "trace:requests.csv",
    ),
)  # fmt: skip
"""Laws of prompt and output lengths; `read` gives `Law`."""


# Arrivals.


@dataclasses.dataclass(frozen=True)
class Arrivals:
    """A kind of arrivals."""

    text: str  # such as "poisson:2"
    kind: str  # what stands before the colon, a key of `ARRIVALS`
    number: float  # seconds of a round, the speed, or a rate; infinite for a backlog

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
    """Reads the text of arrivals, one of `kinds` (by default all of `ARRIVALS`)."""
    forms = {kind: ARRIVALS[kind] for kind in kinds or ARRIVALS}
    try:
        kind, number = _read(forms, text, "arrivals")
        if not 0 < number < math.inf and kind != "backlog":
            raise ValueError
    except ValueError:
        expected = ", ".join(form.form for form in forms.values())
        raise ValueError(f"{text!r}; expected one of {expected}, more than 0") from None
    return Arrivals(text, kind, number)


ARRIVALS = _by_kind(
    Form("backlog", "everything is there from the start", lambda rest: math.inf),
    Form("rounds:SECONDS", "the trace's own times, in rounds of that length", float),
    Form(
        "trace, trace:SPEED", "the trace's own times, or SPEED times as fast; with --clock",
        lambda rest: float(rest or 1),
    ),
    Form("poisson:RATE", "RATE requests per second at random; with --clock", float),
)  # fmt: skip
"""Arrivals of requests; `read` gives the number of `Arrivals`."""

RANDOM_ARRIVALS = ("backlog", "poisson")
"""Arrivals that need no trace; without a clock the rate of the second is per round."""
