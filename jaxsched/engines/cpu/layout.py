"""What a lane is made of in memory, and how its functions are compiled.

A lane owns a handful of flat arrays, allocated once per call and reused from lane to lane, so the
event loop never allocates. What belongs to one request sits together (one cache line for two
requests); what is scanned with vector instructions sits in plain int32 arrays that are padded to
whole blocks with values that do not count.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

Record = np.void
"""One row of an array of `REQUEST` or `STATE`."""

Ints = NDArray[np.int32]

NEVER = 2**31 - 1
"""A round that is never reached, and padding that never is a minimum."""

BLOCK = 16
"""Scans run over whole blocks of this many int32, a multiple of the vector width."""

RING = 1 << 16
"""Largest ring of rounds; later ends share a bucket with earlier ones."""

LAST_TICK = 2**62
"""No round starts at this tick (picosecond) of a clock or later."""

FINISHED, ROUND_LIMIT, INVALID = 0, 1, 2

REQUEST = np.dtype(
    [
        ("prompt", np.int32),
        ("output", np.int32),
        ("estimate", np.int32),
        ("reserve", np.int32),  # at most memory - prompt
        ("start", np.int32),  # round of admission if active, else -1
        ("slot", np.int32),  # place in `CpuSlots` if active
        ("after", np.int32),  # neighbors in the ring's bucket; n stands for none
        ("before", np.int32),
    ]
)

ESTIMATE_OFFSET, RESERVE_OFFSET = (REQUEST.fields[name][1] for name in ("estimate", "reserve"))

# What the functions of a policy find in the context of a lane: the memory, and addresses.
CONTEXT = 21
(
    MEMORY, PARAMS, PROMPT, OUTPUT, LOWER, UPPER, POINT, ARRIVAL, RANK, EVICTIONS, REQUESTS, KEY,
    STANDING, HEADROOM, QUANTUM, SLOT_KEY, SLOT_REQUEST, SLOT_ESTIMATE, SLOT_START, SLOT_PROMPT,
    SLOT_ADMITTED,
) = range(CONTEXT)  # fmt: skip

OF_FIELD = {
    "prompt": PROMPT,
    "output": OUTPUT,
    "lower": LOWER,
    "upper": UPPER,
    "point": POINT,
    "arrival": ARRIVAL,
    "rank": RANK,
    "evictions": EVICTIONS,
}
"""Field of a request -> where its array is found."""

STATE = np.dtype(
    [
        (name, np.int64)
        for name in (
            "now",  # the round
            "time",  # its start: in ticks under a clock, else the round itself
            "active",  # number of active requests
            "level",  # sum of prompt - start over them: they use level + active * t at the end of
            # round t - 1, and would use level + active * (t + 1) in round t
            "next_end",  # first round in which an active request completes
            "low",  # the ends still ahead are `Ends` [low, high)
            "high",
            "head",  # the backlog waits in order [head, backlog)
            "backlog",
            "heaped",  # size of the heap of all others that wait
            "arrived",
            "finished",
            "spent",  # active requests that have generated their quantum
            "prompts",  # sum of the prompts admitted in this round
            "fresh",  # requests whose first run begins in this round
            "evicts",  # whether an eviction is possible
            "largest",  # no estimate so far was larger
            "used",  # blocks held, on a worker with blocks, like the next three
            "middle",  # the request in the middle of its prompt, -1 for none
            "computed",  # its tokens computed
            "unmet",  # whether somebody was preempted for want of blocks in this round
            "total_latency",  # the result, from here on
            "evictions",
            "wasted_tokens",
            "memory_time",
            "peak_memory",
            "rounds",
            "status",
        )
    ]
)


class Compiled(NamedTuple):
    """The compiled functions of a policy, by address, and what the loop has to know of it."""

    start: int  # see the head of `kernels`, like the next three
    refine: int
    keys: int
    narrow: int  # 0 if there is no second form
    moving: bool  # whether eviction keys change while a request runs
    entering: bool  # whether they are known when it enters, but not before
    latest: bool  # whether they are the round in which it enters
    largest: bool  # whether the largest key is evicted first; they come inverted
    headroom: bool
    quanta: bool
    reads_arrival: bool


class Ends(NamedTuple):
    """The expected ends of active requests that lie ahead, each round once, ascending.

    With c = prompt - start of a request, the active ones are expected to use `height - end` tokens
    in the round before `end`, where height = end + sum of (c + end) over those that last as long.
    """

    end: Ints
    height: Ints
    lasting: Ints  # how many requests last to this end or longer


class CpuSlots(NamedTuple):
    """The active requests, densely and in no order; kept only if an eviction is possible."""

    key: Ints  # what evictions go by; of no meaning between them if the lane's keys move
    request: Ints
    estimate: Ints  # like the next two, kept only if keys move, or are known at an admission
    start: Ints  # tokens generated are the round less this
    prompt: Ints
    admitted: Ints  # round of admission; on the papers' worker `start` itself


class Ring(NamedTuple):
    """Active requests by the round of their completion: linked buckets and a bit for each."""

    bucket: Ints
    bits: NDArray[np.uint64]


class CpuLane(NamedTuple):
    """All that the functions of a lane read and write, apart from its state."""

    memory: int
    max_rounds: int
    max_batch: int
    policy: Compiled
    narrow_until: int  # up to this estimate eviction keys may be computed in 32 bits
    clocked: bool  # whether rounds have lengths
    mask: int  # size of the ring - 1
    context: int  # address of what the policy's functions work on
    requests: NDArray  # REQUEST [n + 1]; the last one is no request but the end of linked lists
    arrival: NDArray[np.int64]
    key: Ints  # what admissions go by
    standing: Ints  # what evictions go by, if that is known before an admission
    headroom: Ints  # memory that must stay free at an admission, unless nobody is active
    quantum: Ints  # tokens after which a request gives its place up
    turn: Ints  # what the policy sees of arrivals
    order: Ints  # the backlog in order of admission
    coming: Ints  # requests by arrival
    fresh: Ints  # requests whose first run begins in this round
    heap: NDArray[np.int64]
    ends: Ends
    slots: CpuSlots
    ring: Ring
    clock: NDArray[np.int64]
    completion: Ints
    first_admission: Ints
    preemptions: Ints
    times: NDArray[np.int64]  # [n, 3]; of no requests without a clock
    history: Ints  # [evictions that are kept, 3], with blocks [those + width, 4]
    width: int  # requests of a row, with padding


# No reference counts: nothing is allocated in compiled code, and counting at every call of a small
# function took a third of the time. Inlined, or the many arrays of a lane are passed one by one.
OPTIONS = {"nogil": True, "error_model": "numpy", "_nrt": False}
jit = njit(**OPTIONS, forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)


@intrinsic
def trailing_zeros(typingctx, bits):
    """Number of zeros below the lowest one of a uint64 that is not 0."""

    def code(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), code


@intrinsic
def call(typingctx, address, context, a, b, c):
    """Calls a function of a policy at its address."""

    def code(context, builder, signature, args):
        kind = ir.FunctionType(ir.IntType(64), [ir.IntType(64)] * 4)
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])

    return types.int64(*[types.int64] * 5), code


@intrinsic
def address(typingctx, array):
    """Where an array begins."""

    def code(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.ptrtoint(data, ir.IntType(64))

    return types.int64(array), code


@jit
def whole_blocks(count: int) -> int:
    return (count + (BLOCK - 1)) & ~(BLOCK - 1)
