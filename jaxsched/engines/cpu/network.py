"""The choices of the network around A_min in whole numbers (see `jaxsched.policies.network`).

Its weights are in units of 1/1024, head by head: six linear ones, then for each unit the six that
lead to it and the one that leads on. A request carries evictions << 28 | estimate as its estimate.
32 bits hold every sum of products, 64 bits what lengths are stretched by.
"""

from __future__ import annotations

from numba import int64, uint64
from numpy.typing import NDArray

from jaxsched.engines.cpu.layout import jit, leading_zeros

ADMIT, RESERVE, EVICT, GROW = range(4)
FEATURES, UNITS = 6, 12
HEAD = FEATURES + UNITS * (FEATURES + 1)
"""Weights of a head."""

WEIGHTS = 4 * HEAD
WIDEST = 2**13
"""Largest weight."""

_LONGEST, _MOST_EVICTIONS = 2**28 - 1, 6


@jit
def network_first(lower: int) -> int:
    """The estimate of a request that has not run."""
    return min(int64(lower), int64(_LONGEST))


@jit
def network_key(
    head: int, weights: NDArray, memory: int, prompt: int, state: int, tokens: int
) -> int:
    """What a request is admitted or evicted by; the smallest goes first."""
    octaves = net(head, weights, memory, prompt, state, tokens)
    octaves = max(int64(-(2**26)), min(octaves, int64(2**26)))
    return _log2(state & _LONGEST, int64(24)) + (octaves << 4)


@jit
def network_reserve(weights: NDArray, memory: int, prompt: int, state: int) -> int:
    """Tokens that are reserved for a request."""
    octaves = net(RESERVE, weights, memory, prompt, state, int64(0))
    return max(int64(1), min(_stretched(state & _LONGEST, octaves), int64(2**31 - 2)))


@jit
def network_refined(weights: NDArray, memory: int, prompt: int, state: int, tokens: int) -> int:
    """What a request carries after an eviction."""
    octaves = max(int64(0), net(GROW, weights, memory, prompt, state, tokens))
    seen = min(_stretched(max(state & _LONGEST, tokens), octaves), int64(_LONGEST))
    return min((state >> 28) + 1, int64(_MOST_EVICTIONS)) << 28 | seen


@jit
def net(head: int, weights: NDArray, memory: int, prompt: int, state: int, tokens: int) -> int:
    """Result of a head in units of 2^-20."""
    estimate, ten = state & _LONGEST, int64(10)
    features = (
        _log2(prompt, ten) - 7 * 1024,
        _log2(estimate, ten) - 7 * 1024,
        _log2(prompt + estimate, ten) - _log2(memory, ten) + 7 * 1024,
        (state >> 28) << 10,
        _log2(tokens + 1, ten),
        int64(4096),
    )
    first = head * HEAD
    total = _dot(weights, first, features) >> 2
    for unit in range(UNITS):
        place = first + FEATURES + unit * (FEATURES + 1)
        active = max(int64(0), min(_dot(weights, place, features) >> 12, int64(2**13)))
        total += weights[uint64(place + FEATURES)] * active
    return total


@jit
def _dot(weights: NDArray, place: int, features: tuple[int, int, int, int, int, int]) -> int:
    a, b, c, d, e, f = features
    return (
        weights[uint64(place)] * a
        + weights[uint64(place + 1)] * b
        + weights[uint64(place + 2)] * c
        + weights[uint64(place + 3)] * d
        + weights[uint64(place + 4)] * e
        + weights[uint64(place + 5)] * f
    )


@jit
def _log2(value: int, bits: int) -> int:
    """log2 in units of 2^-bits, linear between the powers of 2, rounded down."""
    whole = 63 - int64(leading_zeros(uint64(value)))
    return (whole << bits) + (((value ^ (int64(1) << whole)) << bits) >> whole)


@jit
def _stretched(value: int, octaves: int) -> int:
    """value 2^octaves, rounded down; octaves in units of 2^-20, up to ±16."""
    octaves = max(int64(-(2**14)), min(octaves >> 10, int64(2**14)))
    whole, scaled = octaves >> 10, value * (1024 + (octaves & 1023))
    return scaled << whole >> 10 if whole >= 0 else scaled >> (10 - whole)
