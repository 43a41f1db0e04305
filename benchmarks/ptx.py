"""How many instructions a step is, read from the PTX of a kernel."""

from __future__ import annotations

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
    """The loop over steps: instructions of one pass.

    Returns:
      `least`, of a step that branches around all that it need not do, and `branches`, those that
      it branches around, in the order of the program.
    """
    blocks = _blocks(body)
    following = _edges(blocks)
    inside = _largest_cycle(following)
    sizes = [len(instructions) for _, instructions in blocks]
    head = min(
        i for i in inside
        if any(i in after and j not in inside for j, after in enumerate(following))
    )  # fmt: skip
    path = _shortest(head, following, inside, sizes)
    return {
        "least": sum(sizes[i] for i in path),
        "branches": [sizes[i] for i in sorted(inside - set(path)) if sizes[i] > 1],
    }


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


def _shortest(head: int, edges: list[set[int]], inside: set[int], sizes: list[int]) -> list[int]:
    """Blocks of the cheapest way from the head back to it."""
    best: dict[int, tuple[int, list[int]]] = {head: (sizes[head], [head])}
    todo, back = [head], list[tuple[int, list[int]]]()
    while todo:
        i = todo.pop(0)
        cost, path = best[i]
        for j in edges[i] & inside:
            if j == head:
                back.append((cost, path))
            elif j not in best or cost + sizes[j] < best[j][0]:
                best[j] = (cost + sizes[j], [*path, j])
                todo.append(j)
    return min(back)[1]
