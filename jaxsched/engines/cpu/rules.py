"""The choices of a policy in whole numbers: estimates, keys, reserves.

The family's numbers are in units of 1/1024, its floor in tokens; `>>` rounds down. 64 bits hold
every product: lengths are below 2**31, prompts and memory at most 2**28, numbers at most 2**20.
"""

from __future__ import annotations

from numba import int32, int64, uint64
from numpy.typing import NDArray

from jaxsched.engines.cpu.layout import (
    FAMILY,
    LATEST,
    NETWORK,
    SMALLEST_RUNNING,
    VOLUME,
    Lane,
    jit,
)
from jaxsched.engines.cpu.network import (
    ADMIT,
    network_first,
    network_key,
    network_refined,
    network_reserve,
)

# Columns of the family's `params`, and what they range over.
(
    START,
    ADMIT_PROMPT,
    ADMIT_AREA,
    RESERVE_FACTOR,
    RESERVE_FLOOR,
    EVICT_ESTIMATE,
    EVICT_PROGRESS,
    EVICT_PROMPT,
    RUN_GROWTH,
    EVICT_GROWTH,
) = range(10)
LEAST = (0, -(2**16), -(2**20), 0, 0, -(2**16), -(2**16), -(2**16), 0, 0)
MOST = (2**10, 2**16, 2**20, 2**16, 2**20, 2**16, 2**16, 2**16, 2**16, 2**16)

_LARGEST = 2**31 - 2


@jit
def first_estimate(rule: int, params: NDArray, lower: int, upper: int) -> int:
    """The estimate of a request that has not run; `lower` itself for all but the family."""
    if rule == NETWORK:
        return network_first(lower)
    return lower + ((params[START] * (int64(upper) - lower)) >> 10)


@jit
def admission_key(rule: int, params: NDArray, memory: int, prompt: int, estimate: int) -> int:
    """The smallest is admitted first; for LATEST the caller knows better."""
    if rule == FAMILY:
        area = _area(prompt, estimate, memory)
        key = (estimate << 10) + params[ADMIT_PROMPT] * prompt
        return _key(key + ((params[ADMIT_AREA] * area) >> 10))
    if rule == VOLUME:
        return min(_volume(prompt, estimate, memory), int64(_LARGEST))
    if rule == NETWORK:
        return network_key(ADMIT, params, memory, prompt, int64(estimate), int64(0))
    return int64(estimate)


@jit
def _volume(prompt: int, estimate: int, memory: int) -> int:
    """Token-rounds of a request that generates as many tokens as estimated."""
    run = min(int64(estimate), int64(memory))
    return prompt * run + ((run * (run + 1)) >> 1)


@jit
def _area(prompt: int, estimate: int, memory: int) -> int:
    """The volume over the memory.

    A quotient in floating point, as that is faster: the dividend, at most 2**52, is exact, and the
    rounding error of the quotient smaller than its distance to the next whole number.
    """
    volume = min(_volume(prompt, estimate, memory), int64(2**42))
    return int64(min(float(volume << 10) / float(memory), 2.0**31))


@jit
def _key(key: int) -> int:
    return max(int64(-_LARGEST), min(key >> 6, int64(_LARGEST)))


@jit
def reserved(rule: int, params: NDArray, memory: int, prompt: int, estimate: int) -> int:
    """Tokens that are reserved for a request, if it can use so many."""
    if rule == NETWORK:
        return network_reserve(params, memory, prompt, int64(estimate))
    if rule != FAMILY:
        return int64(estimate)
    return max(int64(1), params[RESERVE_FLOOR], (params[RESERVE_FACTOR] * estimate) >> 10)


@jit
def refined(lane: Lane, prompt: int, estimate: int, tokens: int) -> int:
    """The estimate after an eviction."""
    if lane.rule == LATEST:
        return estimate
    if lane.rule == NETWORK:
        return network_refined(lane.params, lane.memory, prompt, estimate, tokens)
    seen = max(estimate, tokens)
    if lane.rule == FAMILY:
        seen = min(seen + ((lane.params[EVICT_GROWTH] * seen) >> 10), int64(_LARGEST))
    return seen


@jit
def keys_move(rule: int, params: NDArray) -> bool:
    """Whether eviction keys depend on how long a request has run."""
    if rule != FAMILY:
        return rule == SMALLEST_RUNNING or rule == NETWORK
    grows = params[RUN_GROWTH] != 0 and params[EVICT_ESTIMATE] != 0
    return grows or params[EVICT_PROGRESS] != 0


@jit
def standing_key(lane: Lane, i: int, now: int) -> int:
    """The eviction key of request i, admitted now, if keys do not move."""
    if lane.rule == LATEST:
        return -now
    if lane.rule != FAMILY:
        return int64(lane.key[uint64(i)])
    request, params = lane.requests[uint64(i)], lane.params
    key = params[EVICT_ESTIMATE] * request.estimate + params[EVICT_PROMPT] * request.prompt
    return _key(key)


@jit
def running_key(params: tuple[int, int, int, int], estimate: int, tokens: int, prompt: int) -> int:
    """The family's eviction key of a request that runs."""
    by_estimate, by_progress, by_prompt, growth = params
    running = max(int64(estimate), (growth * tokens) >> 10)
    return _key(by_estimate * running + by_progress * tokens + by_prompt * prompt)


@jit
def narrow_key(params: tuple[int, int, int, int], estimate: int, tokens: int, prompt: int) -> int:
    """The same in 32 bits, where `keys_are_narrow`."""
    by_estimate, by_progress, by_prompt, growth = params
    running = max(int32(estimate), int32(int32(growth * tokens) >> 10))
    key = int32(by_estimate * running) + int32(by_progress * tokens) + int32(by_prompt * prompt)
    return int32(int32(key) >> 6)


@jit
def keys_are_narrow(lane: Lane, largest: int) -> bool:
    """Whether 32 bits hold all that `narrow_key` computes; `largest` is the largest estimate."""
    params = lane.params
    grown = params[RUN_GROWTH] * lane.longest
    key = abs(params[EVICT_ESTIMATE]) * max(largest, grown >> 10)
    key += abs(params[EVICT_PROGRESS]) * lane.longest + abs(params[EVICT_PROMPT]) * lane.widest
    return max(key, grown) < 2**31
