"""The command `jaxsched`: reads the arguments, prepares JAX, and calls the command's own file."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxsched._version import __version__
from jaxsched.cli import options
from jaxsched.machine import faults, start
from jaxsched.machine.cores import cores

DESCRIPTION = """\
Exact simulation of schedulers for LLM inference on a worker with a limited KV cache.

  jaxsched run configs/paper.toml
      the experiment of arXiv 2508.14544: tables, Parquet and figures
  jaxsched simulate sample --memory 16492 --interval relative:0.5
      what each policy would have done with your own requests
  jaxsched simulate sample --memory 16492 --interval relative:0.5 \\
      --clock llama2_70b_2xa100 --arrivals trace
      the same in seconds: TTFT, TPOT, end-to-end latency
  jaxsched sweep configs/sweep_small.toml --out out/small
      every combination of the values of some axes; jaxsched report out/small draws it
  jaxsched tune configs/tune_trace.toml --trace sample --out out/mine
      a rule for such requests; use it as --policies tuned:out/mine/mine.toml
  jaxsched worst-case --policy a_min --against h_sf
      an input on which a policy does badly

Compiled programs are kept for the next run in ~/.cache/jaxsched (in $XDG_CACHE_HOME, if that is
set; JAX_COMPILATION_CACHE_DIR names another folder).
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with these arguments (those of the process by default).

    Returns:
      The exit status: 0, 1 for an error that was explained, 130 after Ctrl-C.
    """
    try:
        args = _parser().parse_args(argv)
        warnings.showwarning = _say
        _prepare_jax()
        # Imported late so that --help need not wait for pandas and matplotlib.
        command = importlib.import_module(f"jaxsched.cli.{args.command}_command")
        start.hand_over()
        command.run(args)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, RuntimeError, KeyboardInterrupt) as error:
        if faults.interrupted(error):
            own = isinstance(error, KeyboardInterrupt) and str(error)
            print(f"jaxsched: stopped; {own or faults.GO_ON}", file=sys.stderr)
            return 130
        if isinstance(error, RuntimeError):
            raise
        print(f"jaxsched: {faults.in_one_line(error)}", file=sys.stderr)
        return 1


def _say(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning in one line."""
    print(f"jaxsched: {message}", file=sys.stderr)


def version_text() -> str:
    """Versions and devices, as `jaxsched --version` prints them."""
    from jaxsched.studies import store

    found = store.versions()
    others = ", ".join(f"{name} {found[name]}" for name in ("jax", "jaxlib", "numpy"))
    return f"jaxsched {__version__} ({others}, Python {found['python']}; {store.device()})"


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
    options.add_to(parser)
    return parser


def _prepare_jax() -> None:
    """Uses all cores, keeps compiled programs between runs, and keeps JAX's logs quiet.

    Settings that the user made in the environment stay.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import jax

    logging.getLogger("jax").setLevel(logging.ERROR)
    for name in ("jax._src.callback", "absl"):  # the latter orbax's; their errors are raised too
        logging.getLogger(name).setLevel(logging.CRITICAL)
    config: Any = jax.config  # which makes its attributes as it goes
    if config.jax_compilation_cache_dir is None:
        _keep_programs(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"))
    if config.jax_num_cpu_devices < 0 and "device_count" not in os.environ.get("XLA_FLAGS", ""):
        # Where JAX has started already, someone calls `main` from a program of their own.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", cores())


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
