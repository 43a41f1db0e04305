"""What help says of policies, predictions, arrivals, clocks and formats, from their registries."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable
from types import ModuleType

import jaxsched
from jaxsched import clocks, specs
from jaxsched.policies import files, names
from jaxsched.workloads import traces

WIDTH = 98


def policies() -> str:
    """Every name of a policy, with the first line of its function's docstring."""
    known = [*names.SHIPPED, *(f"{name}=NUMBER" for name in names.NUMBERED)]
    groups: dict[str, list[str]] = {}
    for name in known:
        groups.setdefault(name.partition(":")[0], []).append(name)
    lines = ["policies:"]
    for head, group in groups.items():
        lines += _entry(group, _first_line(getattr(jaxsched, head)))
    shipped = f"a rule found by jaxsched tune: shipped ones ({', '.join(files.names())}), or yours"
    return "\n".join([*lines, *_entry(["tuned:NAME", "tuned:FILE.toml"], shipped)]) + "\n"


def predictions() -> str:
    """The text forms of predictions."""
    return f"predictions (--interval):\n{_forms(specs, 'Predictions:')}\n"


def arrivals() -> str:
    """The text forms of arrivals of a trace."""
    return f"arrivals (--arrivals):\n{_forms(specs, 'Arrivals of a trace:')}\n"


def clock_names() -> str:
    """Every clock, with the first line of its docstring."""
    lines = (_entry([name], _first_line(preset)) for name, preset in clocks.PRESETS.items())
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
    return (inspect.getdoc(function) or "").partition("\n")[0]


def _forms(module: ModuleType, title: str) -> str:
    """The paragraph of a module's docstring after a title: its text forms and what they mean."""
    _, _, after = (module.__doc__ or "").partition(f"{title}\n\n")
    return textwrap.indent(textwrap.dedent(after.partition("\n\n")[0]), "  ")
