"""What needs processes of its own: compile time, warm caches, devices, threads, peak memory."""

from __future__ import annotations

import contextlib
import functools
import statistics
import tempfile

from benchmarks.scale import Scale
from benchmarks.section import Job, Row, Section
from benchmarks.worker import Task, Worker
from jaxsched.machine.cores import cores

ENGINES = ("jax", "native")


def _task(scale: Scale, engine: str, name: str, lanes: int, **others: int | str) -> Task:
    return Task(engine, name, "ten classes", lanes, scale.n, scale.memory, **others)


def _startup_jobs(scale: Scale) -> list[Job]:
    return [
        Job(f"first and second process, {engine}, {name}",
            functools.partial(_startup, scale, engine, name))
        for name in scale.some
        for engine in ENGINES
    ]  # fmt: skip


def _startup(scale: Scale, engine: str, name: str) -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as cache:
        task = _task(scale, engine, name, 64, cache=cache)
        for process in ("first", "second"):
            with Worker(task) as worker:
                run = statistics.median(worker.again() for _ in range(3))
            start = worker.start
            rows.append(
                {
                    "engine": engine,
                    "policy": name,
                    "process": process,
                    "import_s": start["import"],
                    "first_s": start["first"],
                    "compile_s": start["first"] - run,
                    "total_s": worker.seconds,
                }
            )
    return rows


def _parallel_jobs(scale: Scale) -> list[Job]:
    if cores() == 1:
        return []
    return [
        Job(f"one core or device and {cores()}, {engine}, {name}",
            functools.partial(_parallel, scale, engine, name))
        for name in scale.some
        for engine in ENGINES
    ]  # fmt: skip


def _parallel(scale: Scale, engine: str, name: str) -> list[Row]:
    """One device with every core to itself, against one device for each core."""
    many = cores()
    task = functools.partial(_task, scale, engine, name, scale.wide)
    pinned = task(cores=1)
    tasks = {"pinned": pinned, "one": task(), "many": task(devices=many)}
    if engine == "native":
        tasks = {"pinned": pinned, "many": task()}
    with contextlib.ExitStack() as stack:
        workers = {key: stack.enter_context(Worker(task)) for key, task in tasks.items()}
        times: dict[str, list[float]] = {key: [] for key in workers}
        for _ in range(3):
            for key, worker in workers.items():
                times[key].append(worker.again())
    row: Row = {"engine": engine, "policy": name, "lanes": scale.wide, "count": many}
    for key, values in times.items():
        row[f"{key}_ms"] = 1e3 * statistics.median(values) / scale.wide
    row["ratio"] = row.get("one_ms", row["pinned_ms"]) / row["many_ms"]
    return [row]


def _memory_jobs(scale: Scale) -> list[Job]:
    return [
        Job(f"peak memory, {engine}, {lanes:,} lanes",
            functools.partial(_memory, scale, engine, lanes))
        for engine in ENGINES
        for lanes in dict.fromkeys((64, scale.wide))
    ]  # fmt: skip


def _memory(scale: Scale, engine: str, lanes: int) -> list[Row]:
    with Worker(_task(scale, engine, scale.some[-1], lanes, devices=cores())) as worker:
        grown = statistics.median(worker.grown() for _ in range(3))
    return [
        {
            "engine": engine,
            "policy": scale.some[-1],
            "lanes": lanes,
            "megabytes": grown / 1e6,
            "kilobytes_per_lane": grown / 1e3 / lanes,
        }
    ]


STARTUP = Section(
    name="startup",
    title="Compile time and warm caches",
    note=(
        "64 lanes. The first process starts with empty caches, the second one with what the first "
        "left. `first run` is `simulate` from call to result; `compile` is that less a later run; "
        "`whole process` is from its start to its first result, with Python, all imports and the "
        "drawing of the instances."
    ),
    columns={
        "engine": ("engine", "s"),
        "policy": ("policy", "s"),
        "process": ("process", "s"),
        "import_s": ("import jaxsched, s", ".2f"),
        "first_s": ("first run, s", ".2f"),
        "compile_s": ("compile, s", ".2f"),
        "total_s": ("whole process, s", ".2f"),
    },
    jobs=_startup_jobs,
)

PARALLEL = Section(
    name="parallel",
    title="More cores",
    note=(
        "Processes that run in turns: on one core; with one JAX device and all cores; with a "
        "device (jax) or a thread (native) for each core. The ratio is that of the last two, for "
        "native of one core and all cores."
    ),
    columns={
        "engine": ("engine", "s"),
        "policy": ("policy", "s"),
        "lanes": ("lanes", ",d"),
        "count": ("cores", "d"),
        "pinned_ms": ("one core, ms per instance", ".3f"),
        "one_ms": ("one device, all cores", ".3f"),
        "many_ms": ("one for each core", ".3f"),
        "ratio": ("faster by", ".2f"),
    },
    jobs=_parallel_jobs,
)

MEMORY = Section(
    name="memory",
    title="Peak memory",
    note=(
        "By how much a later run raises the resident memory of its process above what that was "
        "between runs (Linux); results of 3 × 4 n bytes per lane are part of it."
    ),
    columns={
        "engine": ("engine", "s"),
        "policy": ("policy", "s"),
        "lanes": ("lanes", ",d"),
        "megabytes": ("MB", ",.1f"),
        "kilobytes_per_lane": ("kB per lane", ",.1f"),
    },
    jobs=_memory_jobs,
)
