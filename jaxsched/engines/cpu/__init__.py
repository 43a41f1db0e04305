"""The same simulation on the CPU, one instance at a time: an event loop compiled by numba.

Exact, request by request. The cost of a lane goes with its events (admissions, completions,
evictions), not with rounds or tokens. The loop is compiled once for all policies; their functions
are compiled by LLVM and called by address (see `kernels`).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from numpy.typing import NDArray

try:
    import numba  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"the native engine needs numba, which cannot be imported ({error}); pip install numba"
    ) from error

from jaxsched.arrays import unpaired
from jaxsched.engines.cpu.batch import CpuBatch, scratch
from jaxsched.engines.cpu.kernels import compile_policy, narrow_until
from jaxsched.engines.cpu.lanes import run_block_lanes, run_lanes
from jaxsched.engines.cpu.layout import NEVER, STATE, Compiled
from jaxsched.engines.xla.inputs import Numbers, RunLimits
from jaxsched.instance import Instance
from jaxsched.machine.cores import cores
from jaxsched.policies.program import Choices
from jaxsched.policies.simplify import simplified
from jaxsched.result import Result

__all__ = ["compile_policy", "simulate_lanes"]


def simulate_lanes(
    instance: Instance,
    rank: NDArray[np.int32] | None,
    numbers: Numbers,
    limits: RunLimits,
    choices: Choices,
    history: int = 0,
) -> Result:
    """Simulates canonical instances of lane shape [N]; values are not checked.

    Args:
      instance: Instances in canonical form, on the host; a lane whose `num_requests` is below 0 is
        passed over. Under a clock arrivals are in picoseconds.
      rank: Places by the policy's order of a whole backlog, [N, n]; `None` if it has none.
      numbers: Those of the policy and the clock, [N, ...]; 64-bit integers may be in pairs.
      limits: Round limit and cap on running requests.
      choices: The scheduler.
      history: So many evictions of a lane are noted, the first ones.
    """
    given = {"rank": rank, **vars(instance)}
    prompt, memory = _fixed(instance.prompt, np.int32), _fixed(instance.memory, np.int32)
    lanes, n = prompt.shape
    arrays = {
        name: prompt if given[name] is None else _fixed(given[name], np.int32)
        for name in ("output", "lower", "upper", "point", "rank")
    }
    leaves = [np.asarray(leaf).reshape(lanes, -1) for leaf in jax.tree.leaves(numbers.params)]
    params = _fixed(np.concatenate([np.empty((lanes, 0), np.int64), *leaves], axis=1), np.int64)
    choices, clocked = simplified(choices, params), numbers.clock is not None
    policy = compile_policy(choices)
    arrival = np.zeros((lanes, n)) if instance.arrival is None else np.asarray(instance.arrival)
    longest, narrow = int(arrays["output"].max(initial=1)), np.zeros(lanes)
    if policy.narrow:
        key, widest = choices.program("eviction_key"), int(prompt.max(initial=1))
        assert key is not None
        narrow = narrow_until(key, params, memory, longest, widest)
    ticks = unpaired(np.asarray(numbers.clock)) if clocked else np.empty((lanes, 0))
    worker = np.empty((lanes, 0)) if numbers.worker is None else np.asarray(numbers.worker)
    runs = (history, 3) if numbers.worker is None else (history + n if history else 0, 4)
    batch = CpuBatch(
        prompt=prompt,
        **arrays,
        arrival=_fixed(unpaired(arrival) if clocked else arrival, np.int64),
        num_requests=_fixed(instance.num_requests, np.int32),
        memory=memory,
        narrow_until=_fixed(narrow, np.int64),
        max_rounds=int(limits.max_rounds),
        max_batch=min(int(limits.max_batch), NEVER),
        params=params,
        clock=_fixed(ticks, np.int64),
        worker=_fixed(worker, np.int32),
        completion=np.empty((lanes, n), np.int32),
        first_admission=np.empty((lanes, n), np.int32),
        preemptions=np.empty((lanes, n), np.int32),
        times=np.full((lanes, n if clocked else 0, 3), -1, np.int64),
        history=np.full((lanes, *runs), -1, np.int32),
        totals=np.zeros(lanes, STATE),
    )
    _run_all(batch, policy, min(longest, 2**28), cores())
    totals, first = batch.totals, batch.first_admission
    return Result(
        completion=batch.completion,
        first_token=np.where(first < 0, -1, first + 1).astype(np.int32),
        preemptions=batch.preemptions,
        totals=np.stack(
            [totals[name] for name in ("total_latency", "wasted_tokens", "memory_time")], axis=-1
        ),
        num_requests=np.asarray(instance.num_requests, np.int32),
        times=batch.times if clocked else None,
        history=batch.history if history else None,
        **{
            name: totals[name].astype(np.int32)
            for name in ("evictions", "peak_memory", "rounds", "status")
        },
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
    blocks = batch.worker.shape[1] > 0
    run = run_block_lanes if blocks else run_lanes

    def work() -> None:
        memory = scratch(n, longest, int(batch.worker[:, 0].max(initial=1)) if blocks else 0)
        for first in starts:
            run(batch, first, min(first + step, lanes), policy, memory)

    if threads == 1:
        work()
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work) for _ in range(threads)]:
            done.result()
