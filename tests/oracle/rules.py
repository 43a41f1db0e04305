"""The shipped policies as rules of the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter

from jaxsched.engines.reference.model import Known, Rule

LARGEST = 2**31 - 2
"""Engines compare keys and keep estimates in 32 bits; what is larger counts as this."""


def _shortest_first(name: str, estimate: Callable[[Known], int], **others: bool) -> Rule:
    return Rule(
        name,
        estimate,
        admission_key=lambda request, estimate: estimate,
        reserve=lambda request, estimate: estimate,
        eviction_key=lambda request, estimate, tokens, admitted, index: (estimate, index),
        refine=lambda request, estimate, tokens: max(estimate, tokens),
        **others,
    )


def h_sf() -> Rule:
    """Hindsight shortest first: the estimate is the true output (arXiv 2508.14544)."""
    return _shortest_first("h_sf", attrgetter("output"))


def a_max() -> Rule:
    """A_max: the estimate is the upper end of the interval (arXiv 2508.14544)."""
    return _shortest_first("a_max", attrgetter("upper"))


def mc_sf() -> Rule:
    """MC-SF: the estimate is a point prediction (arXiv 2502.07115)."""
    return _shortest_first("mc_sf", attrgetter("point"), needs_point=True)


def a_min(refine: str = "on_eviction") -> Rule:
    """A_min: the estimate starts at the lower end and grows with the tokens seen (2508.14544).

    The paper leaves open what the eviction order reads of a running request: its estimate as of
    its last eviction ("on_eviction"), or max(estimate, tokens) ("every_round").
    """
    if refine not in ("on_eviction", "every_round"):
        raise ValueError(f"refine is {refine!r}; expected 'on_eviction' or 'every_round'")
    literal = _shortest_first(f"a_min:{refine}", attrgetter("lower"))
    if refine == "on_eviction":
        return literal
    return replace(
        literal,
        eviction_key=lambda request, estimate, tokens, admitted, index: (
            max(estimate, tokens),
            index,
        ),
    )


def fcfs(watermark: int = 0) -> Rule:
    """First come first served, as serving engines do: no prediction, the latest to enter leaves.

    `watermark` is the share of the memory, in 1/1024, that must stay free when a request enters
    beside others.
    """
    return Rule(
        name="fcfs",
        estimate=lambda request: 0,
        admission_key=lambda request, estimate: request.arrival,
        reserve=lambda request, estimate: 1,
        eviction_key=lambda request, estimate, tokens, admitted, index: (-admitted, -index),
        refine=lambda request, estimate, tokens: estimate,
        headroom=lambda request: (request.memory * watermark) >> 10,
    )


def svf(by: str = "output") -> Rule:
    """Smallest volume first (arXiv 2606.22327): s r + r (r + 1) / 2, the memory-time."""

    def volume(request: Known, estimate: int) -> int:
        r = min(estimate, request.memory)
        return min(request.prompt * r + r * (r + 1) // 2, LARGEST)

    return replace(
        _shortest_first(f"svf:{by}", attrgetter(by), needs_point=by == "point"),
        admission_key=volume,
        eviction_key=lambda request, estimate, tokens, admitted, index: (
            volume(request, estimate),
            index,
        ),
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
) -> Rule:
    """The family around A_min, its numbers in units of 1/1024 (`reserve_floor` in tokens)."""

    def admission_key(request: Known, estimate: int) -> int:
        r = min(estimate, request.memory)
        volume = min(request.prompt * r + r * (r + 1) // 2, 2**42)
        area = min((volume << 10) // request.memory, 2**31)
        key = (estimate << 10) + admit_prompt * request.prompt + ((admit_area * area) >> 10)
        return _key(key)

    def eviction_key(
        request: Known, estimate: int, tokens: int, admitted: int, index: int
    ) -> tuple[int, int]:
        running = max(estimate, (run_growth * tokens) >> 10)
        key = evict_estimate * running + evict_progress * tokens + evict_prompt * request.prompt
        return _key(key), index

    def refine(request: Known, estimate: int, tokens: int) -> int:
        seen = max(estimate, tokens)
        return min(seen + ((evict_growth * seen) >> 10), LARGEST)

    return Rule(
        name="a_min_family",
        estimate=lambda request: request.lower + ((start * (request.upper - request.lower)) >> 10),
        admission_key=admission_key,
        reserve=lambda request, estimate: max(
            1, min(max(reserve_floor, (reserve_factor * estimate) >> 10), LARGEST)
        ),
        eviction_key=eviction_key,
        refine=refine,
    )


def _key(key: int) -> int:
    return max(-LARGEST, min(key >> 6, LARGEST))


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        h_sf(), a_max(), mc_sf(), a_min("on_eviction"), a_min("every_round"), fcfs(),
        svf("output"), svf("lower"), svf("upper"), svf("point"),
    )
}  # fmt: skip
