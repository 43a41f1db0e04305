"""NVIDIA DynoSim and the native engine on one core each, on the same requests."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from benchmarks.instances import SEED
from benchmarks.scale import Scale
from benchmarks.section import Job, Row, Section
from benchmarks.timing import interleave, on_one_core, simulation
from jaxsched import Instance, workloads

BLOCK = 16
MEMORY = 16_496
"""Tokens of KV cache: 1,031 blocks."""
LONGEST = 4030
"""Prompt and output together have at most so many tokens."""

PYTHON = "BENCHMARKS_PEER_PYTHON"
"""Environment variable: the Python that can import DynoSim; by default, this one."""


def _jobs(scale: Scale) -> list[Job]:
    if not hasattr(os, "sched_setaffinity"):
        return []
    return [Job("DynoSim", functools.partial(_compare, scale))]


def _compare(scale: Scale) -> list[Row]:
    requests = workloads.make(
        jax.random.key(SEED),
        lengths=workloads.embedded.sharegpt().truncated(max_total=LONGEST),
        intervals=workloads.intervals.one_for_all(1, LONGEST),
        n=scale.n,
        lanes=1,
        memory=MEMORY,
    )
    ours = _ours(scale, requests)
    theirs = _theirs(scale, requests)
    if "seconds" in theirs:
        ours["ratio"] = theirs["seconds"] / ours["seconds"]
    return [ours, theirs]


def _ours(scale: Scale, requests: Instance) -> Row:
    run = on_one_core(simulation(requests, "fcfs", "native"))
    found = run()
    timing = interleave({"fcfs": run}, 3 * scale.repeats, scale.seconds)["fcfs"]
    return {
        "simulator": "jaxsched, native, fcfs",
        "requests": scale.n,
        "tokens": int(np.sum(requests.output)),
        "seconds": timing.median,
        "rate": scale.n / timing.median,
        "note": f"{int(found.evictions[0]):,} evictions",
    }


def _theirs(scale: Scale, requests: Instance) -> Row:
    found = replayed(mooncake(requests.prompt[0], requests.output[0]), MEMORY // BLOCK, scale)
    if isinstance(found, str):
        return {"simulator": "NVIDIA DynoSim", "note": found}
    return {
        "simulator": f"NVIDIA DynoSim {found['version']}",
        "requests": found["completed"],
        "tokens": found["output_tokens"],
        "seconds": found["seconds"],
        "rate": found["completed"] / found["seconds"],
        "note": f"{found['own_seconds']:.3f} s by its own clock, without reading the trace",
    }


def replayed(
    trace: str, blocks: int, scale: Scale, settings: dict[str, Any] | None = None
) -> dict[str, Any] | str:
    """What `peer_dynosim.py` says of a trace, or why it says nothing."""
    python = os.environ.get(PYTHON, sys.executable)
    script = Path(__file__).with_name("peer_dynosim.py")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.jsonl"
        path.write_text(trace)
        numbers = [str(number) for number in (blocks, BLOCK, max(3, scale.repeats))]
        more = [json.dumps(settings)] if settings else []
        done = subprocess.run(
            [python, str(script), str(path), *numbers, *more], capture_output=True, text=True
        )
    if done.returncode:
        return f"not measured: {done.stderr.strip().splitlines()[-1]}"
    return json.loads(done.stdout.splitlines()[-1])


def mooncake(prompt: ArrayLike, output: ArrayLike, arrival_ms: ArrayLike = 0) -> str:
    """Requests in Mooncake's format; no two share a block of their prompts."""
    lines, block = [], 0
    columns = np.broadcast_arrays(arrival_ms, prompt, output)
    for at, given, wanted in zip(*(column.tolist() for column in columns), strict=True):
        count = -(-given // BLOCK)
        request = {"timestamp": at, "input_length": given, "output_length": wanted}
        lines.append(json.dumps({**request, "hash_ids": list(range(block, block + count))}))
        block += count
    return "\n".join(lines) + "\n"


PEER = Section(
    name="peer",
    title="A peer on one core",
    note=(
        f"ShareGPT lengths (embedded), all requests at t = 0, {MEMORY:,} tokens of KV cache, first "
        "come first served, evicting the latest, one core each. DynoSim also models the time of "
        "prefill and decoding and counts memory in blocks of 16, which jaxsched does not; it has "
        "no policy that is more than first come first served."
    ),
    columns={
        "simulator": ("simulator", "s"),
        "requests": ("requests", ",d"),
        "tokens": ("output tokens", ",d"),
        "seconds": ("s", ".5f"),
        "rate": ("requests/s", ",.0f"),
        "ratio": ("faster by", ",.0f"),
        "note": ("", "s"),
    },
    jobs=_jobs,
)
