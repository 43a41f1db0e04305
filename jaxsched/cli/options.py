"""The commands of `jaxsched` and their options; nothing here needs pandas or matplotlib.

Each command is a function that adds its options to a parser; its docstring is the command's help.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import re
import textwrap
from argparse import ArgumentParser
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jaxsched as js
from jaxsched import clocks
from jaxsched.clocks import texts as texts_of_clocks
from jaxsched.policies import files, names, own
from jaxsched.studies import trace
from jaxsched.workloads import texts, traces

HELP_WIDTH = 98
"""Columns of the lists of names at the end of the help."""

PAPER = "h_sf,a_max,a_min:on_eviction,a_min:every_round,mc_sf,fcfs"
"""The policies that `simulate` runs by default."""


def run(parser: ArgumentParser) -> None:
    """Run the job of a configuration file.

    Runs every policy under every prediction of a configuration file on the same random
    instances. Started again after an interruption, it goes on where it stopped.
    """
    _config(parser, "paper")
    _policies(parser)
    add = parser.add_argument
    add("--lanes", type=int, metavar="N", help="random instances for each point")
    add("--seed", type=int, metavar="S", help="seed of the random instances")
    _trace_options(parser, file=True)
    _printed(parser)


def simulate(parser: ArgumentParser) -> None:
    """Run the requests of a trace.

    Runs the requests of a trace under each policy and prints how long they took: in rounds (in one
    round every running request generates one token), or with --clock in seconds. By default all
    requests are there at the start.

    The format is recognized by the names of the file's columns, or name those of any CSV, JSON or
    Parquet file with --columns; plain or compressed.
    """
    _requests(parser, "all are there at the start")
    add = parser.add_argument
    add("--out", type=Path, metavar="DIR", help="write the table to DIR/results.parquet as well")
    add("--report", type=Path, metavar="FILE", help="write a page to send: one HTML file")
    add("--per-request", action="store_true", help="and every request to DIR/requests.parquet")
    add("--ttft-limit", type=float, metavar="S", help="with --clock: count requests that have the "
        "first token in S seconds")  # fmt: skip
    add("--tpot-limit", type=float, metavar="S", help="and take at most S seconds a token after it")
    add("--slo", metavar="NAME=S,…", help="with --clock: how many requests keep these limits in "
        "seconds, such as ttft=2,tpot=0.2,e2e=30")  # fmt: skip


def capacity(parser: ArgumentParser) -> None:
    """Find the largest rate at which a trace's requests are served in time.

    Stretches or squeezes the arrivals of a trace, and finds by bisection the largest rate at which
    so many of its requests keep a service level under each policy; beside it stands the rate that
    no policy serves more than, which is proved. With --out, started again after an interruption,
    it goes on where it stopped.
    """
    _requests(parser, "the trace's")
    add = parser.add_argument
    add(
        "--slo", required=True, metavar="NAME=S,…", help="limits in seconds: ttft=2,tpot=0.2,e2e=30"
    )
    add("--at", type=float, metavar="PERCENT", help="of the requests keep them; default: 99")
    add("--out", type=Path, metavar="DIR", help="keep every rate that was tried in DIR")


def _requests(parser: ArgumentParser, arrive: str) -> None:
    """A trace, and what is simulated of it."""
    add = parser.add_argument
    add("trace", type=Path, metavar="TRACE", help="file of requests; sample is one that ships")
    add("--memory", type=int, required=True, metavar="M", help="KV cache of the worker, in tokens")
    add("--interval", metavar="KIND", help="prediction, see below; default: the trace's own")
    _trace_options(parser)
    add("--seed", type=int, metavar="S", help="shuffle the requests, which draws ties at random")
    add("--arrivals", metavar="KIND",
        help=f"when requests arrive, see below; default: {arrive}")  # fmt: skip
    add("--max-batch", type=int, metavar="B", help="at most B requests run together")
    add("--worker", metavar="NAME", help="whose rules hold: paper (the default), or "
        "vllm:block=16,max_num_seqs=256,budget=2048, its numbers as you set them")  # fmt: skip
    add("--clock", metavar="NAME", help="results in seconds on that hardware, see below")
    _explain(parser, ["predictions (--interval):", *texts.help_lines(texts.PREDICTIONS)])
    _explain(parser, ["arrivals (--arrivals):", *texts.help_lines(texts.ARRIVALS)])
    entries = (_entry([name], preset.about) for name, preset in clocks.PRESETS.items())
    forms = _entry(texts_of_clocks.FORMS, "your own numbers, or a file of `jaxsched clock fit`")
    _explain(parser, ["clocks (--clock):", *itertools.chain(*entries), *forms])
    _policies(parser, PAPER)
    _printed(parser)


def sweep(parser: ArgumentParser) -> None:
    """Run every combination of a configuration file.

    Runs every combination of the values of a configuration file. Started again after an
    interruption, it goes on where it stopped. docs/sweeps.md says more.
    """
    _config(parser, "sweep_small")
    _policies(parser)
    add = parser.add_argument
    _trace_options(parser)
    add("--dry-run", action="store_true", help="say what it would take, and stop there")
    add("--engine", default="auto", choices=("auto", "jax", "native"),
        help="what simulates; the results are the same")  # fmt: skip
    add("--chunk", type=_positive, metavar="N", help="simulations in a file; default: 10 s of them")
    add("--distributed", action="store_true", help="one of several processes, which JAX tells "
        "apart: under SLURM, Open MPI, on TPU pods")  # fmt: skip
    add("--coordinator", metavar="HOST:PORT", help="elsewhere: where the first process listens")
    add("--num-processes", type=_positive, metavar="N", help="how many processes there are")
    add("--process-id", type=int, metavar="I", help="which one this is, from 0")


def report(parser: ArgumentParser) -> None:
    """Make a page of the results of any command.

    Prints the table of a folder of results and makes a page of it that can be sent: one HTML file
    with tables, figures, what was assumed and how to reproduce it, which needs nothing else.
    """
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder; --out of its command")
    _printed(parser)


def tune(parser: ArgumentParser) -> None:
    """Search a rule of the A_min family.

    Searches the numbers of a rule on simulated requests, beside baselines at the same work,
    and writes the best to a file. Started again after an interruption, it goes on where it
    stopped. docs/tuning.md says more.
    """
    _config(parser, "tune_sharegpt_one", "folder of the results; the rule is DIR/NAME.toml, NAME "
            "being that of DIR without tune_")  # fmt: skip
    add = parser.add_argument
    _trace_options(parser, file=True)
    add("--lengths", type=_lengths, metavar="NAME,…", help="where lengths come from, such as "
        "lmsys_tokens or sharegpt,max_total:4030")  # fmt: skip
    add("--predictions", nargs="+", metavar="KIND", help="such as relative:0.5 relative:0.9")
    add("--steps", type=_positive, metavar="N", help="steps of the descent")
    add("--seed", type=int, metavar="S", help="of everything random")
    _printed(parser)


def predict(parser: ArgumentParser) -> None:
    """Learn output lengths from prompts.

    Trains a predictor of output lengths, and adds its intervals to requests. docs/predict.md says
    more.
    """
    actions = parser.add_subparsers(metavar="ACTION", required=True, dest="action")
    train = actions.add_parser("train", help="train, calibrate and evaluate a predictor",
        description="Trains a predictor. Started again after an interruption, it goes on where it "
        "stopped.")  # fmt: skip
    _config(train, "predictor_sharegpt", "folder of the predictor and its report")
    add = train.add_argument
    add("--data", metavar="FILE", help="CSV, JSONL or Parquet, instead of that of CONFIG")
    add("--columns", type=_pairs, metavar="FIELD=NAME,…",
        help="its columns: text or prompt (tokens) or both, and output (tokens)")  # fmt: skip
    add("--seed", type=int, metavar="S", help="of the split and the weights")
    _printed(train)
    apply = actions.add_parser("apply", help="add lower and upper to requests",
        description="Writes requests with the columns lower and upper, for jaxsched simulate; the "
        "text is left out.")  # fmt: skip
    add = apply.add_argument
    add("predictor", type=Path, metavar="DIR", help="folder of the predictor")
    add("requests", type=Path, metavar="REQUESTS", help="CSV, JSONL or Parquet")
    add("--out", type=Path, required=True, metavar="FILE", help="Parquet file to write")
    add("--coverage", type=float, default=0.8, metavar="C",
        help="probability of lying in [lower, upper]; default: 0.8")  # fmt: skip
    add("--level", type=float, metavar="L", help="make lower a bound of its own, which the output "
        "reaches with this probability; 0.3 schedules well")  # fmt: skip
    add("--columns", type=_pairs, metavar="FIELD=NAME,…", help="its columns: text or prompt")


def clock(parser: ArgumentParser) -> None:
    """Fit a clock to measured rounds.

    Reads a CSV file of rounds measured on your own worker, with the columns prompt_tokens
    (prefilled in the round), active (requests that ran), cache_tokens (KV cache in use) and
    seconds; fits the coefficients of a clock, says how well, and writes them to a file for
    --clock FILE.toml.
    """
    add = parser.add_argument
    add("action", choices=("fit",), help="what to do")
    add("measurements", type=Path, metavar="MEASUREMENTS.csv", help="measured rounds")
    add("--out", type=Path, metavar="FILE.toml", help="default: MEASUREMENTS.toml, beside them")


def worst_case(parser: ArgumentParser) -> None:
    """Search an input on which a policy does badly.

    Mutates and selects lists of true lengths within one interval [αu, u] for all, u = M − prompt,
    a thousand at a time, from the worst cases that are known. Writes the worst as a file that
    simulate reads, replayed by the reference, with a picture. docs/optimum.md says more.
    """
    add = parser.add_argument
    add("--policy", default="a_min", metavar="NAME", help="see below; default: %(default)s")
    add("--against", default="h_sf", metavar="WHAT", choices=("h_sf", "bound", "optimal"),
        help="what its total latency is divided by: h_sf, bound (proved) or optimal (searched for "
        "up to 62 requests, else the best found); default: %(default)s")  # fmt: skip
    add("--alpha", type=float, default=0.5, metavar="A", help="l / u; default: %(default)s")
    add("--memory", type=_positive, default=256, metavar="M", help="tokens; default: %(default)s")
    add("--requests", type=_positive, default=256, metavar="N", help="default: %(default)s")
    add("--prompt", type=_positive, default=1, metavar="S", help="of all; default: %(default)s")
    add("--lanes", type=_positive, default=1024, metavar="K",
        help="cases in a generation; default: %(default)s")  # fmt: skip
    add("--generations", type=int, default=40, metavar="G", help="default: %(default)s")
    add("--seed", type=int, default=0, metavar="S", help="of the mutations")
    add("--check", action="store_true", help="go on from the worst by single changes (a request's "
        "length or place, a run's length) until none of all of them makes it worse")  # fmt: skip
    add("--out", type=Path, default=Path("out/worst_case"), metavar="DIR",
        help="folder of the file and the picture; default: %(default)s")  # fmt: skip
    _printed(parser)
    _explain(parser, _known_policies())


COMMANDS = {
    command.__name__: command
    for command in (run, simulate, capacity, sweep, report, tune, predict, clock, worst_case)
}
"""Every command by name; the file NAME_command.py carries it out."""


def add_to(parser: ArgumentParser) -> None:
    """Adds every command to the parser of `jaxsched`."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        summary, _, description = (inspect.getdoc(command) or name).partition("\n\n")
        own = commands.add_parser(
            name.replace("_", "-"), help=summary[0].lower() + summary[1:].rstrip("."),
            description=description or summary, formatter_class=parser.formatter_class,
        )  # fmt: skip
        own.set_defaults(command=name)
        command(own)


