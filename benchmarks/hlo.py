"""What a compiled loop consists of, read from XLA's text."""

from __future__ import annotations

import dataclasses
import math
import re

BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8}
FREE = ("bitcast", "constant", "get-tuple-element", "parameter", "tuple")
"""Instructions that run no code."""

INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\S+) ([\w\-]+)\((.*?)\)[,\n]?", re.M)
ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Loop:
    """One pass through the body of a loop.

    Attributes:
      fusions: Fused kernels.
      copies: Copies of arrays.
      others: Other instructions that run code.
      bytes: Bytes that they read and write, lookups in large tables not counted.
    """

    fusions: int
    copies: int
    others: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Launches:
    """What a computation launches.

    Attributes:
      kernels: Instructions that run code.
      copies: Those of them that copy an array.
    """

    kernels: int
    copies: int


def largest_loop(text: str, table: int) -> Loop:
    """The loop with most instructions.

    Args:
      text: Compiled HLO.
      table: Elements from which on an operand is a table, of which a kernel reads a few places.
    """
    names = set(re.findall(r"while\(.*?body=%?([\w.\-]+)", text))
    bodies = [_instructions(_computation(text, name)) for name in names]
    return _count(max(bodies, key=len), table)


def loops(text: str) -> list[tuple[Launches, Launches]]:
    """What a pass through the body of every loop launches, and what its condition does."""
    found = re.findall(r"while\(.*?condition=%?([\w.\-]+).*?body=%?([\w.\-]+)", text)
    return [(_launches(text, body), _launches(text, condition)) for condition, body in found]


@dataclasses.dataclass
class Fusions:
    """The fused kernels of a pass through a loop over a pool of lanes.

    Attributes:
      lookups: Those that look numbers of lanes up in tables.
      reductions: Those that reduce arrays of slots to numbers of lanes.
      writes: Those that write arrays of slots.
      scalars: Those that make numbers of lanes from others.
      depth: Most of them that must follow each other, each reading what one before it wrote.
      moves: Copies, those between memories included that run beside them.
    """

    lookups: int = 0
    reductions: int = 0
    writes: int = 0
    scalars: int = 0
    depth: int = 0
    moves: int = 0


def fusions(text: str) -> Fusions:
    """Those of the loop that has most, and most else, of loops in which there is no other."""
    body = max(_inner(text), key=lambda body: (body.count(" fusion("), len(body.splitlines())))
    found, depth = Fusions(), dict[str, int]()
    for line in body.splitlines():
        name, _, right = line.strip().removeprefix("ROOT ").partition(" = ")
        code, operands = re.findall(r" ([a-z][\w\-]*)\((.*?)\)", right)[0]
        before = [depth.get(operand, 0) for operand in re.findall(r"%([\w.\-]+)", operands)]
        depth[name.lstrip("%")] = max(before, default=0) + (code == "fusion")
        found.moves += code in ("copy", "copy-start")
        if code != "fusion":
            continue
        inner = _computation(text, re.findall(r"calls=%?([\w.\-]+)", right)[0])
        read = "".join(line for line in inner.splitlines() if " parameter(" in line)
        slots = re.search(r"\[\d+,\d{2,}\]", read + right.partition(" fusion(")[0])
        if " gather(" in inner:
            found.lookups += 1
        elif slots and " reduce(" in inner:
            found.reductions += 1
        elif slots:
            found.writes += 1
        else:
            found.scalars += 1
    found.depth = max(depth.values())
    return found


def passes(text: str, table: int, loops: int) -> list[tuple[int, int]]:
    """Bytes and copies begun in a pass, of so many loops: those that have most fusions.

    In ascending order, so by the size of the arrays. `table` is as for `largest_loop`.
    """
    bodies = sorted(_inner(text), key=lambda body: -body.count(" fusion("))[:loops]
    return sorted(
        (_count(_instructions(body), table).bytes, body.count(" copy-start(")) for body in bodies
    )


def _inner(text: str) -> list[str]:
    """Bodies of the loops in which there is no other."""
    names = set(re.findall(r"while\(.*?body=%?([\w.\-]+)", text))
    bodies = [_computation(text, name) for name in sorted(names)]
    return [body for body in bodies if " while(" not in body]


def _launches(text: str, name: str) -> Launches:
    """Kernels of a computation; of a conditional those of its largest branch."""
    codes, chosen = [], 0
    for line in _computation(text, name).splitlines():
        code = re.search(r" ([a-z][\w\-]*)\(", line.partition(" = ")[2])
        if code and code[1] not in (*FREE, "conditional", "while"):
            codes.append(code[1])
        branches = re.search(r"branch_computations=\{(.*?)\}", line)
        names = re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", line)
        names += [] if branches is None else re.findall(r"[\w.\-]+", branches[1])
        chosen += max((_launches(text, branch).kernels for branch in names), default=0)
    return Launches(len(codes) + chosen, codes.count("copy"))


def _computation(text: str, name: str) -> str:
    found = re.search(rf"^%?{re.escape(name)} .*?\{{\n(.*?)^\}}", text, re.S | re.M)
    if found is None:
        raise ValueError(f"the text has no computation {name}")
    return found.group(1)


def _instructions(body: str) -> list[tuple[str, str, str, list[str]]]:
    """(name, shape, opcode, operands) of every instruction of a computation."""
    return [
        (name, shape, opcode, re.findall(r"%([\w.\-]+)", operands))
        for name, shape, opcode, operands in INSTRUCTION.findall(body)
    ]


def _count(instructions: list[tuple[str, str, str, list[str]]], table: int) -> Loop:
    shapes = {name: shape for name, shape, _, _ in instructions}
    ran = [line for line in instructions if line[2] not in FREE]
    codes = [opcode for _, _, opcode, _ in ran]
    moved = [
        _size(shapes.get(name, ""), table) for _, shape, _, operands in ran for name in operands
    ] + [_size(shape, table) for _, shape, _, _ in ran]
    fusions, copies = codes.count("fusion"), codes.count("copy")
    return Loop(fusions, copies, len(codes) - fusions - copies, sum(moved))


def _size(shape: str, table: int) -> int:
    total = 0
    for kind, sizes in ARRAY.findall(shape):
        elements = math.prod(int(size) for size in sizes.split(",") if size)
        total += BYTES.get(kind, 4) * elements if elements < table else 0
    return total
