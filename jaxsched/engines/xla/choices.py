"""The functions of a policy on arrays of requests.

Their programs are run in 32 bits where these hold every result, else in 64. A function that has no
program is called as it is, once for every request, in 64 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsched.policies.arithmetic import LARGEST
from jaxsched.policies.program import Choice, Choices, Program
from jaxsched.policies.ranges import Range, widest, widths
from jaxsched.policies.view import View

Array = jax.Array

Read = Callable[[str], Array]
"""Field of `View` -> its values, int32; of one shape, or of none."""


def ask(choices: Choices, name: str, read: Read, params: Any, shape: tuple[int, ...] = ()) -> Array:
    """What a function of the policy says of some requests, int32.

    Args:
      choices: The policy.
      name: The function; an estimate after an eviction is "refine".
      read: What it may see.
      params: The numbers of the policy.
      shape: That of the requests.
    """
    program, known = getattr(choices, name).program, (-np.inf, np.inf)
    if isinstance(program, Program):
        known = widest(program, choices.limit)[-1]
    low = 1 if name in ("estimate", "refine", "quantum") else 0 if name == "headroom" else -LARGEST
    value = compute(choices, name, read, params)
    with jax.enable_x64(True):
        whole = _within(value, known, low).astype(jnp.int32)
    return jnp.broadcast_to(whole, shape)


def compute(choices: Choices, name: str, read: Read, params: Any) -> Array:
    """The same, of 32 or 64 bits, of the shape of what is read, and not brought to any limits."""
    choice = getattr(choices, name)
    with jax.enable_x64(True):
        if isinstance(choice.program, str):
            return _call(choice, read, params)
        return _run(choice.program, widths(choice.program, choices.limit), read, _flat(params))


def _within(value: Array, known: Range, low: int) -> Array:
    """Brought to what engines compare, where it is not there in any case."""
    if known[0] < low:
        value = jnp.maximum(value, value.dtype.type(low))
    if known[1] > LARGEST:
        value = jnp.minimum(value, value.dtype.type(LARGEST))
    return value


def _flat(params: Any) -> Callable[[int], Array]:
    """The numbers of a policy by their place among all of them."""
    leaves = [leaf.reshape(-1) for leaf in jax.tree.leaves(params)]
    ends = np.cumsum([leaf.shape[0] for leaf in leaves])

    def number(place: int) -> Array:
        which = int(np.searchsorted(ends, place, side="right"))
        return leaves[which][place - (int(ends[which - 1]) if which else 0)]

    return number


def _run(program: Program, wide: list[int], read: Read, number: Callable[[int], Array]) -> Array:
    values: list[Any] = []
    for op, bits in zip(program.ops, wide, strict=True):
        own = np.dtype(np.bool_ if op.boolean else np.int32 if bits == 32 else np.int64)
        value: Any
        if op.name == "field":
            value = read(op.data)
        elif op.name == "param":
            value = number(op.data)
        elif op.name == "const":
            value = own.type(op.data)
        else:
            args = [values[arg] for arg in op.args]
            whole = [arg.dtype for arg in args if arg.dtype != np.bool_]
            common = max([own, *whole], key=lambda dtype: dtype.itemsize)
            value = _OPERATIONS[op.name](*(_cast(arg, common) for arg in args))
        values.append(_cast(value, own))
    return jnp.asarray(values[-1])


def _cast(value: Any, dtype: Any) -> Any:
    """Whole numbers of another width; truth values stay as they are."""
    return value if value.dtype in (np.bool_, dtype) else value.astype(dtype)


def _divisor(value: Any) -> Any:
    """1 for 0, as in the other engine."""
    return jnp.where(value == 0, jnp.ones_like(value), value)


def _floor_divide(x: Any, y: Any) -> Any:
    """`x // y`, whose own steps the compiler of kernels takes for 32 bits."""
    rest = lax.rem(x, y)
    down = (rest != 0) & ((rest < 0) != (y < 0))
    return lax.div(x, y) - down.astype(x.dtype)


def _shift_left(value: Any, bits: Any) -> Any:
    return value << jnp.clip(bits, 0, value.dtype.itemsize * 8 - 1)


def _shift_right(value: Any, bits: Any) -> Any:
    return value >> jnp.clip(bits, 0, value.dtype.itemsize * 8 - 1)


def _leading_zeros(value: Any) -> Any:
    """Of numbers above 0; Triton counts them of 32 bits only."""
    if value.dtype.itemsize == 4:
        return lax.clz(value)
    high, low = (value >> 32).astype(np.int32), value.astype(np.int32)
    return jnp.where(high != 0, lax.clz(high), np.int32(32) + lax.clz(low))


def _log2(value: Any, bits: Any) -> Any:
    dtype = value.dtype
    value = jnp.maximum(value, dtype.type(1))
    whole = dtype.type(dtype.itemsize * 8 - 1) - _leading_zeros(value).astype(dtype)
    rest = value ^ (jnp.ones_like(value) << whole)
    rest = (rest << jnp.maximum(bits - whole, 0)) >> jnp.maximum(whole - bits, 0)
    return (whole << bits) + rest


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "neg": lambda x: -x,
    "max": jnp.maximum,
    "min": jnp.minimum,
    "abs": jnp.abs,
    "sign": lambda x: (x > 0).astype(x.dtype) - (x < 0).astype(x.dtype),
    "div": lambda x, y: lax.div(*jnp.broadcast_arrays(x, _divisor(y))),
    "rem": lambda x, y: lax.rem(*jnp.broadcast_arrays(x, _divisor(y))),
    "floordiv": lambda x, y: _floor_divide(*jnp.broadcast_arrays(x, _divisor(y))),
    "and": lambda x, y: x & y,
    "or": lambda x, y: x | y,
    "xor": lambda x, y: x ^ y,
    "not": lambda x: ~x,
    "select": lambda condition, no, yes: jnp.where(condition, yes, no),
    "shl": _shift_left,
    "shr": _shift_right,
    "clz": lambda x: lax.clz(x.astype(np.int64)).astype(x.dtype),
    "log2": _log2,
    "int": lambda x: x.astype(np.int32),
    "wrap32": lambda x: x.astype(np.int32).astype(x.dtype),
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
}
"""Operation -> the same on arrays of one width."""


def _call(choice: Choice, read: Read, params: Any) -> Array:
    """Calls the function for every request."""
    names = sorted(choice.reads)
    # Of empty places a field may be 0; a loop that doubles an estimate would never end.
    least = {"estimate": 1, "prompt": 1, "output": 1, "lower": 1, "upper": 1, "memory": 1}
    values = jnp.broadcast_arrays(
        *(jnp.maximum(read(name), least.get(name, 0)).astype(jnp.int64) for name in names)
    )
    wide = jax.tree.map(
        lambda leaf: leaf.astype(jnp.int64) if jnp.issubdtype(leaf.dtype, np.integer) else leaf,
        params,
    )

    def one(*fields: Array) -> Array:
        record = View(**{**_NOTHING, **dict(zip(names, fields, strict=True))}, params=wide)
        return jnp.asarray(choice.function(record), jnp.int64)

    for _ in range(np.ndim(values[0]) if values else 0):
        one = jax.vmap(one)
    return one(*values)


_NOTHING = dict.fromkeys(("prompt", "output", "lower", "upper", "point", "arrival", "memory"))
