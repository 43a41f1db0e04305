"""What traces at size cost: imitations of published ones, read and simulated by the command."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from benchmarks.scale import Scale
from benchmarks.section import Job, Row, Section

BLOCK = 10**6
"""Rows that are made at once."""

MEASURED = """
import resource, sys
from jaxsched.cli import main
status = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
print("USED", used.ru_utime + used.ru_stime, used.ru_maxrss, file=sys.stderr)
raise SystemExit(status)
"""

COMMAND = ["simulate", "FILE", "--memory", "100000", "--policies", "fcfs", "--skip-too-large"]
TAKEN = {"1,000 requests": ["--limit", "1000"], "a window": ["--window", "0:60"]}
CLOCKED = ["--clock", "llama2_70b_2xa100", "--arrivals", "trace:2", "--skip-zero-output"]


Maker = Callable[[Path, int], None]
"""Writes a trace of so many rows."""


def azure_week(path: Path, rows: int) -> None:
    """CSV in the layout of the Azure 2024 week."""
    rng = np.random.default_rng(0)
    with open(path, "wb") as file:
        for first in range(0, rows, BLOCK):
            size = min(BLOCK, rows - first)
            week = 7 * 24 * 3600 * 10**6
            since = np.sort(rng.integers(first * week // rows, (first + size) * week // rows, size))
            times = pa.array(since + 1_715_299_200 * 10**6).cast(pa.timestamp("us"))
            texts = pc.binary_join_element_wise(
                pc.strftime(times, "%Y-%m-%d %H:%M:%S"), "+00:00", ""
            )
            columns = {
                "TIMESTAMP": texts,
                "ContextTokens": rng.integers(1, 8000, size),
                "GeneratedTokens": rng.integers(1, 800, size),
            }
            options = pyarrow.csv.WriteOptions(include_header=first == 0, quoting_style="none")
            pyarrow.csv.write_csv(pa.table(columns), file, options)


def burstgpt(path: Path, rows: int) -> None:
    """CSV in the layout of BurstGPT 1.2: 61 days, 1.8 % of the requests failed."""
    rng = np.random.default_rng(3)
    prompt = np.clip(rng.lognormal(5.6, 1.1, rows), 1, 16_000).astype(int)
    output = np.clip(rng.lognormal(4.5, 1.2, rows), 1, 4000).astype(int)
    output[rng.random(rows) < 0.0178] = 0
    columns = {
        "Timestamp": np.round(np.sort(rng.uniform(0, 61 * 86400, rows)), 3),
        "Session ID": pa.nulls(rows, pa.string()), "Elapsed time": np.round(output * 0.02, 2),
        "Model": ["ChatGPT"] * rows, "Request tokens": prompt, "Response tokens": output,
        "Total tokens": prompt + output, "Log Type": ["API log"] * rows,
    }  # fmt: skip
    pyarrow.csv.write_csv(pa.table(columns), path)


def with_texts(path: Path, rows: int) -> None:
    """Parquet with 5,000 letters of text beside three numbers in every row."""
    rng = np.random.default_rng(1)
    schema = pa.schema(
        {"arrived_at": pa.float64(), "num_prefill_tokens": pa.int64(),
         "num_decode_tokens": pa.int64(), "text": pa.string()}
    )  # fmt: skip
    with pyarrow.parquet.ParquetWriter(
        path, schema, compression="none", use_dictionary=False
    ) as file:
        for first in range(0, rows, 10_000):
            size = min(10_000, rows - first)
            texts = [os.urandom(2500).hex() for _ in range(size)]
            numbers = [np.arange(first, first + size, dtype=float)]
            numbers += [rng.integers(1, 500, size) for _ in range(2)]
            file.write_table(pa.table([*map(pa.array, numbers), pa.array(texts)], schema))


def _jobs(scale: Scale) -> list[Job]:
    part = scale.rows
    kinds: list[tuple[str, Maker, int, dict[str, list[str]]]] = [
        ("Azure's week, CSV", azure_week, part(27_300_000), TAKEN),
        ("500 MB of text, Parquet", with_texts, part(100_000), {}),
        ("BurstGPT, CSV", burstgpt, part(1_429_700), {"all, simulated with a page": CLOCKED}),
    ]
    return [
        Job(f"{name}, {rows:,} rows", functools.partial(_measured, name, make, rows, taken))
        for name, make, rows, taken in kinds
    ]


def _measured(name: str, make: Maker, rows: int, taken: dict[str, list[str]]) -> list[Row]:
    """A line for each way to take requests of one file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace"
        make(path, rows)
        size = path.stat().st_size / 1e6
        found = [{"what": "all, read", **_read(path)}] if make is not burstgpt else []
        for what, more in taken.items():
            report = ["--report", f"{folder}/page.html"] if "page" in what else []
            words = [str(path) if word == "FILE" else word for word in (*COMMAND, *more, *report)]
            found.append({"what": what, **_used([sys.executable, "-c", MEASURED, *words])})
    return [{"trace": name, "rows": rows, "megabytes": size, **one} for one in found]


READ = """
import resource, sys
from jaxsched.workloads import read_trace
read_trace(sys.argv[1])
used = resource.getrusage(resource.RUSAGE_SELF)
print("USED", used.ru_utime + used.ru_stime, used.ru_maxrss, file=sys.stderr)
"""


def _read(path: Path) -> dict[str, Any]:
    return _used([sys.executable, "-c", READ, str(path)])


def _used(command: list[str]) -> dict[str, Any]:
    """Seconds and peak memory of a process, with Python and all imports."""
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - began
    *said, used = done.stderr.strip().splitlines()
    if done.returncode:
        raise RuntimeError("\n".join(said[-1:]))
    _, seconds, kilobytes = used.split()
    return {"wall_s": wall, "cpu_s": float(seconds), "peak_gb": float(kilobytes) * 1024 / 1e9}


READERS = Section(
    name="readers",
    title="Traces at size",
    note=(
        "Imitations of published traces, made for this. Each line is a process of its own, with "
        "Python and all imports: `read_trace`, or `jaxsched simulate` under fcfs with 1,000 "
        "requests, a minute, or all of them under a clock with a page,"
        " their 61 days in half the time."
    ),
    columns={
        "trace": ("trace", "s"),
        "rows": ("rows", ",d"),
        "megabytes": ("MB", ",.0f"),
        "what": ("taken", "s"),
        "wall_s": ("s", ".1f"),
        "cpu_s": ("s of processor", ".1f"),
        "peak_gb": ("peak memory, GB", ".2f"),
    },
    jobs=_jobs,
)
