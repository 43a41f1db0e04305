"""Arithmetic that means the same for Python's whole numbers, for arrays of them, and for floats.

The functions of a policy are written with + - * and comparisons, and with what stands here. On
whole numbers everything is exact and rounds down, in every engine; on floats, in the relaxation,
nothing is rounded, so that it can be differentiated.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

LARGEST = 2**31 - 2
"""Largest key and estimate, for every policy; what is larger counts as this."""


def least(*values: Any) -> Any:
    """The smallest of the values."""
    if _plain(*values):
        return min(values)
    return functools.reduce(jnp.minimum, _alike(values))


def most(*values: Any) -> Any:
    """The largest of the values."""
    if _plain(*values):
        return max(values)
    return functools.reduce(jnp.maximum, _alike(values))


def where(condition: Any, yes: Any, no: Any) -> Any:
    """`yes` where the condition holds, else `no`."""
    if _plain(condition, yes, no):
        return yes if condition else no
    return jnp.where(condition, *_alike((yes, no)))


def chosen(condition: Any, yes: Callable[..., Any], no: Callable[..., Any], *of: Any) -> Any:
    """`yes(*of)` where the condition holds, else `no(*of)`.

    On floats, under a condition of shape [], only one of them is computed; both are to be of one
    shape and dtype.
    """
    if real(*of) and np.ndim(condition) == 0:
        return lax.cond(condition, yes, no, *of)
    return where(condition, yes(*of), no(*of))


def once(values: Any, number: jax.Array) -> Any:
    """The values, computed once; so is what a derivative brings back to them.

    For a CPU, XLA computes what leads to values again wherever they are used, hundreds of
    operations at a time. It leaves a branch whole, and does not know that there is a number
    (`lax.optimization_barrier` is gone by then).
    """
    if jax.default_backend() != "cpu":
        return values
    unknown = functools.partial(jax.tree.map, lambda value: jnp.full_like(value, np.nan))
    return lax.cond(jnp.abs(number) <= np.inf, lambda x: x, unknown, values)


def shift(value: Any, bits: Any) -> Any:
    """Value / 2^bits; `bits` may be negative."""
    if isinstance(value, int) and isinstance(bits, int):
        return value >> bits if bits >= 0 else value << -bits
    if real(value, bits):
        return value * 2.0**-bits
    if isinstance(bits, int):
        return value >> bits if bits >= 0 else value << -bits
    return (value << most(-bits, 0)) >> most(bits, 0)


def over(value: Any, by: Any) -> Any:
    """Value / by; of whole numbers, `by` is at least 1."""
    return value / by if real(value, by) else value // by


def memory_time(prompt: Any, tokens: Any) -> Any:
    """Token-rounds of KV cache of a request that generates `tokens`: s r + r (r + 1) / 2."""
    return prompt * tokens + shift(tokens * (tokens + 1), 1)


def log2(value: Any, bits: int) -> Any:
    """log2 of a value from 1 on in units of 2^-bits, linear between the powers of 2."""
    if _plain(value):
        whole = value.bit_length() - 1
        return (whole << bits) + shift(value - (1 << whole), whole - bits)
    if not real(value):
        return whole_log2(value, bits)
    value = jnp.maximum(value, 1.0)
    # The exponent as floats hold it, and 2 to minus that: a logarithm takes several times as long.
    kind = jnp.finfo(value.dtype)
    integer = np.dtype(f"int{kind.bits}")
    bias = integer.type(kind.maxexp - 1)
    exponent = lax.bitcast_convert_type(lax.stop_gradient(value), integer) >> kind.nmant
    scale = lax.bitcast_convert_type((2 * bias - exponent) << kind.nmant, value.dtype)
    return ((exponent - bias).astype(value.dtype) + value * scale - 1.0) * 2.0**bits


@jax.jit
def whole_log2(value: jax.Array, bits: Any) -> jax.Array:
    """`log2` of int64; a step of its own in what a policy is compiled from."""
    value = jnp.maximum(value, 1)
    whole = 63 - lax.clz(value)
    rest = (value ^ (jnp.ones_like(value) << whole)) << jnp.maximum(bits - whole, 0)
    return (whole << bits) + (rest >> jnp.maximum(whole - bits, 0))


def stretch(value: Any, octaves: Any) -> Any:
    """Value 2^octaves; octaves in units of 1/1024, up to ±16, linear between whole ones."""
    octaves = most(-(2**14), least(octaves, 2**14))
    if real(value, octaves):
        whole = lax.stop_gradient(jnp.floor(octaves / 1024))
        return value * (1 + octaves / 1024 - whole) * jnp.exp2(whole)
    whole = shift(octaves, 10)
    return shift(value * (1024 + octaves - 1024 * whole), 10 - whole)


def _plain(*values: Any) -> bool:
    """Whether all are whole numbers or truth values of Python."""
    return all(isinstance(value, int) for value in values)


def real(*values: Any) -> bool:
    """Whether any is in floating point."""
    return any(
        isinstance(value, float)
        or (hasattr(value, "dtype") and jnp.issubdtype(value.dtype, np.floating))
        for value in values
    )


def _alike(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values, Python's whole numbers as floats if others are: 32 bits may not hold them."""
    if not real(*values):
        return values
    return tuple(float(value) if isinstance(value, int) else value for value in values)
