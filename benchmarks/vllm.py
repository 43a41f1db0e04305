"""The worker of a serving engine: the native engine beside vLLM's own scheduler and the reference.

Run by the Python that has vLLM this file is the peer: it reads a stream and prints seconds of
processor time, completions and first tokens as JSON.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parent.parent
REQUESTS, BLOCK, BLOCKS, LONGEST = 1000, 16, 1030, 4030
ROUND_MS = 60.0
"""Length of a round for DynoSim, which has no rounds but times."""
PYTHON = "BENCHMARKS_VLLM_PYTHON"
"""Environment variable: the Python that can import vLLM; by default, this one."""

if TYPE_CHECKING:
    from benchmarks.scale import Scale
    from benchmarks.section import Job, Row
    from jaxsched import Instance


def _jobs(scale: Scale) -> list[Job]:
    from benchmarks.section import Job

    gaps = {"all at once": 0, "one in 12 rounds": 12}
    return [Job(name, functools.partial(_compare, scale, name, gap)) for name, gap in gaps.items()]


def _compare(scale: Scale, name: str, gap: int) -> list[Row]:
    """One stream of drawn lengths, by every contender."""
    import jaxsched as js
    from benchmarks.timing import interleave, on_one_core

    instance, worker = _stream(gap), js.workers.vllm(block=BLOCK)
    calls = {
        "native": (js.fcfs(), worker, instance),
        "native, remaining volume": (js.remaining_volume(), worker, instance),
        "native, the papers' worker": (js.fcfs(), None, instance),
    }
    runs = {
        label: functools.partial(js.simulate, given, policy, worker=kind, engine="native")
        for label, (policy, kind, given) in calls.items()
    }
    runs = {label: on_one_core(run) for label, run in runs.items()}
    timings = interleave(runs, 3 * scale.repeats, scale.seconds)
    found = runs["native"]()
    rows = [_row(name, label, timing.median) for label, timing in timings.items()]
    mine = rows[0]["seconds"]
    return [
        *rows,
        *_theirs(name, instance, found, mine),
        _dynosim(scale, name, instance, found, mine),
    ]


def _stream(gap: int) -> Instance:
    import jax

    from benchmarks.instances import SEED
    from jaxsched import workloads

    return workloads.make(
        jax.random.key(SEED),
        lengths=workloads.embedded.sharegpt().truncated(max_total=LONGEST),
        intervals=workloads.intervals.relative(0),
        arrivals=workloads.arrivals.poisson(1 / gap) if gap else None,
        n=REQUESTS,
        memory=BLOCK * BLOCKS,
    )


def _row(stream: str, who: str, seconds: float, **more: Any) -> Row:
    rate = REQUESTS / (1e3 * seconds)
    return {"stream": stream, "simulator": who, "seconds": seconds, "rate": rate, **more}


def _theirs(stream: str, instance: Instance, found: Any, seconds: float) -> list[Row]:
    """vLLM's scheduler on the same requests, and whether it did the same."""
    import numpy as np

    arrival = np.zeros(REQUESTS, int) if instance.arrival is None else instance.arrival
    columns = (arrival, instance.prompt, instance.output, np.ones(REQUESTS, int))
    numbers = {"block": BLOCK, "max_num_seqs": 256, "budget": 2048}
    case = {
        "blocks": BLOCKS,
        "worker": numbers,
        "policy": "fcfs",
        "requests": np.stack(columns, axis=-1).tolist(),
    }
    done = subprocess.run(
        [os.environ.get(PYTHON, sys.executable), __file__],
        input=json.dumps(case),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1]
        return [{"stream": stream, "simulator": "vLLM's scheduler", "note": f"none: {reason}"}]
    said = json.loads(done.stdout.splitlines()[-1])
    same = all(
        np.array_equal(said[key], getattr(found, ours))
        for key, ours in (("done", "completion"), ("first", "first_token"))
    )
    row = _row(stream, f"vLLM's scheduler, {said['version']}", said["seconds"])
    row["ratio"] = said["seconds"] / seconds
    row["note"] = "every request equal" if same else "DIFFERS from the native engine"
    return [row]


