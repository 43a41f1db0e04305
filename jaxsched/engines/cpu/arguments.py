"""What the caller passed, checked and brought to the arrays that the compiled program takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxsched.engines.cpu.batch import Batch
from jaxsched.engines.cpu.clock import COLUMNS, FIXED, FREE_TOKENS, PER_CACHE_TOKEN, PER_REQUEST
from jaxsched.engines.cpu.layout import FAMILY, NETWORK, NEVER, STATE
from jaxsched.engines.cpu.network import WEIGHTS, WIDEST
from jaxsched.engines.cpu.rules import LEAST, MOST, START
from jaxsched.instance import MAX_ROUND

_LONGEST_ROUND = 1.01 * 2.0**61
"""Ticks that a round of a full worker must stay below, a little above what callers may ask for."""


def pack(
    fields: dict[str, ArrayLike | None],
    limits: dict[str, ArrayLike | None],
    source: str | None,
    rule: int,
    params: ArrayLike,
    clock: ArrayLike | None,
    history: int,
) -> Batch:
    """The lanes to simulate, and room for what is found.

    Args:
        fields: `prompt`, `output`, `lower`, `upper`, `point`, `arrival`.
        limits: `memory`, `max_rounds`, and, None if there is none, `num_requests`, `headroom`.
        source: the field that the estimate starts from; None if there is no estimate.
        rule: how requests are ordered; see `layout`.
        params, clock, history: as in `run`.
    """
    shape = _shape(fields["prompt"])
    lanes, n = shape
    least, most = (LEAST, MOST) if rule != NETWORK else ((-WIDEST,) * WEIGHTS, (WIDEST,) * WEIGHTS)
    params = params if rule in (FAMILY, NETWORK) else 0
    numbers = _table("params", params, (lanes, len(least)), dtype=np.int64)
    upper = rule == FAMILY and numbers[:, START].any()
    ticks = np.empty((lanes, 0), np.int64) if clock is None else clock
    ticks = _table("clock", ticks, (lanes, 0 if clock is None else COLUMNS), dtype=np.int64)
    lower = _table(source, fields[source], shape) if source else _table("", 1, shape)
    memory = _table("memory", limits["memory"], (lanes,))
    count = _table("num_requests", _or(n, limits["num_requests"]), (lanes,))
    known = ((numbers >= np.array(least)) & (numbers <= np.array(most))).all(axis=1)
    count = np.where(known & _advances(ticks, memory), count, -1)
    return Batch(
        prompt=_table("prompt", fields["prompt"], shape),
        output=_table("output", fields["output"], shape),
        lower=lower,
        upper=_table("upper", fields["upper"], shape) if upper else lower,
        arrival=_arrivals(fields["arrival"], shape, clock is not None),
        num_requests=_table("num_requests", count, (lanes,)),
        memory=memory,
        headroom=_table("headroom", _or(0, limits["headroom"]), (lanes,), 0),
        max_rounds=_table("max_rounds", limits["max_rounds"], (lanes,), 0, MAX_ROUND),
        params=numbers,
        clock=ticks,
        completion=np.empty(shape, np.int32),
        first_admission=np.empty(shape, np.int32),
        preemptions=np.empty(shape, np.int32),
        times=np.full((lanes, 0 if clock is None else n, 3), -1, np.int64),
        history=np.full((lanes, history, 3), -1, np.int32),
        totals=np.zeros(lanes, STATE),
    )


def _or(default: int, value: ArrayLike | None) -> ArrayLike:
    return default if value is None else value


def _shape(prompt: ArrayLike | None) -> tuple[int, int]:
    shape = np.shape(prompt)
    if len(shape) != 2 or shape[1] == 0:
        raise ValueError(f"prompt: got shape {list(shape)}; expected [lanes, n] with n at least 1")
    return shape


def _arrivals(value: ArrayLike | None, shape: tuple[int, int], ticks: bool) -> NDArray[np.int64]:
    """Rounds within 32 bits, or ticks."""
    low, high = (-(2**63), 2**63 - 1) if ticks else (-NEVER, NEVER)
    return _table("arrival", value, shape, low, high, np.int64)


def _advances(clock: NDArray, memory: NDArray) -> NDArray[np.bool_]:
    """Which lanes have a clock that neither stands still nor runs out of 64 bits, or none."""
    if clock.shape[1] == 0:
        return np.ones(clock.shape[0], bool)
    ticks = clock.astype(float)
    per_token = ticks[:, FIXED + 1 : FREE_TOKENS].sum(axis=1)
    advances = ticks[:, [FIXED, PER_REQUEST, PER_CACHE_TOKEN]].sum(axis=1) >= 1
    short = ticks[:, FIXED] + per_token * memory < _LONGEST_ROUND
    return (ticks >= 0).all(axis=1) & advances & short


def _table(
    name: str,
    value: ArrayLike | None,
    shape: tuple[int, ...],
    low: int | None = None,
    high: int | None = None,
    dtype: type = np.int32,
) -> NDArray:
    """The value as integers of this shape, refused if it is not within low and high."""
    if value is None:
        raise ValueError(f"{name}: missing; expected integers of shape {list(shape)}")
    array = np.asarray(value)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name}: got dtype {array.dtype}; expected integers")
    if array.shape not in (shape, ()):
        raise ValueError(f"{name}: got shape {list(array.shape)}; expected {list(shape)}")
    largest = int(np.iinfo(dtype).max)
    low, high = -largest if low is None else low, largest if high is None else high
    for extreme in (int(array.min()), int(array.max())) if array.size else ():
        if not low <= extreme <= high:
            raise ValueError(f"{name} is {extreme}; expected {low} to {high}")
    table = np.ascontiguousarray(np.broadcast_to(array, shape), dtype).view()
    table.flags.writeable = False  # or numba would compile once more for inputs that are
    return table
