"""What help says of policies, predictions, arrivals, clocks and formats, from their registries."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable

import jaxsched as js
from jaxsched import clocks
from jaxsched.policies import files, names, own
from jaxsched.workloads import texts, traces

WIDTH = 98


def policies() -> str:
    """Every text that names a policy, with the first line of what makes the policy."""
    own_head = own.USAGE.partition(":")[0]
    makers = {**names.SHIPPED, names.FAMILY: js.a_min_family, "tuned": files, own_head: own}
    groups: dict[str, list[str]] = {}
    for text in names.usage():
        groups.setdefault(text.partition(":")[0], []).append(text)
    lines = ["policies:"]
    for head, group in groups.items():
        lines += _entry(group, _first_line(makers.get(head) or makers[group[0]]))
    shipped = textwrap.wrap(f"Shipped tuned rules: {', '.join(files.names())}.", WIDTH)
    return "\n".join([*lines, *shipped]) + "\n"


def predictions() -> str:
    """The text forms of predictions."""
    return "\n".join(["predictions (--interval):", *texts.help_lines(texts.PREDICTIONS)]) + "\n"


def arrivals() -> str:
    """The text forms of arrivals of a trace."""
    return "\n".join(["arrivals (--arrivals):", *texts.help_lines(texts.ARRIVALS)]) + "\n"


def clock_names() -> str:
    """Every clock, with its model and hardware."""
    lines = (_entry([name], preset.about) for name, preset in clocks.PRESETS.items())
    return "\n".join(["clocks (--clock):", *(line for entry in lines for line in entry)]) + "\n"


def formats() -> str:
    """The formats of traces, and the fields that --columns can name."""
    lines = [
        *_wrapped("formats (--format): ", ("auto", *traces.FORMATS)),
        *_wrapped("fields (--columns output=new_tokens,prompt=input,…): ", traces.FIELDS),
    ]
    return "\n".join(lines) + "\n"


def _entry(group: Iterable[str], meaning: str) -> list[str]:
    """Names two apart, and what they mean on the lines below."""
    below = textwrap.wrap(meaning, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return ["  " + "  ".join(group), *below]


def _wrapped(title: str, words: Iterable[str]) -> list[str]:
    return textwrap.wrap(title + ", ".join(words), WIDTH, subsequent_indent="  ")


def _first_line(function: object) -> str:
    function = getattr(function, "func", function)  # of a partial one
    return (inspect.getdoc(function) or "").partition("\n")[0]
