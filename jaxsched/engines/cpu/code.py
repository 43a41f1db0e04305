"""From the operations of a program to instructions of LLVM."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

from jaxsched.policies.arithmetic import LARGEST
from jaxsched.policies.program import Op, Program

INT1, INT32, INT64 = (ir.IntType(bits) for bits in (1, 32, 64))

Builder = ir.IRBuilder


def compute(
    b: Builder, program: Program, wide: Sequence[int], load: Callable[[Op], ir.Value]
) -> ir.Value:
    """Instructions for a program.

    Args:
      b: Where they go.
      program: What to compute.
      wide: 32 or 64 bits for the result of each operation.
      load: A field or a number of the policy, of any width.

    Returns:
      Its result, of the width of the last operation.
    """
    values: list[ir.Value] = []
    for op, width in zip(program.ops, wide, strict=True):
        own = INT1 if op.boolean else ir.IntType(width)
        if op.name in ("field", "param"):
            value = load(op)
        elif op.name == "const":
            value = own(op.data)
        else:
            args = [values[arg] for arg in op.args]
            whole = [arg.type.width for arg in args if arg.type != INT1]
            common = ir.IntType(max([width, *whole]) if whole or not op.boolean else 1)
            value = _INSTRUCTIONS[op.name](b, *(_fit(b, arg, common) for arg in args))
        values.append(_fit(b, value, own))
    return values[-1]


def saturated(b: Builder, value: ir.Value) -> ir.Value:
    """Within what keys and estimates may be, of 32 bits."""
    low, high = value.type(-LARGEST), value.type(LARGEST)
    return _fit(b, smaller(b, larger_of(b, value, low), high), INT32)


def at_least_one(b: Builder, value: ir.Value) -> ir.Value:
    return larger_of(b, value, value.type(1))


def compare(b: Builder, how: str, x: ir.Value, y: ir.Value) -> ir.Value:
    """Truth values are 0 and 1; with a sign, 1 would be the smaller."""
    return (b.icmp_unsigned if x.type == INT1 else b.icmp_signed)(how, x, y)


def smaller(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.select(compare(b, "<", x, y), x, y)


def larger_of(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.select(compare(b, ">", x, y), x, y)


def _fit(b: Builder, value: ir.Value, kind: ir.IntType) -> ir.Value:
    """The value in another width; truth values keep theirs."""
    if value.type == kind or value.type == INT1:
        return value
    if value.type.width < kind.width:
        return b.sext(value, kind)
    return b.trunc(value, kind) if kind != INT1 else value


def _within(b: Builder, amount: ir.Value) -> ir.Value:
    """An amount to shift by that LLVM takes."""
    return larger_of(b, smaller(b, amount, amount.type(amount.type.width - 1)), amount.type(0))


def _select(b: Builder, condition: ir.Value, no: ir.Value, yes: ir.Value) -> ir.Value:
    return b.select(condition, yes, no)


def _divisor(b: Builder, value: ir.Value) -> ir.Value:
    """1 for 0, as in the other engine, and for -1: the processor would end the process."""
    small = b.icmp_unsigned("<=", b.add(value, value.type(1)), value.type(1))
    return b.select(small, value.type(1), value)


def _divide(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    minus = b.icmp_signed("==", y, y.type(-1))
    return b.select(minus, b.neg(x), b.sdiv(x, _divisor(b, y)))


def _remainder(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.srem(x, _divisor(b, y))


def _floor_divide(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    rest, zero = _remainder(b, x, y), x.type(0)
    lower = b.and_(b.icmp_signed("!=", rest, zero), b.icmp_signed("<", b.xor(rest, y), zero))
    return b.sub(_divide(b, x, y), b.zext(lower, x.type))


def _log2(b: Builder, value: ir.Value, bits: ir.Value) -> ir.Value:
    kind = value.type
    value = at_least_one(b, value)
    whole = b.sub(kind(kind.width - 1), b.ctlz(value, INT1(1)))
    rest = b.xor(value, b.shl(kind(1), whole))
    rest = b.shl(rest, larger_of(b, b.sub(bits, whole), kind(0)))
    rest = b.ashr(rest, larger_of(b, b.sub(whole, bits), kind(0)))
    return b.add(b.shl(whole, bits), rest)


def _clz(b: Builder, value: ir.Value) -> ir.Value:
    """Of 64 bits, as JAX has seen it."""
    zeros = b.ctlz(_fit(b, value, INT64), INT1(0))
    return _fit(b, zeros, value.type)


def _sign(b: Builder, value: ir.Value) -> ir.Value:
    kind, zero = value.type, value.type(0)
    above, below = (b.zext(b.icmp_signed(how, value, zero), kind) for how in "><")
    return b.sub(above, below)


def _absolute(b: Builder, value: ir.Value) -> ir.Value:
    return larger_of(b, value, b.neg(value))


def _whole(b: Builder, value: ir.Value) -> ir.Value:
    return b.zext(value, INT32)


def _wrap(b: Builder, value: ir.Value) -> ir.Value:
    return _fit(b, _fit(b, value, INT32), value.type)


def _compared(how: str) -> Callable[[Builder, ir.Value, ir.Value], ir.Value]:
    return lambda b, x, y: compare(b, how, x, y)


_INSTRUCTIONS: dict[str, Callable[..., ir.Value]] = {
    "add": Builder.add,
    "sub": Builder.sub,
    "mul": Builder.mul,
    "neg": Builder.neg,
    "max": larger_of,
    "min": smaller,
    "abs": _absolute,
    "sign": _sign,
    "div": _divide,
    "floordiv": _floor_divide,
    "rem": _remainder,
    "and": Builder.and_,
    "or": Builder.or_,
    "xor": Builder.xor,
    "not": Builder.not_,
    "select": _select,
    "shl": lambda b, x, by: b.shl(x, _within(b, by)),
    "shr": lambda b, x, by: b.ashr(x, _within(b, by)),
    "clz": _clz,
    "log2": _log2,
    "int": _whole,
    "wrap32": _wrap,
    "eq": _compared("=="),
    "ne": _compared("!="),
    "lt": _compared("<"),
    "le": _compared("<="),
    "gt": _compared(">"),
    "ge": _compared(">="),
}
"""Operation -> its instructions, on values of one width."""
