"""How long a round lasts and what energy it takes: the formulas, in exact picoseconds."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

TICKS_PER_SECOND = 10**12
"""Time is counted in whole picoseconds."""

LONGEST_ROUND = 2.0**61 / TICKS_PER_SECOND
"""Seconds (27 days) that a round of a full worker must stay below, so that 64 bits suffice."""

Kind = TypeVar("Kind")


def coefficients(kind: type[Kind]) -> type[Kind]:
    """Makes a dataclass of numbers a JAX pytree, so that a batch can be given of some alone.

    Beside a coefficient of shape [B] the plain numbers are leaves of that shape too, views of one
    number: `jax.vmap` can split them. What comes back as such a view is the one number again.
    """
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]

    def flatten(value: Kind) -> tuple[list[Any], None]:
        given = [getattr(value, name) for name in names]
        shape = max((x.shape for x in given if hasattr(x, "shape")), key=len, default=())
        plain = (isinstance(x, numbers.Real) and shape != () for x in given)
        pairs = zip(given, plain, strict=True)
        return [np.broadcast_to(x, shape) if alone else x for x, alone in pairs], None

    def unflatten(_: None, leaves: Sequence[Any]) -> Kind:
        made = object.__new__(kind)
        for name, leaf in zip(names, leaves, strict=True):
            one = isinstance(leaf, np.ndarray) and leaf.ndim and not any(leaf.strides)
            object.__setattr__(made, name, leaf.flat[0].item() if one else leaf)
        return made

    jax.tree_util.register_pytree_node(kind, flatten, unflatten)
    return kind


def round_ticks(ticks: Any, prompts: Any, requests: Any, cache_tokens: Any) -> Any:
    """How long a round lasts, in whole picoseconds: the one place where the formula stands.

    `Ticks` and P, D, K of the round are Python's integers, or int64 arrays of numpy or JAX, which
    broadcast; a `Clock` in place of `Ticks` gives seconds, in floating point.
    """
    tokens = prompts + requests - ticks.free_tokens
    if isinstance(tokens, jax.Array):
        beyond = jnp.maximum(tokens, jnp.zeros_like(tokens))
    else:
        beyond = tokens * (tokens > 0)
    return (
        ticks.fixed
        + ticks.per_prompt_token * prompts
        + ticks.per_request * requests
        + ticks.per_cache_token * cache_tokens
        + ticks.per_token_beyond * beyond
    )


@coefficients
@dataclasses.dataclass(frozen=True)
class Clock:
    """The coefficients of a round's duration, in seconds; a JAX pytree whose leaves are traced.

    Numbers of Python or numpy are exact to the picosecond. An argument of the caller's `jax.jit` or
    `jax.vmap` is float32 unless `jax_enable_x64` is on, so its coefficients are rounded to 24 bits.

    Attributes:
      fixed: Seconds of every round.
      per_prompt_token: Seconds for each prompt token admitted in the round.
      per_request: Seconds for each active request.
      per_cache_token: Seconds for each token of KV cache in use.
      per_token_beyond: Seconds for each token processed in the round (a prompt's, or the one
        that an active request generates) beyond the free ones.
      free_tokens: Tokens that a round processes before `per_token_beyond` counts.
    """

    fixed: Any = 0.0
    per_prompt_token: Any = 0.0
    per_request: Any = 0.0
    per_cache_token: Any = 0.0
    per_token_beyond: Any = 0.0
    free_tokens: Any = 0

    def seconds(self, prompt_tokens: Any, requests: Any, cache_tokens: Any) -> Any:
        """Seconds that a round lasts, in floating point; arguments and result of one shape."""
        return round_ticks(self, prompt_tokens, requests, cache_tokens)


class Ticks(NamedTuple):
    """A `Clock` in whole picoseconds (and tokens): int64, numpy's or under `jit` JAX's."""

    fixed: Any
    per_prompt_token: Any
    per_request: Any
    per_cache_token: Any
    per_token_beyond: Any
    free_tokens: Any


def ticks(clock: Clock) -> Ticks:
    """Rounds the coefficients of a clock to whole picoseconds, each by rint(x·10^12).

    Concrete values must have passed `check_clock`. Of traced ones, those that `valid_clock` would
    refuse are clipped to what 64 bits can hold.
    """
    traced = is_traced(clock)
    scales = dict.fromkeys(Ticks._fields, TICKS_PER_SECOND) | {"free_tokens": 1}
    return Ticks(*(_whole(getattr(clock, name), scale, traced) for name, scale in scales.items()))


def to_ticks(seconds: Any) -> Any:
    """Times in seconds as whole picoseconds, rint(x·10^12): int64 of the same shape.

    Numpy's for concrete times, JAX's for traced ones (exact to 24 bits if they are float32).
    """
    return _whole(seconds, TICKS_PER_SECOND, isinstance(seconds, jax.core.Tracer))


def _whole(value: Any, scale: int, traced: bool) -> Any:
    """Nearest whole number to value·scale within what no sum of two overflows; NaN becomes 0."""
    array, limit = (jnp if traced else np), np.float64(2.0**62)
    with jax.enable_x64(True):
        wide = array.asarray(value).astype(np.float64) * np.float64(scale)
        return array.rint(array.clip(array.nan_to_num(wide), -limit, limit)).astype(np.int64)


def is_traced(clock: Clock) -> bool:
    """Whether any coefficient is an abstract value inside someone's `jit` or `vmap`."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(clock))


