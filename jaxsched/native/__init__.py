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

from jaxsched.instance import MAX_ROUND
from jaxsched.native.lanes import Batch, run_lanes, scratch
from jaxsched.native.layout import (
    LATEST,
    NEVER,
    SMALLEST,
    SMALLEST_RUNNING,
    STATE,
)

# A kind is which field the estimate starts from (None: the reserve is always 1), and which active
# request an overflow evicts. Admission goes by (estimate, index), for LATEST by (arrival, index).
KINDS: dict[str, tuple[str | None, int]] = {
    "h_sf": ("output", SMALLEST),
    "a_max": ("upper", SMALLEST),
    "mc_sf": ("point", SMALLEST),
    "a_min:on_eviction": ("lower", SMALLEST),
    "a_min:every_round": ("lower", SMALLEST_RUNNING),
    "fcfs": (None, LATEST),
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
    """Sum of completion - arrival over the finished requests."""
    evictions: NDArray[np.int64]
    wasted_tokens: NDArray[np.int64]
    """Tokens lost to evictions."""
    memory_time: NDArray[np.int64]
    """Sum of the memory in use over all rounds, in token-rounds."""
    peak_memory: NDArray[np.int64]
    rounds: NDArray[np.int64]
    """The largest completion; 0 if nothing completed."""
    status: NDArray[np.int64]
    """0 finished, 1 stopped by the round limit, 2 invalid and not simulated."""


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
) -> Outcome:
    """Simulates every lane.

    Args:
        kind: a key of `KINDS`.
        prompt, output, lower, upper, point: lengths in tokens, of shape [lanes, n]; of the last
            three only the one that the kind reads is needed.
        memory: tokens of KV cache, at most 2**28; a scalar or of shape [lanes].
        arrival: rounds, of shape [lanes, n]; or a scalar.
        num_requests: real requests of each lane, of shape [lanes]; the rest is padding.
        max_rounds: rounds from this one on are not run, at most 2**30 - 1; a scalar or [lanes].
        max_batch: cap on the requests that run together; 0 for none.
        threads: lanes are shared among so many threads; all that the process may use by default.

    Returns:
        An `Outcome`. A lane with a value that the model refuses (a length below 1, a request that
        needs more than the memory, a memory above 2**28) has status 2 and is not simulated.

    Raises:
        TypeError: for a field that does not hold integers.
        ValueError: for an unknown kind, a missing field, a wrong shape and a limit out of range.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {list(KINDS)}")
    if max_batch < 0:
        raise ValueError(f"max_batch is {max_batch}; expected at least 0")
    source, rule = KINDS[kind]
    shape = np.shape(prompt)
    if len(shape) != 2 or shape[1] == 0:
        raise ValueError(f"prompt: got shape {list(shape)}; expected [lanes, n] with n at least 1")
    fields = {"output": output, "lower": lower, "upper": upper, "point": point}
    count = shape[1] if num_requests is None else num_requests
    batch = Batch(
        prompt=_table("prompt", prompt, shape),
        output=_table("output", output, shape),
        arrival=_table("arrival", arrival, shape),
        estimate=_table(source, fields[source], shape) if source else _table("", 1, shape),
        num_requests=_table("num_requests", count, shape[:1]),
        memory=_table("memory", memory, shape[:1]),
        max_rounds=_table("max_rounds", max_rounds, shape[:1], 0, MAX_ROUND),
        completion=np.empty(shape, np.int32),
        first_admission=np.empty(shape, np.int32),
        preemptions=np.empty(shape, np.int32),
        totals=np.zeros(shape[:1], STATE),
    )
    _run_all(batch, rule, max_batch or NEVER, threads or _cores())
    totals = {name: batch.totals[name].copy() for name in Outcome._fields[3:]}
    return Outcome(batch.completion, batch.first_admission, batch.preemptions, **totals)


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


def _table(
    name: str,
    value: ArrayLike | None,
    shape: tuple[int, ...],
    low: int = -NEVER,
    high: int = NEVER,
) -> NDArray[np.int32]:
    """The value as int32 of this shape, refused if it is not within low and high."""
    if value is None:
        raise ValueError(f"{name}: missing; expected integers of shape {list(shape)}")
    array = np.asarray(value)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name}: got dtype {array.dtype}; expected integers")
    if array.shape not in (shape, ()):
        raise ValueError(f"{name}: got shape {list(array.shape)}; expected {list(shape)}")
    for extreme in (array.min(initial=high), array.max(initial=low)):
        if not low <= extreme <= high:
            raise ValueError(f"{name} is {extreme}; expected {low} to {high}")
    table = np.ascontiguousarray(np.broadcast_to(array, shape), np.int32).view()
    table.flags.writeable = False  # or numba would compile once more for inputs that are
    return table
