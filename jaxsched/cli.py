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
  jaxsched simulate trace.csv --memory 16492 --interval relative:0.5 \\
      --clock llama2_70b_2xa100 --arrivals trace
      the same in seconds: TTFT, TPOT, end-to-end latency
  jaxsched sweep configs/sweep_small.toml --out out/small
      every combination of the values of some axes; jaxsched report out/small draws it
  jaxsched tune configs/tune_trace.toml --trace trace.csv --out out/mine
      a rule for such requests; use it as --policies tuned:out/mine/mine.toml

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
  fcfs                first come first served, as serving engines do;
  fcfs:watermark=0.01 the same, with this share of the memory free when a request enters
  svf:output          smallest volume (memory over time) first, by the true output length;
  svf:point  svf:lower  svf:upper  the same by a prediction
  sorted_f:output     batches of least sum(output) / size² first; for backlogs;
  sorted_f:point  sorted_f:lower  sorted_f:upper  the same by a prediction
  gsa_spec            slices of 1, 2, 4, … tokens, no prediction; up to 64 of them;
  gsa_spec:patience=1 the same with every slice enforced
  tuned:lmsys         a rule that is shipped, see configs/tuned;
  tuned:FILE.toml     your own, from jaxsched tune
"""

SIMULATE = """\
Runs the requests of a trace under each policy and prints how long they took: in rounds (in one
round every running request generates one token), or with --clock in seconds. By default all
requests are there at the start.

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
  real                     a class of LMSYS tokens, as wrong as a real predictor's
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


TIMES = """\
arrivals (--arrivals):
  backlog                  everything is there from the start
  rounds:SECONDS           the trace's own times, in rounds of that length
  trace, trace:SPEED       the trace's own times, or SPEED times as fast; with --clock
  poisson:RATE             RATE requests per second at random; with --clock

clocks (--clock):
  llama2_70b_2xa100, llama2_70b_2xa100_affine, llama2_70b_2xa100_decode,
  llama2_70b_4xa100, llama2_7b_a100, llama31_8b_h100, llama31_70b_4xh100
  what they are fitted to: help(jaxsched.clocks.presets)
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

    from jaxsched.studies import store

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
        description=SIMULATE, epilog=f"{COLUMNS}\n{INTERVALS}\n{TIMES}\n{POLICIES}",
    )  # fmt: skip
    _add_simulate(simulate)
    sweep = commands.add_parser(
        "sweep", formatter_class=raw, help="run every combination of a configuration file",
        description="Runs every combination of the values of a configuration file. Started again "
        "after an\ninterruption, it goes on where it stopped. docs/sweeps.md says more.",
        epilog=POLICIES,
    )  # fmt: skip
    _add_sweep(sweep)
    report = commands.add_parser("report", help="draw the results of a sweep")
    report.set_defaults(command="report")
    report.add_argument("folder", type=Path, metavar="DIR", help="folder of the sweep's results")
    tune = commands.add_parser(
        "tune", formatter_class=raw, help="search a rule of the A_min family",
        description="Searches the ten numbers of a rule on simulated instances, beside baselines at"
        " the same\nwork, and writes the best to a file. Started again after an interruption, it "
        "goes on where\nit stopped. docs/tuning.md says more.",
    )  # fmt: skip
    _add_tune(tune)
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
        "--policies", type=_names, metavar="A,B,…", help="see below; default: up to fcfs",
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
        "--arrivals", metavar="KIND",
        help="when requests arrive, see below; default: all are there at the start",
    )  # fmt: skip
    add("--max-batch", type=int, metavar="B", help="at most B requests run together")
    add("--clock", metavar="NAME", help="results in seconds on that hardware, see below")
    add("--ttft-limit", type=float, metavar="S", help="with --clock: count requests that have the "
        "first token in S seconds")  # fmt: skip
    add("--tpot-limit", type=float, metavar="S", help="and take at most S seconds a token after it")
    add(
        "--skip-too-large", action="store_true",
        help="leave out requests that can never fit into M, instead of refusing the trace",
    )  # fmt: skip
    add(
        "--skip-zero-output", action="store_true",
        help="leave out requests without output, such as failed ones, instead of refusing them",
    )  # fmt: skip


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command="sweep")
    add = parser.add_argument
    add("config", type=Path, metavar="CONFIG", help="such as configs/sweep_small.toml")
    add("--out", type=Path, metavar="DIR", help="folder of results; default: out/NAME of CONFIG")
    add("--dry-run", action="store_true", help="say what it would take, and stop there")
    add(
        "--engine", default="auto", choices=("auto", "jax", "native"),
        help="what simulates; the results are the same",
    )  # fmt: skip
    add("--chunk", type=_positive, metavar="N", help="simulations in a file; default: 10 s of them")
    add(
        "--distributed", action="store_true",
        help="one of several processes, which JAX tells apart: under SLURM, Open MPI, on TPU pods",
    )  # fmt: skip
    add("--coordinator", metavar="HOST:PORT", help="elsewhere: where the first process listens")
    add("--num-processes", type=int, metavar="N", help="how many processes there are")
    add("--process-id", type=int, metavar="I", help="which one this is, from 0")


def _add_tune(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command="tune")
    add = parser.add_argument
    add("config", type=Path, metavar="CONFIG", help="such as configs/tune_sharegpt_one.toml")
    add(
        "--out", type=Path, metavar="DIR",
        help="folder of the results; the rule is DIR/NAME.toml, NAME being that of DIR without "
        "tune_; default: out/NAME of CONFIG",
    )  # fmt: skip
    add("--trace", metavar="FILE", help="tune for the requests of this trace")
    add("--steps", type=_positive, metavar="N", help="steps of the descent")
    add("--seed", type=int, metavar="S", help="of everything random")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number of at least 1")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


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
