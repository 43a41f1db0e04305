"""How the time of a request grows with their number, the outputs and the memory; uneven lanes."""

from __future__ import annotations

import functools

import numpy as np

from benchmarks.instances import draw, join, pick
from benchmarks.scale import Scale
from benchmarks.section import Job, Row, Section
from benchmarks.timing import interleave, simulation


def _jobs(scale: Scale) -> list[Job]:
    by_n = [(n, 1, 1) for n in scale.growth_n]
    by_length = [(scale.n, outputs, memory) for outputs, memory in scale.factors]
    return [
        Job(f"{name}, {setting}, n = {n:,}, outputs ×{outputs}, memory ×{memory}",
            functools.partial(_growth, scale, name, setting, n, outputs, memory))
        for name in scale.some
        for setting in (scale.settings[:1] if name == "h_sf" else scale.settings[:2])
        for n, outputs, memory in dict.fromkeys(by_n + by_length)
    ]  # fmt: skip


def _growth(scale: Scale, name: str, setting: str, n: int, outputs: int, memory: int) -> list[Row]:
    lanes = scale.growth_lanes
    instance = draw(setting, lanes, n, scale.memory * memory, outputs)
    native, jax_ = (simulation(instance, name, engine) for engine in ("native", "jax"))
    found = native()
    times = interleave({"native": native, "jax": jax_}, scale.repeats, scale.seconds)
    return [
        {
            "policy": name,
            "setting": setting,
            "n": n,
            "outputs": outputs,
            "memory": scale.memory * memory,
            "evictions_per_request": float(np.mean(found.evictions)) / n,
            "rounds": float(np.mean(found.rounds)),
            "jax_us": 1e6 * times["jax"].median / lanes / n,
            "native_us": 1e6 * times["native"].median / lanes / n,
            "jax_compile_s": times["jax"].first - times["jax"].median,
        }
    ]


def _uneven_jobs(scale: Scale) -> list[Job]:
    name = scale.some[-1]
    return [
        Job(f"uneven lanes, {name}, {engine}", functools.partial(_uneven, scale, name, engine))
        for engine in ("jax", "native")
    ]


def _uneven(scale: Scale, name: str, engine: str) -> list[Row]:
    half = np.arange(scale.wide // 2)
    whole = {s: draw(s, scale.wide, scale.n, scale.memory) for s in ("one interval", "ten classes")}
    mixed = join(*(pick(instance, half) for instance in whole.values()))
    batches = {**whole, "mixed": mixed}
    runs = {key: simulation(batch, name, engine) for key, batch in batches.items()}
    times = interleave(runs, scale.repeats, scale.seconds)
    one, ten, both = (1e3 * times[key].median / scale.wide for key in runs)
    row = {"policy": name, "engine": engine, "lanes": scale.wide}
    row |= {"one_ms": one, "ten_ms": ten, "mixed_ms": both}
    return [row | {"ratio": (one + ten) / 2 / both}]


GROWTH = Section(
    name="growth",
    title="Growth",
    note=(
        "Time per request, both engines on all cores, in turns. Outputs and intervals are "
        "multiplied, prompts are not. h_sf reads no predictions."
    ),
    columns={
        "policy": ("policy", "s"),
        "setting": ("predictions", "s"),
        "n": ("n", ",d"),
        "outputs": ("outputs ×", "d"),
        "memory": ("memory, tokens", ",d"),
        "evictions_per_request": ("evictions per request", ".2f"),
        "rounds": ("rounds", ",.0f"),
        "jax_us": ("jax, µs per request", ".2f"),
        "native_us": ("native", ".3f"),
        "jax_compile_s": ("jax, compile s", ".1f"),
    },
    jobs=_jobs,
)

UNEVEN = Section(
    name="uneven",
    title="Lanes of very different length in one batch",
    note=(
        "Half of the lanes have one interval, half ten classes, dealt out alternately. The last "
        "column is the mean time of the two even batches over the time of the mixed one."
    ),
    columns={
        "policy": ("policy", "s"),
        "engine": ("engine", "s"),
        "lanes": ("lanes", ",d"),
        "one_ms": ("one interval, ms per instance", ".3f"),
        "ten_ms": ("ten classes", ".3f"),
        "mixed_ms": ("mixed", ".3f"),
        "ratio": ("throughput, mixed / even", ".2f"),
    },
    jobs=_uneven_jobs,
)
