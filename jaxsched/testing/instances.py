"""Adversarial random instances, for testing engines and policies against the reference."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import astuple, fields

import numpy as np
from numpy.typing import NDArray

from jaxsched.engines.reference import Request
from jaxsched.workers import Worker, vllm

_INT32_MAX = 2**31 - 2


def random_requests(
    rng: random.Random, kind: str, n: int | None = None
) -> tuple[list[Request], int]:
    """A random instance of one kind, small enough for the reference to simulate.

    Every request has a point prediction, so every rule can run on every instance.

    Args:
        rng: the source of all randomness; the same state gives the same instance.
        kind: a key of `KINDS`.
        n: number of requests; a random one of 1 to 40 that suits the kind by default.

    Returns:
        The requests, none of which needs more than the memory, and the memory in tokens.

    Raises:
        ValueError: for an unknown kind, n below 1, and an n that contradicts the kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {list(KINDS)}")
    if n is not None and n < 1:
        raise ValueError(f"n is {n}; expected at least 1")
    return KINDS[kind](rng, n)


def random_worker(rng: random.Random) -> Worker:
    """The worker of a serving engine, with settings small enough to matter on these instances.

    Not every instance fits its blocks: `in_whole_blocks` gives one the memory that it needs.
    """
    seqs = rng.choice((1, 2, rng.randint(3, 12), 40))
    more = rng.choice((0, 0, 1, rng.randint(0, 20), 500))
    watermark = rng.choice((0, 0, 1, rng.randint(0, 9)))
    return vllm(rng.choice((1, 2, 3, 4, 16)), seqs, seqs + more, watermark)


