"""The policies of the model, section 5, and the family around A_min, by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from typing import Any

from jaxsched.policies import Policy

LARGEST = 2**31 - 2


def octaves(value: int, bits: int) -> int:
    """log2, linear between powers of 2, in units of 2^-bits."""
    whole = math.floor(math.log2(value))
    while 2**whole > value:  # the logarithm of a large number may be rounded up
        whole -= 1
    return whole * 2**bits + (value - 2**whole) * 2**bits // 2**whole


def shortest_first(name: str, estimate: Callable[[Any], int]) -> Policy:
    return Policy(
        name,
        estimate,
        admission_key=lambda r: r.estimate,
        reserve=lambda r: r.estimate,
        eviction_key=lambda r: r.estimate,
        refine=lambda r: max(r.estimate, r.generated),
    )


def h_sf() -> Policy:
    return shortest_first("h_sf", attrgetter("output"))


def a_max() -> Policy:
    return shortest_first("a_max", attrgetter("upper"))


def mc_sf() -> Policy:
    return shortest_first("mc_sf", attrgetter("point"))


def a_min(refine: str = "on_eviction") -> Policy:
    """The order of evictions reads the estimate as of the last eviction, or progress as well."""
    literal = shortest_first(f"a_min:{refine}", attrgetter("lower"))
    if refine == "on_eviction":
        return literal
    return replace(literal, eviction_key=lambda r: max(r.estimate, r.generated))


def fcfs(watermark: int = 0) -> Policy:
    """`watermark` is the share of the memory, in 1/1024, that stays free beside others."""
    return Policy(
        "fcfs",
        estimate=lambda r: 1,
        admission_key=lambda r: r.arrival,
        reserve=lambda r: 1,
        eviction_key=lambda r: r.admitted,
        refine=lambda r: r.estimate,
        headroom=lambda r: r.memory * watermark // 1024,
        evict_largest=True,
    )


def priority() -> Policy:
    return replace(
        fcfs(),
        name="priority",
        admission_key=lambda r: r.point,
        eviction_key=lambda r: r.point,
        headroom=None,
    )


def no_evict() -> Policy:
    return replace(
        shortest_first("no_evict", attrgetter("upper")),
        admission_key=lambda r: r.arrival,
        eviction_key=lambda r: r.admitted,
        evict_largest=True,
    )


def svf(by: str = "output") -> Policy:
    def volume(r: Any) -> int:
        tokens = min(r.estimate, r.memory)
        return min(r.prompt * tokens + tokens * (tokens + 1) // 2, LARGEST)

    return replace(
        shortest_first(f"svf:{by}", attrgetter(by)), admission_key=volume, eviction_key=volume
    )


def a_min_family(
    start: int,
    admit_prompt: int,
    admit_area: int,
    reserve_factor: int,
    reserve_floor: int,
    evict_estimate: int,
    evict_progress: int,
    evict_prompt: int,
    run_growth: int,
    evict_growth: int,
    admit_estimate: int = 1024,
    progress: int = 0,
    age: int = 0,
    evict_arrival: int = 0,
) -> Policy:
    """Numbers in units of 1/1024 (`reserve_floor` in tokens, `age` in 2^-20 octaves)."""

    def kept(r: Any) -> int:
        return progress * r.generated // 1024

    def admission_key(r: Any) -> int:
        prompt, remaining = r.prompt + kept(r), max(r.estimate - kept(r), 1)
        tokens = min(remaining, r.memory)
        volume = min(prompt * tokens + tokens * (tokens + 1) // 2, 2**42)
        area = min(volume * 1024 // r.memory, 2**31)
        weight = remaining * admit_estimate + admit_prompt * prompt + admit_area * area // 1024
        if age == 0:
            return _key(weight)
        return min(octaves(max(weight, 1), 10) + age * r.arrival // 1024, LARGEST)

    def eviction_key(r: Any) -> int:
        running = max(r.estimate, run_growth * r.generated // 1024)
        return _key(
            evict_estimate * running
            + evict_progress * r.generated
            + evict_prompt * r.prompt
            - evict_arrival * r.arrival
        )

    def refine(r: Any) -> int:
        seen = max(r.estimate, r.generated)
        return min(seen + evict_growth * seen // 1024, LARGEST)

    return Policy(
        "a_min_family",
        estimate=lambda r: r.lower + start * (r.upper - r.lower) // 1024,
        admission_key=admission_key,
        reserve=lambda r: max(
            1, min(max(kept(r) + reserve_floor, reserve_factor * r.estimate // 1024), LARGEST)
        ),
        eviction_key=eviction_key,
        refine=refine,
    )


def _key(key: int) -> int:
    return max(-LARGEST, min(key // 64, LARGEST))


RULES: dict[str, Policy] = {
    rule.name: rule
    for rule in (
        h_sf(), a_max(), mc_sf(), a_min("on_eviction"), a_min("every_round"), fcfs(),
        priority(), no_evict(), svf("output"), svf("lower"), svf("upper"), svf("point"),
    )
}  # fmt: skip
