"""The targets, and what was measured next to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from benchmarks.section import Row

Results = dict[str, list[Row]]
"""Rows by name of their section."""

Measure = Callable[[Results, str], "float | None"]
"""(results, engine) -> the worst value; `None` where nothing was measured."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A target and how to read it off the results.

    Attributes:
      what: What is measured.
      bound: The value to reach.
      at_least: Whether larger is better.
      unit: Follows numbers.
      measure: The worst value of an engine.
      engines: The engines it is about.
    """

    what: str
    bound: float
    at_least: bool
    unit: str
    measure: Measure
    engines: tuple[str, ...] = ("jax", "native")

    def met(self, value: float) -> bool:
        """Whether a value is good enough."""
        return value >= self.bound if self.at_least else value <= self.bound

    def sign(self) -> str:
        """The target in words."""
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}{self.unit}"


def _worst(values: Iterable[float], at_least: bool) -> float | None:
    """The value furthest from the target."""
    found = list(values)
    if not found:
        return None
    return min(found) if at_least else max(found)


def _against_native(results: Results, engine: str) -> float | None:
    rows = results.get("engines", [])
    return _worst((row["ratio"] for row in rows if row["lanes"] >= 64), at_least=True)


def _uneven(results: Results, engine: str) -> float | None:
    rows = results.get("uneven", [])
    return _worst((row["ratio"] for row in rows if row["engine"] == engine), at_least=True)


def _growth(results: Results, engine: str, **large: int) -> float | None:
    """Time per request of the larger problem over that of the ordinary one."""
    rows = results.get("growth", [])
    ordinary = min((row["memory"] for row in rows), default=0)
    base = {
        (row["policy"], row["setting"]): row
        for row in rows
        if (row["n"], row["outputs"], row["memory"]) == (2000, 1, ordinary)
    }
    grown = [
        row
        for row in rows
        if row["n"] == large["n"]
        and row["outputs"] == large["outputs"]
        and row["memory"] == ordinary * large["memory"]
    ]
    key = f"{engine}_us"
    ratios = (row[key] / base[row["policy"], row["setting"]][key] for row in grown)
    return _worst(ratios, at_least=False)


def _many(results: Results, engine: str) -> float | None:
    return _growth(results, engine, n=100_000, outputs=1, memory=1)


def _long(results: Results, engine: str) -> float | None:
    return _growth(results, engine, n=2000, outputs=32, memory=32)


def _peer(results: Results, engine: str) -> float | None:
    return _worst((row["ratio"] for row in results.get("peer", []) if "ratio" in row), True)


def _startup(results: Results, engine: str, process: str, key: str) -> float | None:
    rows = results.get("startup", [])
    chosen = (row[key] for row in rows if (row["engine"], row["process"]) == (engine, process))
    return _worst(chosen, at_least=False)


def _compile(results: Results, engine: str) -> float | None:
    return _startup(results, engine, "first", "compile_s")


def _warm(results: Results, engine: str) -> float | None:
    return _startup(results, engine, "second", "first_s")


def _warm_process(results: Results, engine: str) -> float | None:
    return _startup(results, engine, "second", "total_s")


def _loop(results: Results, engine: str) -> float | None:
    return _worst((row["loop"] for row in results.get("loop", []) if row["n"] == 2000), False)


def _devices(results: Results, engine: str) -> float | None:
    rows = results.get("parallel", [])
    return _worst((row["ratio"] for row in rows if row["engine"] == engine), at_least=True)


def _relaxation(results: Results, engine: str) -> float | None:
    return _worst((row["ratio"] for row in results.get("relaxation", [])), at_least=False)


def _accelerator(results: Results, engine: str) -> float | None:
    rows = results.get("accelerator", [])
    return _worst((row["ratio"] for row in rows if row.get("lanes", 0) >= 4096), at_least=True)


JAX, NATIVE = ("jax",), ("native",)

TARGETS = (
    Target("JAX against native, all cores, 64 lanes or more", 1, True, "×", _against_native, JAX),
    Target("uneven lanes in one batch against even ones, throughput", 0.8, True, "×", _uneven),
    Target("time per request, n = 100,000 against 2,000", 1.5, False, "×", _many),
    Target("time per request, outputs and memory ×32", 2, False, "×", _long),
    Target("requests/s against DynoSim, one core each", 50, True, "×", _peer, NATIVE),
    Target("compile time of a policy, n = 2,000", 10, False, " s", _compile),
    Target("second process, call to first result", 2, False, " s", _warm),
    Target("second process, its start to first result", 2, False, " s", _warm_process),
    Target("memory per lane in the loop, n = 2,000", 256, False, " kB", _loop, JAX),
    Target("a device or thread for each of two cores against one, 1,024 lanes", 1.7, True, "×",
           _devices),
    Target("a relaxed simulation with its gradient against an exact one", 100, False, "×",
           _relaxation, NATIVE),
    Target("a GPU against native on all cores of its machine, 4,096 lanes or more", 3, True, "×",
           _accelerator, JAX),
)  # fmt: skip


def table(results: Results) -> list[list[str]]:
    """Lines of the table of targets: what, target, worst value of JAX, and of native."""
    lines = []
    for target in TARGETS:
        cells = [_cell(target, target.measure(results, engine), engine)
                 for engine in ("jax", "native")]  # fmt: skip
        lines.append([target.what, target.sign(), *cells])
    return lines


def _cell(target: Target, value: float | None, engine: str) -> str:
    if engine not in target.engines:
        return ""
    if value is None:
        return "not measured"
    return f"{value:.3g}{target.unit} {'met' if target.met(value) else '**missed**'}"