def policy_names(text: str) -> tuple[str, ...]:
    """The names in a list with commas; a NAME=NUMBER after a comma belongs to the one before."""
    return tuple(part.strip() for part in re.split(r",(?!\s*\w+=)", text))


def _policies(parser: ArgumentParser, default: str | None = None) -> None:
    parser.add_argument(
        "--policies", type=policy_names, metavar="A,B,…", default=default,
        help=f"see below; default: {default or 'those of CONFIG'}",
    )  # fmt: skip
    _explain(parser, _known_policies())


def _trace_options(parser: ArgumentParser, file: bool = False) -> None:
    """Adds the options of the trace section; with `file` the option --trace too."""
    if file:
        parser.add_argument("--trace", metavar="FILE", help="take the requests of this trace")
    kinds: dict[str, Any] = {"prompt": int, "limit": int, "warm_up": float, "columns": _pairs}
    for name, (metavar, text) in trace.TRACE_OPTIONS.items():
        option = trace.option_of(name)
        if metavar is None:
            parser.add_argument(option, action="store_true", default=None, help=text)
        else:
            parser.add_argument(option, type=kinds.get(name, str), metavar=metavar, help=text)
    formats = _wrapped("formats (--format): ", ("auto", *traces.FORMATS))
    fields = _wrapped("fields (--columns output=new_tokens,prompt=input,…): ", traces.FIELDS)
    _explain(parser, formats + fields)