def check_clock(clock: Any, memory: int) -> None:
    """Refuses a clock that cannot be simulated on workers of at most `memory` tokens.

    Raises:
      TypeError: If it is no `Clock`, or a coefficient is no number.
      ValueError: If a coefficient is negative or not finite, `free_tokens` is not whole, rounds
        take no time, or one of a full worker could last 27 days.
    """
    if not isinstance(clock, Clock):
        expected = "a Clock such as jaxsched.clocks.llama2_70b_2xa100()"
        raise TypeError(f"clock is {clock!r}; expected {expected}")
    for name in Ticks._fields:
        _check_coefficient(name, getattr(clock, name))
    if clock.free_tokens != int(clock.free_tokens):
        raise ValueError(f"clock: free_tokens is {clock.free_tokens}; expected a whole number")
    least = ticks(clock)
    if least.fixed + least.per_request + least.per_cache_token < 1:
        raise ValueError(
            "clock: fixed + per_request + per_cache_token is 0; expected at least 1e-12 seconds, "
            "or time would stand still"
        )
    if (longest := float(_longest(clock, memory))) >= LONGEST_ROUND:
        raise ValueError(
            f"clock: a round at memory = {memory} could last {longest:.3g} s; expected less than "
            f"{LONGEST_ROUND:.0f} s"
        )


def valid_clock(clock: Clock, memory: jax.Array) -> jax.Array:
    """The checks of `check_clock` for traced coefficients: a mask of `memory`'s shape."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(jnp.float64), clock)
        leaves = jnp.stack(jax.tree.leaves(wide))
        good = jnp.all(jnp.isfinite(leaves) & (leaves >= 0))
        least = ticks(clock)
        good &= least.fixed + least.per_request + least.per_cache_token >= 1
        good &= wide.free_tokens == jnp.rint(wide.free_tokens)
        return good & (_longest(wide, memory.astype(jnp.float64)) < LONGEST_ROUND)


def _longest(clock: Clock, memory: Any) -> Any:
    """Seconds that no round is longer than: neither P + D nor K is ever above the memory."""
    per_token = clock.per_prompt_token + clock.per_request + clock.per_cache_token
    return clock.fixed + (per_token + clock.per_token_beyond) * memory


def _check_coefficient(name: str, value: Any) -> None:
    if np.shape(value) != ():
        raise ValueError(
            f"clock: {name} has shape {list(np.shape(value))}; expected one number (use jax.vmap)"
        )
    if isinstance(value, (jax.Array, np.ndarray)):
        value = np.asarray(value)[()]
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"clock: {name} is {value!r}; expected a number")
    if not 0 <= float(value) < math.inf:
        raise ValueError(f"clock: {name} is {value}; expected a finite number of at least 0")


@coefficients
@dataclasses.dataclass(frozen=True)
class Energy:
    """Joules of a round, fixed + per_prompt_token·P + per_request·D + per_cache_token·K.

    Energy of the GPU boards only, of busy rounds only: nothing is known of an idle worker.

    Attributes:
      fixed: Joules of every round.
      per_prompt_token: Joules for each prompt token admitted in the round.
      per_request: Joules for each active request.
      per_cache_token: Joules for each token of KV cache in use.
    """

    fixed: Any = 0.0
    per_prompt_token: Any = 0.0
    per_request: Any = 0.0
    per_cache_token: Any = 0.0

    def joules(self, rounds: Any, prompt_tokens: Any, requests: Any, cache_tokens: Any) -> Any:
        """Joules of several rounds, from the sums of P, D and K over them; arrays of one shape."""
        return (
            self.fixed * rounds
            + self.per_prompt_token * prompt_tokens
            + self.per_request * requests
            + self.per_cache_token * cache_tokens
        )
