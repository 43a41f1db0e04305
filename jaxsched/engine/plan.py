"""Sizes of the fixed-shape state, chosen from the shape of the problem alone."""

from __future__ import annotations

from jaxsched.engine.fold import PARTS
from jaxsched.engine.state import Plan


def make_plan(n: int, lanes: int, arrivals: bool) -> Plan:
    """Sizes for `lanes` instances of n requests each.

    The numbers are measured, see docs/performance.md. They depend on shapes only, so that
    instances of one shape share a compiled program whatever their values.
    """
    slots = [128]
    while slots[-1] < n:
        slots.append(2 * slots[-1])
    slots[-1] = -(-n // PARTS) * PARTS if n < 128 else slots[-1]
    small = 4096
    return Plan(
        n=n,
        pool=min(lanes, int(__import__("os").environ.get("POOL", "32"))),
        slots=tuple(slots),
        chunk=128,
        buffer=128,
        runs=(n,) if n <= small else (small, n),
        arrivals=arrivals,
    )
