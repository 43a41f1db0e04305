"""Sorted-F and GSA-Spec, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jaxsched.policies import Policy
from tests.oracle.rules import a_min, svf


def sorted_f(by: str = "output") -> Policy:
    """Sorted-F, greedily: the cheapest batch from the front of the order by memory-time is next.

    The cost of a batch is sum(o) / size^2 (arXiv 2508.06133); in it the shortest goes first.
    """

    def rank(r: Any, real: Any) -> list[int]:
        memory, prompts = int(r.memory), [int(s) for s in r.prompt]
        lengths = [min(int(o), memory - s) for o, s in zip(getattr(r, by), prompts, strict=True)]
        volume = [s * o + o * (o + 1) // 2 for s, o in zip(prompts, lengths, strict=True)]
        rest = sorted(range(len(prompts)), key=lambda i: (volume[i], i))
        order: list[int] = []
        while rest:
            size = _batch_size([(prompts[i], lengths[i]) for i in rest], memory)
            order += sorted(rest[:size], key=lambda i: (lengths[i], i))
            rest = rest[size:]
        return [order.index(i) for i in range(len(prompts))]

    return replace(svf(by), name=f"sorted_f:{by}", admission_key=lambda r: r.rank, rank=rank)


def _batch_size(rest: list[tuple[int, int]], memory: int) -> int:
    """How many of the (prompt, length) from the front make the next batch."""

    def cost(size: int) -> tuple[int, int]:
        tokens = sum(length for _, length in rest[:size])
        return (tokens << 32) // size**2, size

    sizes = range(2, len(rest) + 1)
    fitting = [size for size in sizes if sum(s + r for s, r in rest[:size]) <= memory]
    return min([1, *fitting], key=cost)


def gsa_spec(patience: int = 64) -> Policy:
    """GSA-Spec: slices of 1, 2, 4, ... tokens, and up to `patience` of them (arXiv 2601.22996)."""

    def next_slice(r: Any) -> int:
        tokens = r.estimate
        while tokens <= r.generated:
            tokens *= 2
        return tokens

    return replace(
        a_min(),
        name="gsa_spec" if patience == 64 else f"gsa_spec:patience={patience}",
        estimate=lambda r: 1,
        refine=next_slice,
        quantum=lambda r: patience * r.estimate,
    )


EXTENDED: dict[str, Policy] = {
    rule.name: rule
    for rule in (
        sorted_f("output"), sorted_f("lower"), sorted_f("upper"), sorted_f("point"), gsa_spec(),
    )
}  # fmt: skip
"""Those that order a backlog as a whole or set quanta, unlike those of `RULES`."""
