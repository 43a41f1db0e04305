"""Programs without what numbers of 0 leave nothing of.

A rule with many numbers would pay for the terms that it does not use, and most of all for what they
read: arrivals, or tokens generated, with which keys move. Where a number is 0 in every lane, this
finds what is left of the programs; the text of the rule knows nothing of it.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxsched.policies.program import Choice, Choices, Op, Program, ProgramBuilder
from jaxsched.policies.ranges import FIELD_RANGES
from jaxsched.policies.view import KNOWN


def simplified(choices: Choices, params: NDArray[np.int64]) -> Choices:
    """The policy where these numbers are; as given, if it still reads as much.

    Equal zeros give the same object, for which machine code is made once: a search over numbers
    that are seldom 0 in all lanes of a batch makes it no more often than before.

    Args:
      choices: A policy of whose functions each has a program.
      params: Its numbers, [lanes, k].
    """
    zeros = np.flatnonzero(~params.any(axis=0))
    return _where_zero(choices, tuple(zeros.tolist())) if zeros.size else choices


@functools.lru_cache(maxsize=256)
def _where_zero(choices: Choices, zeros: tuple[int, ...]) -> Choices:
    old = {name: getattr(choices, name) for name in KNOWN if name != "rank"}
    new: dict[str, Any] = {name: choice and _choice(choice, zeros) for name, choice in old.items()}
    if all(new[name].reads == old[name].reads for name in old if old[name]):
        return choices
    reads = frozenset().union(*(choice.reads for choice in new.values() if choice))
    return dataclasses.replace(choices, **new, reads=reads)


def _choice(choice: Choice, zeros: tuple[int, ...]) -> Choice:
    assert isinstance(choice.program, Program)
    program = where_zero(choice.program, zeros)
    reads = frozenset(op.data for op in program.ops if op.name == "field")
    return dataclasses.replace(choice, program=program, reads=choice.reads & reads)


def where_zero(program: Program, zeros: tuple[int, ...]) -> Program:
    """What is left of a program where the numbers at these places are 0."""
    build, places = ProgramBuilder(), list[int]()
    for op in program.ops:
        if op.name == "param" and op.data in zeros:
            places.append(build.put(_ZERO))
        else:
            args = tuple(places[arg] for arg in op.args)
            places.append(_put(build, dataclasses.replace(op, args=args)))
    return build.program(places[-1])


_ZERO = Op("const", data=0)

_COMPARISONS = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le,
    "gt": operator.gt, "ge": operator.ge,
}  # fmt: skip


def _put(build: ProgramBuilder, op: Op) -> int:
    """The place of an operation, or of a shorter one that gives the same."""
    args = [build.ops[arg] for arg in op.args]
    zero = [arg == _ZERO for arg in args]
    if op.name in ("add", "sub", "shl", "shr") and zero[1]:
        return op.args[0]
    if op.name == "add" and zero[0]:
        return op.args[1]
    if (op.name == "mul" and any(zero)) or (op.name in ("shl", "shr", "neg") and zero[0]):
        return build.put(_ZERO)
    if op.name in ("max", "min"):
        for this, other in ((0, 1), (1, 0)):
            if args[this].name == "field" and args[other].name == "const":
                low, high = FIELD_RANGES[args[this].data]
                bound = args[other].data
                if (bound <= low) if op.name == "max" else (bound >= high):
                    return op.args[this]
    if op.name in _COMPARISONS and all(arg.name == "const" for arg in args):
        true = _COMPARISONS[op.name](*(arg.data for arg in args))
        return build.put(Op("const", data=int(true), boolean=True))
    if op.name == "select" and args[0].name == "const":
        return op.args[2 if args[0].data else 1]
    return build.put(op)
