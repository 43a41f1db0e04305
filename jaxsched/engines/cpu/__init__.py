"""The same simulation on the CPU, one instance at a time: an event loop compiled by numba.

Exact, request by request. The cost of a lane goes with its events (admissions, completions,
evictions), not with rounds or tokens. The loop is compiled once for all policies; their functions
are compiled by LLVM and called by address (see `kernels`).
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

try:
    import numba  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"the native engine needs numba, which cannot be imported ({error}); pip install numba"
    ) from error

from jaxsched.engines.cpu.batch import CpuBatch, scratch
from jaxsched.engines.cpu.kernels import compile_policy, narrow_until
from jaxsched.engines.cpu.lanes import run_lanes
from jaxsched.engines.cpu.layout import NEVER, STATE, Compiled
from jaxsched.policies.program import Choices

__all__ = ["Found", "compile_policy", "run"]


class Found(NamedTuple):
    """What `run` found: int32 arrays of shape [lanes, n], and totals of shape [lanes]."""

    completion: NDArray[np.int32]
    """Round in which a request left; -1 where it did not finish, and for padding."""
    first_admission: NDArray[np.int32]
    """Round of the first admission; -1 for none."""
    preemptions: NDArray[np.int32]
    """Evictions of a request."""
    totals: NDArray[np.void]
    """Of dtype `STATE`: total_latency (0 under a clock), evictions, wasted_tokens, memory_time,
    peak_memory, rounds, and status (0 finished, 1 stopped by the round limit or the clock's end, 2
    not simulated)."""
    times: NDArray[np.int64]
    """Under a clock, of shape [lanes, n, 3], in picoseconds: start of the round of the first
    admission, end of that round, end of the round of the last token; -1 where there is none."""
    history: NDArray[np.int32]
    """Of shape [lanes, E, 3]: request, round of admission and round of eviction of every evicted
    run, in order of eviction; -1 after the last. Those beyond the E-th are left out."""


def run(
    policy: Compiled,
    choices: Choices,
    fields: dict[str, NDArray[np.int32]],
    *,
    arrival: NDArray[np.int64] | None,
    num_requests: NDArray[np.int32],
    memory: NDArray[np.int32],
    params: NDArray[np.int64],
    clock: NDArray[np.int64] | None,
    max_rounds: int,
    max_batch: int,
    history: int,
) -> Found:
    """Simulates every lane; values are not checked.

    Args:
      policy: A compiled one.
      choices: What it was compiled from.
      fields: prompt, output, lower, upper, and, if they are read, point and rank; [lanes, n].
      arrival: Rounds, under a clock picoseconds, of shape [lanes, n]; `None` for a backlog.
      num_requests: Real requests of each lane, the rest is padding; -1 for a lane to pass over.
      memory: Tokens of KV cache, [lanes].
      params: Numbers of the policy, [lanes, k].
      clock: `jaxsched.clocks.Ticks` of each lane, [lanes, 6]; `None` for rounds.
      max_rounds: Rounds from this one on are not run.
      max_batch: Cap on the requests that run together.
      history: So many evictions of a lane are noted, the first ones.
    """
    prompt, memory = _fixed(fields["prompt"], np.int32), _fixed(memory, np.int32)
    lanes, n = prompt.shape
    arrays = {
        name: _fixed(fields.get(name, prompt), np.int32)
        for name in ("output", "lower", "upper", "point", "rank")
    }
    params = _fixed(params, np.int64)
    longest, widest = int(arrays["output"].max(initial=1)), int(prompt.max(initial=1))
    narrow = np.zeros(lanes, np.int64)
    if policy.narrow:
        key = choices.program("eviction_key")
        assert key is not None
        narrow = narrow_until(key, params, memory, longest, widest)
    ticks = np.empty((lanes, 0), np.int64) if clock is None else clock
    batch = CpuBatch(
        prompt=prompt,
        **arrays,
        arrival=_fixed(np.zeros((lanes, n)) if arrival is None else arrival, np.int64),
        num_requests=_fixed(num_requests, np.int32),
        memory=memory,
        narrow_until=_fixed(narrow, np.int64),
        max_rounds=max_rounds,
        max_batch=min(max_batch, NEVER),
        params=params,
        clock=_fixed(ticks, np.int64),
        completion=np.empty((lanes, n), np.int32),
        first_admission=np.empty((lanes, n), np.int32),
        preemptions=np.empty((lanes, n), np.int32),
        times=np.full((lanes, 0 if clock is None else n, 3), -1, np.int64),
        history=np.full((lanes, history, 3), -1, np.int32),
        totals=np.zeros(lanes, STATE),
    )
    _run_all(batch, policy, min(longest, 2**28), _cores())
    return Found(
        batch.completion,
        batch.first_admission,
        batch.preemptions,
        batch.totals,
        batch.times,
        batch.history,
    )


def _fixed(array: NDArray, dtype: type) -> NDArray:
    """Marked as not to be written to, or numba would compile once more for arrays that are."""
    view = np.ascontiguousarray(array, dtype).view()
    view.flags.writeable = False
    return view


def _run_all(batch: CpuBatch, policy: Compiled, longest: int, threads: int) -> None:
    """Shares the lanes among threads, a few at a time, as their costs differ.

    Plain threads and not numba's own: its default threading layer breaks when two Python threads
    enter it, as callbacks from JAX may.
    """
    lanes, n = batch.prompt.shape
    threads = max(1, min(threads, lanes))
    step = lanes if threads == 1 else -(-lanes // (8 * threads))
    starts = iter(range(0, lanes, step))

    def work() -> None:
        memory = scratch(n, longest)
        for first in starts:
            run_lanes(batch, first, min(first + step, lanes), policy, memory)

    if threads == 1:
        work()
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work) for _ in range(threads)]:
            done.result()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
