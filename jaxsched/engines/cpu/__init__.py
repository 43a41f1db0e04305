"""The same simulation on the CPU, one instance at a time: an event loop compiled by numba.

Exact, request by request. The cost of a lane goes with its events (admissions, completions,
evictions), not with rounds or tokens. Needs numba (the extra `native`).
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

try:
    import numba  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"the native engine needs numba, which cannot be imported ({error}); pip install numba"
    ) from error

from jaxsched.engines.cpu.arguments import pack
from jaxsched.engines.cpu.batch import Batch, scratch
from jaxsched.engines.cpu.lanes import run_lanes
from jaxsched.engines.cpu.layout import (
    FAMILY,
    LATEST,
    NETWORK,
    NEVER,
    SMALLEST,
    SMALLEST_RUNNING,
    VOLUME,
)
from jaxsched.instance import MAX_ROUND

# A kind is which field the estimate starts from (None: the reserve is always 1), and how requests
# are ordered: by estimate (an eviction by the running one, too), by arrival, by volume, or by
# the numbers of the family or of the network.
KINDS: dict[str, tuple[str | None, int]] = {
    "h_sf": ("output", SMALLEST),
    "a_max": ("upper", SMALLEST),
    "mc_sf": ("point", SMALLEST),
    "a_min:on_eviction": ("lower", SMALLEST),
    "a_min:every_round": ("lower", SMALLEST_RUNNING),
    "fcfs": (None, LATEST),
    "svf:output": ("output", VOLUME),
    "svf:point": ("point", VOLUME),
    "svf:lower": ("lower", VOLUME),
    "svf:upper": ("upper", VOLUME),
    "a_min_family": ("lower", FAMILY),
    "a_min_network": ("lower", NETWORK),
}


class Outcome(NamedTuple):
    """What `run` found: int32 arrays of shape [lanes, n], and totals of shape [lanes]."""

    completion: NDArray[np.int32]
    """Round in which a request left; -1 where it did not finish, and for padding."""
    first_admission: NDArray[np.int32]
    """Round of the first admission; -1 for none."""
    preemptions: NDArray[np.int32]
    """Evictions of a request."""
    total_latency: NDArray[np.int64]
    """Sum of completion - arrival over the finished requests, in rounds; 0 under a clock."""
    evictions: NDArray[np.int64]
    wasted_tokens: NDArray[np.int64]
    """Tokens lost to evictions."""
    memory_time: NDArray[np.int64]
    """Sum of the memory in use over all rounds, in token-rounds."""
    peak_memory: NDArray[np.int64]
    rounds: NDArray[np.int64]
    """The largest completion; 0 if nothing completed."""
    status: NDArray[np.int64]
    """0 finished, 1 stopped by the round limit or the clock's end, 2 invalid and not simulated."""
    times: NDArray[np.int64] | None = None
    """Under a clock, of shape [lanes, n, 3], in picoseconds: start of the round of the first
    admission, end of that round, end of the round of the last token; -1 where there is none."""
    history: NDArray[np.int32] | None = None
    """If asked for, of shape [lanes, E, 3]: request, round of admission and round of eviction of
    every evicted run, in order of eviction; -1 after the last. Those beyond the E-th are left out.
    """


def run(
    kind: str,
    *,
    prompt: ArrayLike,
    output: ArrayLike,
    memory: ArrayLike,
    lower: ArrayLike | None = None,
    upper: ArrayLike | None = None,
    point: ArrayLike | None = None,
    arrival: ArrayLike = 0,
    num_requests: ArrayLike | None = None,
    max_rounds: ArrayLike = MAX_ROUND,
    max_batch: int = 0,
    threads: int | None = None,
    params: ArrayLike | None = None,
    headroom: ArrayLike | None = None,
    clock: ArrayLike | None = None,
    history: int = 0,
) -> Outcome:
    """Simulates every lane.

    Args:
        kind: a key of `KINDS`.
        prompt, output, lower, upper, point: lengths in tokens, of shape [lanes, n]; of the last
            three only the one that the kind reads is needed.
        memory: tokens of KV cache, at most 2**28; a scalar or of shape [lanes].
        arrival: rounds, under a clock picoseconds, of shape [lanes, n]; or a scalar.
        num_requests: real requests of each lane, of shape [lanes]; the rest is padding.
        max_rounds: rounds from this one on are not run, at most 2**30 - 1; a scalar or [lanes].
        max_batch: cap on the requests that run together; 0 for none.
        threads: lanes are shared among so many threads; all that the process may use by default.
        params: the ten numbers of "a_min_family" in units of 1/1024 (the floor in tokens), in the
            order of `rules`, of shape [lanes, 10]; `upper` is needed if a start is above 0. The
            weights of "a_min_network", in units of 1/1024, of shape [lanes, 360].
        headroom: tokens that must stay free when a request enters beside others; a scalar or of
            shape [lanes].
        clock: how long rounds last, of shape [lanes, 6]: picoseconds of every round, per prompt
            token admitted in it, per active request, per token of cache in use, and per prompt
            token or active request beyond the free ones; and how many are free.
        history: so many evictions of a lane are noted, the first ones.

    Returns:
        An `Outcome`. A lane with a value that the model refuses (a length below 1, a request that
        needs more than the memory, a memory above 2**28, numbers out of range, a clock that stands
        still or whose rounds could last 2**61 picoseconds) has status 2 and is not simulated.

    Raises:
        TypeError: for a field that does not hold integers.
        ValueError: for an unknown kind, a missing field, a wrong shape and a limit out of range.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {list(KINDS)}")
    for name, value in (("max_batch", max_batch), ("history", history)):
        if value < 0:
            raise ValueError(f"{name} is {value}; expected at least 0")
    source, rule = KINDS[kind]
    batch = pack(
        fields=dict(
            prompt=prompt, output=output, lower=lower, upper=upper, point=point, arrival=arrival
        ),
        limits=dict(
            num_requests=num_requests,
            memory=memory,
            headroom=headroom,
            max_rounds=max_rounds,
        ),
        source=source,
        rule=rule,
        params=params,
        clock=clock,
        history=history,
    )
    _run_all(batch, rule, max_batch or NEVER, threads or _cores())
    return Outcome(
        batch.completion,
        batch.first_admission,
        batch.preemptions,
        **{name: batch.totals[name].copy() for name in Outcome._fields[3:-2]},
        times=None if clock is None else batch.times,
        history=batch.history if history else None,
    )


def _run_all(batch: Batch, rule: int, max_batch: int, threads: int) -> None:
    """Shares the lanes among threads, a few at a time, as their costs differ.

    Plain threads and not numba's own: its default threading layer breaks when two Python threads
    enter it, as callbacks from JAX may.
    """
    lanes, n = batch.prompt.shape
    threads = max(1, min(threads, lanes))
    step = lanes if threads == 1 else -(-lanes // (8 * threads))
    starts = iter(range(0, lanes, step))

    def work() -> None:
        memory = scratch(n, int(batch.output.max(initial=1)))
        for first in starts:
            run_lanes(batch, first, min(first + step, lanes), rule, max_batch, memory)

    if threads == 1:
        return work()
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work) for _ in range(threads)]:
            done.result()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
