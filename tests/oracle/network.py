"""The network around A_min, by hand, in whole numbers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from jaxsched.policies import Policy
from tests.oracle.rules import LARGEST

ADMIT, RESERVE, EVICT, GROW = range(4)
FEATURES, UNITS = 6, 12
HEAD = FEATURES + UNITS * (FEATURES + 1)  # weights of a head
LONGEST, MOST_EVICTIONS = 2**28 - 1, 6


def a_min_network(weights: Sequence[int]) -> Policy:
    """The network around A_min, its 360 weights in units of 1/1024.

    Head by head, for admission, reservation, eviction and growth: six linear weights, then for each
    of twelve units the six that lead to it and the one that leads on.
    """

    @functools.cache  # the same requests wait in every round
    def net(head: int, prompt: int, memory: int, estimate: int, evictions: int, tokens: int) -> int:
        """Result of a head in units of 2^-20 octaves."""
        own = weights[head * HEAD : (head + 1) * HEAD]
        features = _features(prompt, memory, estimate, evictions, tokens)
        total = _dot(own[:FEATURES], features) // 4
        for i in range(FEATURES, HEAD, FEATURES + 1):
            active = _dot(own[i : i + FEATURES], features) // 4096
            total += own[i + FEATURES] * min(max(active, 0), 8 * 1024)
        return total

    def octaves(head: int, r: Any, tokens: int) -> int:
        return net(head, r.prompt, r.memory, r.estimate, min(r.evictions, MOST_EVICTIONS), tokens)

    def key(head: int, r: Any, tokens: int) -> int:
        return _log2(r.estimate, 24) + 16 * max(-(2**26), min(octaves(head, r, tokens), 2**26))

    def refine(r: Any) -> int:
        grown = max(0, octaves(GROW, r, r.generated))
        return min(_stretched(max(r.estimate, r.generated), grown), LONGEST)

    return Policy(
        "a_min_network",
        estimate=lambda r: min(r.lower, LONGEST),
        admission_key=lambda r: key(ADMIT, r, 0),
        reserve=lambda r: max(1, min(_stretched(r.estimate, octaves(RESERVE, r, 0)), LARGEST)),
        eviction_key=lambda r: key(EVICT, r, r.generated),
        refine=refine,
    )


def _features(prompt: int, memory: int, estimate: int, evictions: int, tokens: int) -> list[int]:
    """What a network sees, in units of 1/4096."""
    return [
        _log2(prompt, 10) - 7 * 1024,
        _log2(estimate, 10) - 7 * 1024,
        _log2(prompt + estimate, 10) - _log2(memory, 10) + 7 * 1024,
        evictions * 1024,
        _log2(tokens + 1, 10),
        4096,
    ]


def _dot(weights: Sequence[int], features: Sequence[int]) -> int:
    return sum(w * x for w, x in zip(weights, features, strict=True))


def _log2(value: int, bits: int) -> int:
    """log2 in units of 2^-bits, linear between the powers of 2, rounded down."""
    whole = value.bit_length() - 1
    return (whole << bits) + ((value - (1 << whole) << bits) >> whole)


def _stretched(value: int, octaves: int) -> int:
    """value 2^octaves, rounded down; octaves in units of 2^-20, up to ±16."""
    whole, rest = divmod(max(-(2**14), min(octaves // 1024, 2**14)), 1024)
    scaled = value * (1024 + rest)
    return scaled << whole >> 10 if whole >= 0 else scaled >> 10 - whole
