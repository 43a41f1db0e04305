"""The command `jaxsched`."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxsched._version import __version__

DESCRIPTION = """\
Exact simulation of schedulers for LLM inference on a worker with a limited KV cache.

  jaxsched run configs/paper.toml
      the experiment of arXiv 2508.14544: tables, Parquet and figures
  jaxsched simulate trace.csv --memory 16492 --interval relative:0.5
      what each policy would have done with your own requests

Compiled programs are kept for the next run in ~/.cache/jaxsched (in $XDG_CACHE_HOME, if that is
set; JAX_COMPILATION_CACHE_DIR names another folder).
"""

POLICIES = """\
policies:
  h_sf                hindsight shortest first: knows the true output lengths
  a_max               reserves the predicted upper bound
  a_min               starts from the predicted lower bound, evicts and learns;
  a_min:on_eviction   the same, spelled out: learns from evictions alone
  a_min:every_round   its other reading: progress counts when the next is evicted
  mc_sf               shortest point prediction first (the interval's midpoint)
  fcfs                first come first served, as serving engines do
"""

SIMULATE = """\
Runs the requests of a trace under each policy and prints how long they took. Time is in rounds: in
one round every running request generates one token. By default all requests are there at the start.

The format is recognized by the file's header (Vidur, Azure, BurstGPT and ServeGen CSV, Mooncake
JSONL, the LMSYS proxy predictions), or name the columns of any CSV, JSONL or Parquet file with
--columns; plain or gzipped.
"""

INTERVALS = """\
predictions (--interval):
  relative:0.5             from 0.5 to 1.5 times the true length
  one:1:1000               the same interval for all
  classes:100:10           the class of the true length: 10 classes of 100 tokens
  edges:42,141,294,503     the same with these edges, or the predicted class where
                           --columns names a column `predicted` of 0, 1, 2, …
  exact                    the true length
  columns                  the columns `lower` and `upper` of the trace
"""

COLUMNS = """\
columns (--columns output=new_tokens,prompt=input,…):
  output                   output length in tokens; the only one that is needed
  prompt                   prompt length in tokens; else give --prompt
  lower, upper             predicted interval of the output
  predicted                predicted class, counted from 0; with --interval edges:…
  arrival_seconds, arrival_milliseconds, arrival_timestamp
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with these arguments (those of the process by default).

    Returns:
      The exit status: 0, 1 for an error that was explained, 130 after Ctrl-C.
    """
    args = _parser().parse_args(argv)
    try:
        _prepare_jax()
        # Imported late so that --help need not wait for pandas and matplotlib.
        from jaxsched import commands

        commands.COMMANDS[args.command](args)
        return 0
    except (ValueError, OSError) as error:
        print(f"jaxsched: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("jaxsched: stopped", file=sys.stderr)
        return 130


def version_text() -> str:
    """Versions and devices, as `jaxsched --version` prints them."""
    import jax
    import jaxlib
    import numpy

    from jaxsched import store

    return (
        f"jaxsched {__version__} (jax {jax.__version__}, jaxlib {jaxlib.__version__}, "
        f"numpy {numpy.__version__}, Python {platform.python_version()}; {store.device()})"
    )


class _Version(argparse.Action):
    """Prints the version; an action of its own because asking for devices starts JAX."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        _prepare_jax()
        print(version_text())
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("jaxsched", description=DESCRIPTION, formatter_class=raw)
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="print versions and devices, and leave"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    run = commands.add_parser(
        "run", formatter_class=raw, help="run the job of a configuration file",
        description="Runs every policy under every prediction of a configuration file on the same "
        "random\ninstances. Started again after an interruption, it goes on where it stopped.",
        epilog=POLICIES,
    )  # fmt: skip
    _add_run(run)
    simulate = commands.add_parser(
        "simulate", formatter_class=raw, help="run the requests of a trace",
        description=SIMULATE, epilog=f"{COLUMNS}\n{INTERVALS}\n{POLICIES}",
    )  # fmt: skip
    _add_simulate(simulate)
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command="run")
    parser.add_argument("config", type=Path, metavar="CONFIG", help="such as configs/paper.toml")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the results; default: out/NAME of CONFIG"
    )
    parser.add_argument("--lanes", type=int, metavar="N", help="random instances for each point")
    parser.add_argument("--seed", type=int, metavar="S", help="seed of the random instances")


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command="simulate")
    add = parser.add_argument
    add("trace", type=Path, metavar="TRACE", help="file of requests")
    add("--memory", type=int, required=True, metavar="M", help="KV cache of the worker, in tokens")
    add(
        "--policies", type=_names, metavar="A,B,…", help="see below; default: all of them",
        default="h_sf,a_max,a_min:on_eviction,a_min:every_round,mc_sf,fcfs",
    )  # fmt: skip
    add("--interval", metavar="KIND", help="prediction, see below; default: the trace's own")
    add("--out", type=Path, metavar="DIR", help="write the table to DIR/results.parquet as well")
    add("--per-request", action="store_true", help="and every request to DIR/requests.parquet")
    add("--format", metavar="NAME", help="format of the trace; default: by its header")
    add("--columns", type=_names, metavar="FIELD=NAME,…", help="columns of the trace, see below")
    add("--prompt", type=int, metavar="S", help="prompt length, for a trace that has none")
    add("--limit", type=int, metavar="N", help="take N requests: the first, or with --seed any")
    add("--seed", type=int, metavar="S", help="shuffle the requests, which draws ties at random")
    add(
        "--arrivals", type=_arrivals, dest="seconds_per_round", metavar="KIND",
        help="backlog (the default: all requests are there at the start) or rounds:SECONDS (the "
        "trace's own times, with rounds of that length)",
    )  # fmt: skip
    add(
        "--skip-too-large", action="store_true",
        help="leave out requests that can never fit into M, instead of refusing the trace",
    )  # fmt: skip
    add(
        "--skip-zero-output", action="store_true",
        help="leave out requests without output, such as failed ones, instead of refusing them",
    )  # fmt: skip


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _arrivals(text: str) -> float | None:
    kind, _, rest = text.partition(":")
    if text == "backlog":
        return None
    try:
        if kind == "rounds":
            return float(rest)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r}; expected backlog or rounds:SECONDS")


def _prepare_jax() -> None:
    """Uses all cores, keeps compiled programs between runs, and keeps JAX's logs quiet.

    Settings that the user made in the environment stay.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import jax

    logging.getLogger("jax").setLevel(logging.ERROR)
    if jax.config.jax_compilation_cache_dir is None:
        _keep_programs(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"))
    if jax.config.jax_num_cpu_devices < 0 and "device_count" not in os.environ.get("XLA_FLAGS", ""):
        try:
            jax.config.update("jax_num_cpu_devices", _cores())
        except RuntimeError:
            pass  # JAX has started already: someone calls `main` from a program of their own.


def _keep_programs(caches: Path) -> None:
    import jax

    folder = caches / "jaxsched"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # A home that cannot be written to costs time, nothing else.
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
