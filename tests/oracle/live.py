"""The rules for live traffic, by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from typing import Any

from jaxsched.policies import Policy
from tests.oracle.rules import LARGEST, a_min, fcfs, no_evict, octaves

P = 2**31 - 1


def victims(name: str, key: Callable[[Any], int], largest: bool = False) -> Policy:
    """First come first served with another victim."""
    return replace(fcfs(), name=name, eviction_key=key, evict_largest=largest, headroom=None)


def lcf() -> Policy:
    return victims("lcf", lambda r: r.prompt + r.generated)


def mcf() -> Policy:
    return victims("mcf", lambda r: r.prompt + r.generated, largest=True)


def drawn(r: Any) -> int:
    """Two squarings modulo the prime 2^31 - 1 of a sum of four numbers times primes."""
    parts = zip((r.prompt, r.arrival, r.generated, r.evictions), PRIMES, strict=True)
    start = (sum(a * b for a, b in parts) % P + 48611) % P
    return _square(_square(start, 611953), 0)


PRIMES = (7919, 104729, 1299709, 15485863)


def _square(value: int, shift: int) -> int:
    return (value * value + shift) % P


def random_victim() -> Policy:
    return victims("random_victim", drawn, largest=True)


def volume_to_come(r: Any) -> int:
    left = max(min(r.estimate, r.memory) - r.generated, 1)
    return sum_of_cache(r.prompt + r.generated, left)


def sum_of_cache(held: int, tokens: int) -> int:
    """held + 1, held + 2, ... tokens in so many rounds."""
    return (2 * held + tokens + 1) * tokens // 2


def remaining_volume(by: str | None = None, age: int = 0) -> Policy:
    def aged(r: Any) -> int:
        return min(octaves(volume_to_come(r), 16) + r.arrival * 2**16 // age, LARGEST)

    name = "remaining_volume" + (f":{by}" if by else "")
    return Policy(
        name if age == 0 else f"{name}:age={age}",
        estimate=attrgetter(by) if by else lambda r: 1,
        admission_key=aged if age else lambda r: min(volume_to_come(r), LARGEST),
        reserve=lambda r: 1,
        eviction_key=attrgetter("generated"),
        refine=lambda r: max(r.estimate, r.generated),
    )


def past_future() -> Policy:
    return replace(no_evict(), name="past_future", estimate=attrgetter("point"))


def tie(beta: int = 102) -> Policy:
    """`beta` in 1/1024: 0.1 is 102."""
    rule = victims("tie", attrgetter("admitted"), largest=True)
    return replace(rule, admission_key=lambda r: min(r.point + beta * r.upper // 1024, LARGEST))


def trail(limit: int = 819) -> Policy:
    """`limit` in 1/1024: 0.8 is 819."""

    def left(r: Any) -> int:
        return max(r.point - r.generated, 0)

    def key(r: Any) -> int:
        return left(r) if r.generated * 1024 < limit * r.point else -1

    return replace(victims("trail", key, largest=True), admission_key=left)


def random_ties() -> Policy:
    def key(r: Any) -> int:
        return min(min(r.estimate, 2**20) * 1024 + drawn(r) % 1024, LARGEST)

    return replace(a_min(), name="a_min:random_ties", admission_key=key, eviction_key=key)


LIVE: dict[str, Policy] = {
    rule.name: rule
    for rule in (
        lcf(), random_victim(), remaining_volume(), remaining_volume("output"),
        remaining_volume("lower"), remaining_volume("upper"), remaining_volume("point"),
        past_future(), tie(), trail(), random_ties(),
    )
}  # fmt: skip
"""Those that are shipped under a name."""