def in_whole_blocks(memory: int, worker: Worker) -> int:
    """The memory rounded up to whole blocks of a worker, so that every request still fits."""
    return -(-memory // worker.block) * worker.block


def as_arrays(
    instances: Sequence[tuple[list[Request], int]],
) -> dict[str, NDArray[np.int32]]:
    """Instances as one batch of arrays: a lane each, padded with zeros to the longest.

    Returns:
        int32 arrays `prompt`, `output`, `lower`, `upper`, `arrival`, `point` of shape [lanes, n]
        and `memory`, `num_requests` of shape [lanes].

    Raises:
        ValueError: for a request without a point prediction.
        OverflowError: for a number beyond int32.
    """
    names = [field.name for field in fields(Request)]
    counts = [len(requests) for requests, _ in instances]
    table = np.zeros((len(names), len(instances), max(counts, default=0)), np.int32)
    for lane, (requests, _) in enumerate(instances):
        for i, request in enumerate(requests):
            if request.point is None:
                raise ValueError(f"lane {lane}, request {i}: point is None; expected an int >= 1")
            table[:, lane, i] = np.array(astuple(request), np.int32)
    memory = np.array([memory for _, memory in instances], np.int32)
    return {
        **dict(zip(names, table, strict=True)),
        "memory": memory,
        "num_requests": np.array(counts, np.int32),
    }


# Each kind: (rng, n or None) -> (requests, memory). The parts they share come first.


def _request(rng: random.Random, prompt: int = 6, output: int = 20, arrival: int = 0) -> Request:
    """Lengths uniform up to the given ones, an interval and a point around the true output."""
    true = rng.randint(1, output)
    lower, upper = rng.randint(1, true), rng.randint(true, 2 * output)
    point = rng.randint(lower, upper)
    return Request(rng.randint(1, prompt), true, lower, upper, arrival, point)


def _wrong_request(rng: random.Random, arrival: int = 0) -> Request:
    """An interval and a point that have nothing to do with the output, on either side of it."""
    right = _request(rng, arrival=arrival)
    lower, upper = sorted(rng.randint(1, 30) for _ in range(2))
    return Request(right.prompt, right.output, lower, upper, arrival, rng.randint(1, 30))


def _memory(rng: random.Random, requests: list[Request]) -> int:
    """Enough for the largest request, and at most for a few more."""
    peaks = [request.prompt + request.output for request in requests]
    return max(peaks) + rng.randint(0, min(sum(peaks), 3 * max(peaks)))


def _instance(
    rng: random.Random, n: int | None, draw: Callable[[], Request]
) -> tuple[list[Request], int]:
    requests = [draw() for _ in range(n or rng.randint(1, 40))]
    return requests, _memory(rng, requests)


def _ties(rng: random.Random, n: int | None) -> tuple[list[Request], int]:
    def draw() -> Request:
        lower = rng.choice((1, 2))
        arrival, point = rng.choice((0, 3)), rng.choice((2, 3))
        return Request(rng.choice((1, 2)), rng.choice((2, 3)), lower, 3, arrival, point)

    return _instance(rng, n, draw)


def _single(rng: random.Random, n: int | None) -> tuple[list[Request], int]:
    if n not in (None, 1):
        raise ValueError(f"n is {n}; expected 1 for the kind 'single'")
    return _instance(rng, 1, lambda: _wrong_request(rng, arrival=rng.choice((0, 0, 1, 50))))


def _identical(rng: random.Random, n: int | None) -> tuple[list[Request], int]:
    request = _wrong_request(rng)
    return _instance(rng, n, lambda: request)


def _wrong_intervals(rng: random.Random, n: int | None) -> tuple[list[Request], int]:
    return _instance(rng, n, lambda: _wrong_request(rng))


def _late_arrivals(rng: random.Random, n: int | None) -> tuple[list[Request], int]:
    """Bursts with silence between them and before the first, up to half the default round limit."""
    bursts = rng.sample((0, 7, 5_000, 1_000_000, 500_000_000), 3)
    return _instance(
        rng, n, lambda: _wrong_request(rng, arrival=rng.choice(bursts) + rng.randint(0, 3))
    )


def _scattered_arrivals(rng: random.Random, n: int | None) -> tuple[list[Request], int]:
    span = rng.choice((10, 100, 400))
    return _instance(rng, n, lambda: _wrong_request(rng, arrival=rng.randint(0, span)))


def _tight_memory(rng: random.Random, n: int | None) -> tuple[list[Request], int]:
    """The largest request just fits, alone."""
    requests, _ = _instance(rng, n, lambda: _wrong_request(rng))
    return requests, max(request.prompt + request.output for request in requests)


def _odd_count(rng: random.Random, n: int | None) -> tuple[list[Request], int]:
    n = n or rng.choice([k for k in range(3, 41) if k & (k - 1)])
    if not n & (n - 1):
        raise ValueError(f"n is {n}; expected no power of two for the kind 'odd_count'")
    return _instance(rng, n, lambda: _wrong_request(rng, arrival=rng.randint(0, 20)))


def _long_outputs(rng: random.Random, n: int | None) -> tuple[list[Request], int]:
    """A few requests, some of thousands of rounds, that crowd each other out late in their runs."""
    requests, _ = _instance(
        rng, n or rng.randint(2, 8), lambda: _request(rng, 50, rng.choice((10, 300, 2_000, 2_000)))
    )
    largest = max(request.prompt + request.output for request in requests)
    return requests, largest + rng.randint(0, largest // 4)


def _tiny_memory(rng: random.Random, n: int | None) -> tuple[list[Request], int]:
    memory = rng.randint(2, 8)

    def draw() -> Request:
        prompt = rng.randint(1, memory - 1)
        lower, upper = sorted(rng.randint(1, 10) for _ in range(2))
        output, point = rng.randint(1, memory - prompt), rng.randint(1, 10)
        return Request(prompt, output, lower, upper, rng.choice((0, 0, 5)), point)

    requests, _ = _instance(rng, n, draw)
    return requests, memory


def _wide_memory(rng: random.Random, n: int | None) -> tuple[list[Request], int]:
    """Everything fits at once: just, or a thousand times over."""
    requests, _ = _instance(rng, n, lambda: _wrong_request(rng, arrival=rng.choice((0, 0, 9))))
    return requests, sum(r.prompt + r.output for r in requests) * rng.choice((1, 1_000))


def _exact_intervals(rng: random.Random, n: int | None) -> tuple[list[Request], int]:
    def draw() -> Request:
        prompt, output, arrival = rng.randint(1, 6), rng.randint(1, 20), rng.choice((0, 0, 0, 8))
        return Request(prompt, output, output, output, arrival, output)

    return _instance(rng, n, draw)


def _huge_upper(rng: random.Random, n: int | None) -> tuple[list[Request], int]:
    """Upper ends and points far above the memory, up to the largest int32."""

    def draw() -> Request:
        right = _request(rng, arrival=rng.choice((0, 0, 8)))
        upper = rng.choice((right.upper, 1_000, 10**6, _INT32_MAX))
        point = rng.choice((right.output, upper))
        return Request(right.prompt, right.output, right.lower, upper, right.arrival, point)

    return _instance(rng, n, draw)


def _wrong_points(rng: random.Random, n: int | None) -> tuple[list[Request], int]:
    """Right intervals, and points that are one for all, or all but right."""
    one_for_all = rng.choice((None, 1, 10, 100))

    def draw() -> Request:
        right = _request(rng)
        point = one_for_all or max(1, right.output + rng.randint(-3, 3))
        return Request(right.prompt, right.output, right.lower, right.upper, 0, point)

    return _instance(rng, n, draw)


KINDS: dict[str, Callable[[random.Random, int | None], tuple[list[Request], int]]] = {
    "ties": _ties,
    "single": _single,
    "identical": _identical,
    "wrong_intervals": _wrong_intervals,
    "late_arrivals": _late_arrivals,
    "scattered_arrivals": _scattered_arrivals,
    "tight_memory": _tight_memory,
    "odd_count": _odd_count,
    "long_outputs": _long_outputs,
    "tiny_memory": _tiny_memory,
    "wide_memory": _wide_memory,
    "exact_intervals": _exact_intervals,
    "huge_upper": _huge_upper,
    "wrong_points": _wrong_points,
}
