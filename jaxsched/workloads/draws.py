"""Random numbers of workloads: integers from JAX, everything after that on the host.

Threefry bits are integers and so the same on every device; they become float64 uniforms in numpy,
where the rest of a workload is computed. Nothing random runs in a device's floating point.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxsched.workloads.checks import whole


def lane_keys(key: jax.Array, lanes: int, first_lane: int = 0) -> jax.Array:
    """One key per lane, which depends on the lane's index and not on how many lanes there are.

    Args:
      key: One threefry key, `jax.random.key(seed)`.
      lanes: Number of lanes, L.
      first_lane: Index of the first of them, at least 0, so that a batch can be drawn in chunks.

    Returns:
      Keys of shape [L].

    Raises:
      TypeError: If `key` is not a threefry key, or a number is no integer.
      ValueError: If `key` is not a single key, or `lanes` or `first_lane` is out of range.
    """
    _check_key(key)
    if key.shape != ():
        raise ValueError(f"key: got keys of shape {list(key.shape)}; expected a single key")
    first, end = whole("first_lane", first_lane, 0), first_lane + whole("lanes", lanes)
    if end > 2**31:
        raise ValueError(f"first_lane + lanes is {end}; expected at most {2**31}")
    return _fold_lanes(key, np.arange(first, end, dtype=np.uint32))


def for_lanes(key: jax.Array, lanes: tuple[int, ...]) -> jax.Array:
    """Keys of shape `lanes`, from one key (folded with the lanes' indices) or from such keys."""
    _check_key(key)
    if key.shape == ():
        return lane_keys(key, math.prod(lanes)).reshape(lanes)
    if key.shape != lanes:
        raise ValueError(
            f"key: got keys of shape {list(key.shape)}; expected one key or keys of the lanes' "
            f"shape {list(lanes)}"
        )
    return key


def purpose(key: jax.Array, index: int) -> jax.Array:
    """Keys of the same shape for another purpose: each key folded with `index`."""
    _check_key(key)
    return _fold_purpose(key.reshape(-1), np.uint32(index)).reshape(key.shape)


def uniforms(key: jax.Array, shape: tuple[int, ...], stream: int = 0) -> np.ndarray:
    """Uniform numbers in (0, 1), the same on every device: u = (b + 1/2) / 2^32 for 32 bits b.

    Args:
      key: One key, or one per lane, of shape `shape[:-1]`.
      shape: Shape [..., n] of the result; the leading axes are lanes.
      stream: Which of the independent streams of the key to draw from.

    Returns:
      Host float64 array of the given shape. A lane's numbers depend on its key alone.

    Raises:
      TypeError: If `key` is not a threefry key.
      ValueError: If `shape` has no request axis, or keys and lanes do not match.
    """
    if len(shape) == 0 or min(shape) < 1:
        raise ValueError(f"shape: got {list(shape)}; expected [..., n] with every axis at least 1")
    keys = for_lanes(key, tuple(shape[:-1])).reshape(-1)
    bits = np.asarray(_bits(keys, np.uint32(stream), shape[-1]))
    return ((bits + 0.5) * 2.0**-32).reshape(shape)


def below(uniform: np.ndarray, end: np.ndarray | int) -> np.ndarray:
    """Uniform integers in 0 … end - 1 from uniform numbers in (0, 1): floor(u · end)."""
    return np.minimum(np.floor(uniform * end), np.asarray(end) - 1).astype(np.int64)


_fold_lanes = jax.jit(jax.vmap(jax.random.fold_in, (None, 0)))
_fold_purpose = jax.jit(jax.vmap(jax.random.fold_in, (0, None)))


@functools.partial(jax.jit, static_argnames="count")
def _bits(keys: jax.Array, stream: jax.Array, count: int) -> jax.Array:
    folded = jax.vmap(jax.random.fold_in, (0, None))(keys, stream)
    return jax.vmap(lambda key: jax.random.bits(key, (count,), jnp.uint32))(folded)


def _check_key(key: jax.Array) -> None:
    """Of all kinds of keys only threefry's bits are the same on every device."""
    expected = "expected a threefry key such as jax.random.key(0)"
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError(f"key: got {type(key).__name__}; {expected}")
    kind = str(jax.random.key_impl(key))
    if "threefry2x32" not in kind:
        raise TypeError(
            f"key: got a key of kind {kind}, whose bits differ between devices; {expected}"
        )
