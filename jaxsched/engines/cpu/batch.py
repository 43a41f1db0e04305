"""What a call of the compiled program works on: lanes, results, and memory to work in."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jaxsched.engines.cpu.layout import BLOCK, CONTEXT, REQUEST, RING, Ints
from jaxsched.engines.cpu.queues import DIGIT


class CpuBatch(NamedTuple):
    """Lanes to simulate, and where their results go."""

    prompt: Ints  # [lanes, n], like the next seven; what is not read may be any of them
    output: Ints
    lower: Ints
    upper: Ints
    point: Ints
    rank: Ints
    arrival: NDArray[np.int64]
    num_requests: Ints  # [lanes], like the next two; -1 marks a lane that is not to be simulated
    memory: Ints
    narrow_until: NDArray[np.int64]
    max_rounds: int
    max_batch: int
    params: NDArray[np.int64]  # [lanes, k]
    clock: NDArray[np.int64]  # [lanes, 6]; [lanes, 0] if rounds have no lengths
    worker: Ints  # block, max_num_seqs, budget, watermark, [lanes, 4]; [lanes, 0] on the papers'
    completion: Ints  # [lanes, n], like the next two
    first_admission: Ints
    preemptions: Ints
    times: NDArray[np.int64]  # [lanes, n, 3], all -1; [lanes, 0, 3] without a clock
    history: Ints  # [lanes, evictions that are kept, 3], with blocks [lanes, those + n, 4]; all -1
    totals: NDArray  # STATE [lanes]


class Scratch(NamedTuple):
    """Memory that one thread uses for lane after lane."""

    requests: NDArray
    context: NDArray[np.int64]
    of_requests: Ints  # [5, n]: key, standing, headroom, quantum, arrival
    order: Ints
    coming: Ints
    spare: Ints
    counts: Ints
    heap: NDArray[np.int64]
    ends: Ints  # [3, places]
    slots: Ints  # [5, places]
    bucket: Ints
    bits: NDArray[np.uint64]
    of_blocks: Ints  # [3, n]: generated, due, full, like the next two only for a worker with blocks
    of_slots: Ints  # [2, places]: admitted, until
    crossing: Ints


def scratch(n: int, longest: int, block: int = 0) -> Scratch:
    """Memory for lanes of up to n requests with outputs of up to `longest` tokens.

    `block` is the size of the largest block, 0 on the papers' worker.
    """
    ring = min(RING, max(64, 1 << int(longest).bit_length()))
    return Scratch(
        requests=np.zeros(n + 1, REQUEST),
        context=np.zeros(CONTEXT, np.int64),
        of_requests=np.zeros((5, n), np.int32),
        order=np.zeros(n, np.int32),
        coming=np.zeros(n, np.int32),
        spare=np.zeros(n, np.int32),
        counts=np.zeros(1 << DIGIT, np.int32),
        heap=np.zeros(n + 2, np.int64),
        ends=np.zeros((3, 2 * n + 512 + BLOCK), np.int32),
        slots=np.zeros((5, n + BLOCK), np.int32),
        bucket=np.zeros(ring, np.int32),
        bits=np.zeros(ring // 64, np.uint64),
        of_blocks=np.zeros((3, n if block else 0), np.int32),
        of_slots=np.zeros((2, n + BLOCK if block else 0), np.int32),
        crossing=np.zeros(block, np.int32),
    )
