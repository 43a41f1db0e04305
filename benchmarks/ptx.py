"""How many instructions a step is, read from the PTX of a kernel."""

from __future__ import annotations

import itertools
import re
from typing import Any

Block = tuple[str, list[str]]
"""A label, which may be empty, and the instructions up to the next label or branch."""


def entry(text: str, name: str) -> str:
    """The body of a kernel.

    Raises:
      ValueError: If there is none of that name.
    """
    found = re.search(rf"\.entry {name}\(.*?\)[^{{]*\{{(.*?)^\}}", text, re.S | re.M)
    if found is None:
        raise ValueError(f"the text has no kernel {name}")
    return found[1]


def steps_loop(body: str) -> dict[str, Any]:
    """The loop over steps: instructions of one pass, and its barriers.

    Returns:
      `least`, of a step that branches around all that it need not do; `branches`, those that it
      branches around, in the order of the program, one within another behind that other; and
      `barriers`.
    """
    blocks = _blocks(body)
    edges = _edges(blocks)
    inside = _largest_cycle(edges)
    entered = (after for i, after in enumerate(edges) if i in _reached(0, edges) - inside)
    (head,) = {i for after in entered for i in after & inside}
    sizes = [len(lines) for _, lines in blocks]
    least, *branches = _sizes(head, {head}, edges, inside, sizes, set())
    waits = [line for i in inside for line in blocks[i][1] if re.match(r"bar(rier)?\.", line)]
    return {"least": least, "branches": branches, "barriers": len(waits)}


def _sizes(
    first: int,
    last: set[int],
    edges: list[set[int]],
    inside: set[int],
    sizes: list[int],
    known: set[tuple[int, int]],
) -> list[int]:
    """Of the cheapest way from one block to others, and of what it branches around.

    Of a loop within, whose way back is such a branch, another turn; edges in `known` are not taken.
    """
    path = _shortest(first, last, edges, inside, sizes)
    found = [sum(sizes[i] for i in path[:-1])]
    for at, (i, j) in enumerate(itertools.pairwise(path), start=1):
        for other in (edges[i] & inside) - {j}:
            if (i, other) in known:
                continue
            known.add((i, other))
            own, *within = _sizes(other, set(path[at:]), edges, inside, sizes, known)
            join = _shortest(other, set(path[at:]), edges, inside, sizes)[-1]
            instead = sum(sizes[k] for k in path[at : path.index(join, at)])
            found += [own - instead, *within]
    return found


def _blocks(body: str) -> list[Block]:
    blocks: list[Block] = [("", [])]
    for line in body.splitlines():
        label = re.match(r"\s*(\$\w+):", line)
        if label:
            blocks.append((label[1], []))
        elif re.match(r"\s+[@a-z]", line):
            blocks[-1][1].append(line.strip())
            if re.search(r"\bbra\b", line):
                blocks.append(("", []))
    return blocks


def _edges(blocks: list[Block]) -> list[set[int]]:
    place = {label: i for i, (label, _) in enumerate(blocks) if label}
    edges = []
    for i, (_, instructions) in enumerate(blocks):
        last = instructions[-1] if instructions else ""
        jump = re.search(r"\bbra(?:\.uni)?\s+(\$\w+)", last)
        after = {place[jump[1]]} if jump else set()
        if (not jump or last.startswith("@")) and i + 1 < len(blocks) and last != "ret;":
            after.add(i + 1)
        edges.append(after)
    return edges


def _reached(start: int, edges: list[set[int]]) -> set[int]:
    seen, todo = set[int](), [start]
    while todo:
        for i in edges[todo.pop()] - seen:
            seen.add(i)
            todo.append(i)
    return seen


def _largest_cycle(edges: list[set[int]]) -> set[int]:
    reached = [_reached(i, edges) for i in range(len(edges))]
    cycles = [{j for j in reached[i] if i in reached[j]} for i in range(len(edges))]
    return max(cycles, key=len)


def _shortest(
    first: int, last: set[int], edges: list[set[int]], inside: set[int], sizes: list[int]
) -> list[int]:
    """Blocks of the cheapest way to one of `last`, with it."""
    best: dict[int, tuple[int, list[int]]] = {first: (sizes[first], [first])}
    todo, arrived = [first], list[tuple[int, list[int]]]()
    while todo:
        i = todo.pop(0)
        cost, path = best[i]
        for j in edges[i] & inside:
            if j in last:
                arrived.append((cost, [*path, j]))
            elif j not in best or cost + sizes[j] < best[j][0]:
                best[j] = (cost + sizes[j], [*path, j])
                todo.append(j)
    return min(arrived)[1]
