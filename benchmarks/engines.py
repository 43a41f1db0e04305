"""The engines side by side on the same instances."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable

import numpy as np

from benchmarks.instances import draw, first
from benchmarks.scale import Scale
from benchmarks.section import Job, Row, Section
from benchmarks.timing import Timing, interleave, on_one_core, simulation
from jaxsched import Instance, Result, policy
from jaxsched.engines import reference

COLUMNS = {
    "policy": ("policy", "s"),
    "setting": ("predictions", "s"),
    "lanes": ("lanes", ",d"),
    "evictions": ("evictions per instance", ",.0f"),
    "jax_ms": ("jax, ms per instance", ".2f"),
    "native_ms": ("native", ".3f"),
    "native_one_core_ms": ("native, one core", ".3f"),
    "ratio": ("jax / native throughput", ".3f"),
    "jax_instances": ("jax, instances/s", ",.0f"),
    "native_instances": ("native", ",.0f"),
    "jax_requests": ("jax, million requests/s", ".2f"),
    "native_requests": ("native", ".1f"),
    "jax_events": ("jax, million events/s", ".2f"),
    "native_events": ("native", ".1f"),
    "jax_compile_s": ("jax, compile s", ".1f"),
    "equal": ("results", "s"),
}


def _jobs(scale: Scale) -> list[Job]:
    return [
        Job(f"{name}, {setting}", functools.partial(_rows, scale, name, setting))
        for setting in scale.settings
        for name in scale.policies
    ]


def _rows(scale: Scale, name: str, setting: str) -> list[Row]:
    instance = draw(setting, max(scale.lanes), scale.n, scale.memory)
    return [_row(scale, name, setting, first(instance, lanes)) for lanes in scale.lanes]


def _row(scale: Scale, name: str, setting: str, instance: Instance) -> Row:
    native = simulation(instance, name, "native")
    results: list[Result] = []
    runs = {"native": native, "jax": _keeping(results, simulation(instance, name, "jax"))}
    if hasattr(os, "sched_setaffinity"):
        runs["native_one_core"] = on_one_core(native)
    found = native()  # compiles; and the results that are compared
    times = interleave(runs, scale.repeats, scale.seconds)
    lanes = instance.lanes[0]
    row = {"policy": name, "setting": setting, "lanes": lanes}
    row |= rates(times, lanes, scale.n, float(np.mean(found.evictions)))
    row["ratio"] = times["native"].median / times["jax"].median
    row["jax_compile_s"] = times["jax"].first - times["jax"].median
    row["equal"] = "equal" if all(equal(found, result) for result in results) else "DIFFER"
    return row


def _keeping(results: list[Result], run: Callable[[], Result]) -> Callable[[], None]:
    """The same run; its result is the only one kept."""

    def call() -> None:
        results[:] = [run()]

    return call


def rates(times: dict[str, Timing], lanes: int, n: int, evictions: float) -> Row:
    """Milliseconds per instance, and instances, requests and events per second, of each contender.

    An event is an admission, a completion or an eviction.
    """
    row: Row = {"evictions": evictions}
    for name, timing in times.items():
        per_instance = timing.median / lanes
        row[f"{name}_ms"] = 1e3 * per_instance
        row[f"{name}_low_ms"] = 1e3 * timing.low / lanes
        row[f"{name}_high_ms"] = 1e3 * timing.high / lanes
        row[f"{name}_repeats"] = timing.repeats
        row[f"{name}_instances"] = 1 / per_instance
        row[f"{name}_requests"] = n / per_instance / 1e6
        row[f"{name}_events"] = (2 * n + 2 * evictions) / per_instance / 1e6
    return row


def equal(a: Result, b: Result) -> bool:
    """Whether two engines agree in every number that they return."""
    names = (
        "completion", "first_token", "preemptions", "peak_memory", "rounds", "status", "totals",
    )  # fmt: skip
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


def _reference_jobs(scale: Scale) -> list[Job]:
    if not scale.reference:
        return []
    return [
        Job(f"plain reference, {name}", functools.partial(_reference, scale, name))
        for name in scale.policies
    ]


def _reference(scale: Scale, name: str) -> list[Row]:
    setting = scale.settings[-1]
    instance = draw(setting, 1, scale.n, scale.memory)
    fields = (instance.prompt, instance.output, instance.lower, instance.upper)
    lists = [field[0].tolist() for field in fields]
    requests = [reference.Request(*lengths) for lengths in zip(*lists, strict=True)]
    begun = time.perf_counter()
    right = reference.simulate(requests, scale.memory, policy(name))
    seconds = time.perf_counter() - begun
    native = on_one_core(simulation(instance, name, "native"))
    times = interleave({"native": native}, 2 * scale.repeats, scale.seconds)
    same = np.array_equal(np.asarray(right.completion), native().completion[0])
    return [
        {
            "policy": name,
            "setting": setting,
            "reference_s": seconds,
            "native_ms": 1e3 * times["native"].median,
            "times": seconds / times["native"].median,
            "equal": "equal" if same else "DIFFER",
        }
    ]


ENGINES = Section(
    name="engines",
    title="Engines",
    note=(
        "The same instances, from numpy arrays to finished results, in turns; medians. Both "
        "engines use all cores, jax with one CPU device for each. Events are admissions, "
        "completions and evictions. Settings share compiled programs: the first one compiles. "
        "`results` compares every returned number of both engines."
    ),
    columns=COLUMNS,
    jobs=_jobs,
)

REFERENCE = Section(
    name="reference",
    title="The plain reference",
    note="One instance, once, in plain Python, against the native engine on one core.",
    columns={
        "policy": ("policy", "s"),
        "setting": ("predictions", "s"),
        "reference_s": ("reference, s", ".1f"),
        "native_ms": ("native, one core, ms", ".3f"),
        "times": ("native is faster by", ",.0f"),
        "equal": ("completions", "s"),
    },
    jobs=_reference_jobs,
)
