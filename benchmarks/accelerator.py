"""The same program on a GPU or TPU, against the native engine on all cores of that machine."""

from __future__ import annotations

import functools

import jax
import numpy as np

from benchmarks.engines import equal, rates
from benchmarks.instances import draw
from benchmarks.scale import Scale
from benchmarks.section import Job, Row, Section
from benchmarks.timing import interleave, simulation


def _jobs(scale: Scale) -> list[Job]:
    if jax.default_backend() == "cpu":
        return [Job("no device", lambda: [{"note": "not measured: JAX finds no GPU or TPU here"}])]
    return [
        Job(f"{name}, {setting}, {lanes:,} lanes",
            functools.partial(_row, scale, name, setting, lanes))
        for lanes in scale.accelerator_lanes
        for setting in scale.settings[:2]
        for name in scale.some
    ]  # fmt: skip


def _row(scale: Scale, name: str, setting: str, lanes: int) -> list[Row]:
    instance = draw(setting, lanes, scale.n, scale.memory)
    runs = {engine: simulation(instance, name, engine) for engine in ("native", "jax")}
    found = runs["native"]()
    times = interleave(runs, min(3, scale.repeats), scale.seconds)
    row = {
        "device": jax.devices()[0].device_kind,
        "policy": name,
        "setting": setting,
        "lanes": lanes,
        "ratio": times["native"].median / times["jax"].median,
        "jax_compile_s": times["jax"].first - times["jax"].median,
        "equal": "equal" if equal(found, runs["jax"]()) else "DIFFER",
    }
    return [row | rates(times, lanes, scale.n, float(np.mean(found.evictions)))]


ACCELERATOR = Section(
    name="accelerator",
    title="Accelerators",
    note=(
        "JAX on the accelerator against the native engine on all cores of the same machine, on the "
        "same instances; `results` compares every returned number. It runs where JAX finds a GPU "
        "or TPU, in one call: `python -m benchmarks --only accelerator`."
    ),
    columns={
        "device": ("device", "s"),
        "policy": ("policy", "s"),
        "setting": ("predictions", "s"),
        "lanes": ("lanes", ",d"),
        "jax_ms": ("jax, ms per instance", ".4f"),
        "native_ms": ("native, all cores", ".4f"),
        "ratio": ("jax / native throughput", ".2f"),
        "jax_requests": ("jax, million requests/s", ".1f"),
        "jax_compile_s": ("jax, compile s", ".1f"),
        "equal": ("results", "s"),
        "note": ("note", "s"),
    },
    jobs=_jobs,
)