def _config(parser: ArgumentParser, example: str, out: str = "folder of the results") -> None:
    add = parser.add_argument
    add("config", type=Path, metavar="CONFIG", help=f"such as configs/{example}.toml")
    add("--out", type=Path, metavar="DIR", help=f"{out}; default: out/NAME of CONFIG")


def _printed(parser: ArgumentParser) -> None:
    """How the table is printed."""
    forms = parser.add_mutually_exclusive_group()
    for form in ("json", "csv"):
        forms.add_argument(
            f"--{form}", dest="form", action="store_const", const=form,
            help=f"print the numbers in full as {form.upper()}, and all else to standard error",
        )  # fmt: skip
    parser.set_defaults(form="text")


def _explain(parser: ArgumentParser, lines: Iterable[str]) -> None:
    """Adds a list of known names to the end of the help."""
    parser.epilog = "\n".join(filter(None, (parser.epilog, *lines))) + "\n"


def _pairs(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number of at least 1")
    return int(text)


def _lengths(text: str) -> dict[str, Any]:
    """The table [lengths], from a text as of workloads."""
    source, *limits = text.split(",")
    pairs = (limit.partition(":") for limit in limits)
    return {"source": source} | {name: _positive(number) for name, _, number in pairs}


def _known_policies() -> list[str]:
    """Every text that names a policy, with the first line of what makes the policy."""
    own_head = own.USAGE.partition(":")[0]
    makers = {
        **names.SHIPPED,
        **names.PLANNED,
        names.FAMILY: js.a_min_family,
        "tuned": files,
        own_head: own,
    }
    groups: dict[str, list[str]] = {}
    for text in names.usage():
        groups.setdefault(text.partition(":")[0], []).append(text)
    lines = ["policies:"]
    for head, group in groups.items():
        maker = makers.get(head) or makers[group[0]]
        about = inspect.getdoc(getattr(maker, "func", maker)) or ""  # `func` of a partial one
        lines += _entry(group, about.partition("\n")[0])
    shipped = textwrap.wrap(f"Shipped tuned rules: {', '.join(files.names())}.", HELP_WIDTH)
    return [*lines, *shipped]


def _entry(group: Iterable[str], meaning: str) -> list[str]:
    """Names two apart, and what they mean on the lines below."""
    below = textwrap.wrap(meaning, HELP_WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    names = textwrap.wrap(
        "  ".join(group), HELP_WIDTH, initial_indent="  ", subsequent_indent="  ",
        break_on_hyphens=False,
    )  # fmt: skip
    return [*names, *below]


def _wrapped(title: str, words: Iterable[str]) -> list[str]:
    return textwrap.wrap(title + ", ".join(words), HELP_WIDTH, subsequent_indent="  ")
