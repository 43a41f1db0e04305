"""A stream split over replicas, by what a router knows when a request arrives.

Each replica becomes a lane. The router never hears from them: routing on live queues, where lanes
would have to wait for each other, is another model.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxsched.clocks import to_ticks
from jaxsched.instance import REQUEST_FIELDS, Instance, check_instance, in_seconds
from jaxsched.workloads import draws
from jaxsched.workloads.checks import integers, positive, whole

LEAST_OUTSTANDING = "least_outstanding"
KNOWN_LENGTHS = ("point", "lower", "upper", "output")
ROUTES = (
    "round_robin",
    "random",
    "session",
    *(f"{LEAST_OUTSTANDING}:{by}" for by in KNOWN_LENGTHS),
)
"""Rules of `route`."""


def route(stream: Instance, workers: int, rule: str = "round_robin", **knows: Any) -> Instance:
    """Splits every stream over so many replicas, each with the memory of the stream.

    Metrics of the fleet are those of its lanes, pooled (`metrics.serving(…, pooled=True)`): every
    request counts once. Arguments and errors as of `replicas`.

    >>> import jaxsched as js
    >>> stream = js.Instance(prompt=[3, 1, 2], output=[2, 5, 2], lower=[1] * 3, upper=[9] * 3,
    ...                      memory=20)
    >>> js.workloads.route(stream, workers=2).output.tolist()
    [[2, 2], [5, 1]]

    Returns:
      An instance of shape [..., workers, m], m the most requests of a replica, in the order of the
      stream; `num_requests` says where the padding starts.
    """
    chosen = replicas(stream, workers, rule, **knows)
    counts = np.sum(chosen[..., None, :] == np.arange(workers)[:, None], axis=-1)
    width = max(1, int(counts.max(initial=0)))
    # Stable, so that a replica's requests keep their order; padding, -1, goes last.
    order = np.argsort(np.where(chosen < 0, workers, chosen), axis=-1, kind="stable")
    first = np.cumsum(counts, axis=-1) - counts
    place = np.minimum(first[..., None] + np.arange(width), stream.n - 1)
    real = np.arange(width) < counts[..., None]
    rows = np.take_along_axis(order, place.reshape(*stream.lanes, -1), axis=-1)
    fields: dict[str, Any] = {}
    for name in REQUEST_FIELDS:
        if (value := getattr(stream, name)) is not None:
            picked = np.take_along_axis(np.asarray(value), rows, axis=-1).reshape(real.shape)
            padding = picked.dtype.type(0 if name == "arrival" else 1)
            fields[name] = np.where(real, picked, padding)
    memory = np.broadcast_to(np.asarray(stream.memory), stream.lanes)[..., None]
    return Instance(
        memory=np.broadcast_to(memory, (*stream.lanes, workers)),
        num_requests=counts.astype(np.int32),
        **fields,
    )


def replicas(
    stream: Instance,
    workers: int,
    rule: str = "round_robin",
    *,
    key: jax.Array | None = None,
    session: ArrayLike | None = None,
    round_seconds: float | None = None,
) -> NDArray[np.int32]:
    """Which replica gets each request, by one of `ROUTES`; requests come in order of arrival.

    - "round_robin": one after another.
    - "random": drawn evenly, with `key`.
    - "session": by a hash of its session, so that a session stays on one replica.
    - "least_outstanding:FIELD": to whom the router has given the least memory-time that is not
      served yet, s r + r (r + 1) / 2 with r the prediction of that name, at most memory - prompt.
      By the router's own clock a replica serves its memory's worth of token-rounds in a round. Of
      idle replicas the one that has been so for longest; ties go to the first.

    Args:
      stream: Requests of shape [..., n]; a backlog arrives in order of position.
      workers: Replicas, at least 1.
      rule: One of `ROUTES`.
      key: One threefry key or one per lane, for "random".
      session: Whole numbers of shape [..., n] or [n], for "session".
      round_seconds: How long the router takes a round to be, for "least_outstanding" where
        arrivals are in seconds.

    Returns:
      0 to workers - 1, of shape [..., n]; -1 for padding.

    Raises:
      TypeError, ValueError: As `check_instance`; for another rule, and if what a rule needs is not
        given, or is and no rule needs it.
    """
    workers = whole("workers", workers)
    kind, _, by = rule.partition(":") if isinstance(rule, str) else ("", "", "")
    if rule not in ROUTES:
        raise ValueError(f"rule is {rule!r}; expected one of {', '.join(ROUTES)}")
    check_instance(stream, needs_point=by == "point")
    seconds = in_seconds(stream)
    needs = {
        "key": (key, kind == "random"),
        "session": (session, kind == "session"),
        "round_seconds": (round_seconds, kind == LEAST_OUTSTANDING and seconds),
    }
    for name, (given, needed) in needs.items():
        if (given is not None) != needed:
            what = "missing; the rule needs it" if needed else "given; the rule does not read it"
            raise ValueError(f"{name}: {what} ({rule}{', arrivals in seconds' * seconds})")
    shape = (*stream.lanes, stream.n)
    if kind == "random":
        assert key is not None
        chosen = draws.below(draws.uniforms(key, shape), workers)
    elif kind == "session":
        chosen = (_mixed(integers("session", session)) % np.uint64(workers)).astype(np.int64)
        chosen = np.broadcast_to(chosen, shape).copy()
    elif kind == LEAST_OUTSTANDING:
        chosen = _by_lane(stream, functools.partial(_least, workers), by, round_seconds)
    else:
        chosen = _by_lane(stream, lambda at, *_: np.arange(len(at)) % workers, "output", None)
    count = stream.n if stream.num_requests is None else np.asarray(stream.num_requests)
    real = np.arange(stream.n) < np.broadcast_to(count, stream.lanes)[..., None]
    return np.where(real, chosen, -1).astype(np.int32)


def _by_lane(
    stream: Instance, choose: Callable[..., Any], by: str, round_seconds: float | None
) -> NDArray[np.int64]:
    """Calls `choose` with what is known of each lane's requests, in order of arrival."""
    n = stream.n
    count = np.broadcast_to(n if stream.num_requests is None else stream.num_requests, stream.lanes)
    arrival = np.zeros(1, np.int64) if stream.arrival is None else np.asarray(stream.arrival)
    ticks = 1
    if in_seconds(stream):
        arrival = to_ticks(arrival)
        if round_seconds is not None:
            positive("round_seconds", round_seconds)
            ticks = int(to_ticks(round_seconds))
    fields = [arrival, *map(np.asarray, (stream.prompt, getattr(stream, by)))]
    flat = [np.broadcast_to(x, (*stream.lanes, n)).reshape(-1, n) for x in fields]
    memory = np.broadcast_to(np.asarray(stream.memory), stream.lanes).reshape(-1)
    chosen = np.zeros((len(memory), n), np.int64)
    for lane, (room, real) in enumerate(zip(memory, count.reshape(-1), strict=True)):
        order = np.argsort(flat[0][lane, :real], kind="stable")
        at, prompt, length = (x[lane, order].tolist() for x in flat)
        chosen[lane, order] = choose(at, prompt, length, int(room), ticks)
    return chosen.reshape(*stream.lanes, n)


def _least(
    workers: int, at: list[int], prompt: list[int], length: list[int], memory: int, ticks: int
) -> list[int]:
    """Times are in units of 1 / memory, so that all is exact in Python's whole numbers."""
    free = [(0, worker) for worker in range(workers)]  # when each has served what it was given
    chosen = []
    for now, s, r in zip(at, prompt, length, strict=True):
        when, worker = free[0]
        tokens = min(r, memory - s)
        work = (s * tokens + tokens * (tokens + 1) // 2) * ticks
        heapq.heapreplace(free, (max(when, now * memory) + work, worker))
        chosen.append(worker)
    return chosen


def _mixed(values: NDArray[Any]) -> NDArray[np.uint64]:
    """A hash of 64 bits that differs in about half of them where the values differ (splitmix64)."""
    x = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))