def _dynosim(scale: Scale, stream: str, instance: Instance, found: Any, seconds: float) -> Row:
    """DynoSim on the same requests in rounds of equal length, and how far from ours it is."""
    import numpy as np

    from benchmarks.peer import mooncake, replayed

    arrival = np.zeros(REQUESTS) if instance.arrival is None else instance.arrival.astype(float)
    trace = mooncake(instance.prompt, instance.output, ROUND_MS * arrival)
    # A round that computes prompts and outputs takes the sum of both times.
    fixed = {"type": "fixed", "prefill_ms": 0.0, "decode_ms": ROUND_MS}
    settings = dict(max_num_seqs=256, max_num_batched_tokens=2048, enable_chunked_prefill=True)
    said = replayed(trace, BLOCKS, scale, settings | {"timing_model": fixed})
    if isinstance(said, str):
        return {"stream": stream, "simulator": "NVIDIA DynoSim", "note": said}
    row = _row(stream, f"NVIDIA DynoSim, {said['version']}", said["seconds"])
    # Its time begins with the first arrival. A round of prompts alone takes none: of a backlog that
    # is the first round, for all; of a stream it concerns the first request alone, as the arrivals
    # of the others are times.
    begin = arrival[0] + (instance.arrival is None)
    theirs = Counter((s, o, round(ms / ROUND_MS + begin)) for s, o, ms in said["done"])
    columns = (instance.prompt, instance.output, found.completion)
    ours = Counter(zip(*(column.tolist() for column in columns), strict=True))
    done = np.mean([ms for *_, ms in said["done"]]) / ROUND_MS + begin - np.mean(arrival)
    mean = done / np.mean(found.completion - arrival)
    note = (
        f"{(theirs & ours).total():,} completions equal, mean latency {100 * (mean - 1):+.2f} %, "
        f"{said['preemptions']:,} preemptions against {np.sum(found.evictions):,}"
    )
    return row | {"ratio": said["seconds"] / seconds, "note": note}


def main() -> None:
    """The peer."""
    import importlib.metadata
    import tempfile

    sys.path[0] = str(ROOT / "tests")
    import record_vllm

    case = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder:
        model = record_vllm.model_in(folder)
        record_vllm.recorded(case | {"requests": case["requests"][:3]}, model)
        begun = time.thread_time()
        found = record_vllm.recorded(case, model)
        seconds = time.thread_time() - begun
    version = importlib.metadata.version("vllm")
    said = {"seconds": seconds, "version": version, "done": found["done"], "first": found["first"]}
    print(json.dumps(said))


if __name__ == "__main__":
    main()
else:
    from benchmarks.section import Section

    WORKER = Section(
        name="worker",
        title="The worker of a serving engine, on one core",
        note=(
            f"{REQUESTS:,} requests of ShareGPT lengths (embedded), first come first served, "
            f"{BLOCKS:,} blocks of {BLOCK} tokens, 256 sequences, a budget of 2,048 tokens. vLLM's "
            "own scheduler runs without a model, in a process of its own; its time is processor "
            "time of its loop of rounds, ours that of the clock on the wall. DynoSim has rounds of "
            "one length, but those of prompts alone, which take no time. With `--vllm-python "
            "PYTHON`, one that has vLLM 0.33.0, and `--peer-python PYTHON`, one that has DynoSim."
        ),
        columns={
            "stream": ("requests arrive", "s"),
            "simulator": ("simulator", "s"),
            "seconds": ("s", ".5f"),
            "rate": ("requests/ms", ",.2f"),
            "ratio": ("times native", ",.0f"),
            "note": ("", "s"),
        },
        jobs=_jobs,
    )
