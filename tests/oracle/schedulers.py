"""Sorted-F and GSA-Spec as rules of the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jaxsched.engines.reference.model import Known, Rule
from jaxsched.engines.reference.rules import a_min, svf


def sorted_f(by: str = "output") -> Rule:
    """Sorted-F, greedily: the cheapest batch from the front of the order by memory-time is next.

    The cost of a batch is sum(o) / size^2 (arXiv 2508.06133); in it the shortest goes first.
    """

    def length(request: Known) -> int:
        return min(getattr(request, by), request.memory - request.prompt)

    def volume(request: Known) -> int:
        r = length(request)
        return request.prompt * r + r * (r + 1) // 2

    def rank(requests: Sequence[Known]) -> list[int]:
        rest = sorted(range(len(requests)), key=lambda i: (volume(requests[i]), i))
        order: list[int] = []
        while rest:
            pairs = [(requests[i].prompt, length(requests[i])) for i in rest]
            size = _batch_size(pairs, requests[0].memory)
            order += sorted(rest[:size], key=lambda i: (length(requests[i]), i))
            rest = rest[size:]
        return [order.index(i) for i in range(len(requests))]

    return replace(
        svf(by),
        name=f"sorted_f:{by}",
        admission_key=lambda request, estimate: request.rank,
        rank=rank,
    )


def _batch_size(rest: list[tuple[int, int]], memory: int) -> int:
    """How many of the (prompt, length) from the front make the next batch."""

    def cost(size: int) -> tuple[int, int]:
        tokens = sum(length for _, length in rest[:size])
        return (tokens << 32) // size**2, size

    sizes = range(2, len(rest) + 1)
    fitting = [size for size in sizes if sum(s + r for s, r in rest[:size]) <= memory]
    return min([1, *fitting], key=cost)


def gsa_spec(patience: int = 64) -> Rule:
    """GSA-Spec: slices of 1, 2, 4, ... tokens, and up to `patience` of them (arXiv 2601.22996)."""

    def next_slice(request: Known, estimate: int, tokens: int) -> int:
        while estimate <= tokens:
            estimate *= 2
        return estimate

    return replace(
        a_min(),
        name="gsa_spec" if patience == 64 else f"gsa_spec:patience={patience}",
        estimate=lambda request: 1,
        refine=next_slice,
        quantum=lambda request, estimate: patience * estimate,
    )


EXTENDED: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        sorted_f("output"), sorted_f("lower"), sorted_f("upper"), sorted_f("point"), gsa_spec(),
    )
}  # fmt: skip
"""Rules that order a backlog as a whole or set quanta, unlike those of `RULES`."""
