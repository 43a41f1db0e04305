"""A policy's functions by themselves: what they give, and what they may read."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from jaxsched.instance import MAX_ROUND
from jaxsched.policies import Policy, View

KEY_LIMIT = 2**31 - 1
"""Keys stay below this in absolute value: the engine marks empty places by the ends of int32."""

COUNT = 256
"""Random requests that the functions are called on."""

Values = dict[str, np.ndarray]


def check_choices(policy: Policy, seed: int = 0) -> None:
    """Calls a policy's functions on random values: shapes, dtypes, ranges, and what they read.

    Raises:
      AssertionError: If one breaks the contract of `Policy`.
    """
    try:
        hash(policy)
    except TypeError as error:
        raise AssertionError(f"policy {policy.name!r} cannot be hashed: {error}") from error
    for fault in (*_unequal_functions(policy), *_wrong_values(policy, seed)):
        raise AssertionError(f"policy {policy.name!r}: {fault}")


def _unequal_functions(policy: Policy) -> Iterator[str]:
    for name, choice in vars(policy).items():
        if inspect.isfunction(choice) and "<locals>" in choice.__qualname__:
            yield (
                f"{name} is defined inside {choice.__qualname__.split('.<locals>')[0]}; expected a "
                "function of a module, or two instances of the policy are not equal and compile "
                "twice"
            )


def _wrong_values(policy: Policy, seed: int) -> Iterator[str]:
    view, tokens, admitted = _random_values(np.random.default_rng(seed))
    found = _choices(policy, view, tokens, admitted)
    for name in ("admission_key", "eviction_key"):
        if np.abs(found[name].astype(np.int64)).max() >= KEY_LIMIT:
            largest = found[name][np.abs(found[name].astype(np.int64)).argmax()]
            yield f"{name} gives {largest}; expected an absolute value below 2**31 - 1"
    for part in (np.arange(7), np.arange(COUNT).reshape(8, -1), np.array(5)):
        again = _choices(policy, _take(view, part), tokens[part], admitted[part])
        for name, value in again.items():
            if (value != found[name][part]).any():
                yield f"{name} of a request depends on the others beside it, or on their number"
    yield from _broken_promises(policy, view, tokens, admitted, found)


def _broken_promises(
    policy: Policy, view: View, tokens: np.ndarray, admitted: np.ndarray, found: Values
) -> Iterator[str]:
    """Exchanges what the policy may not read, which must change nothing."""
    if policy.hindsight:
        for name in ("estimate", "admission_key", "reserve"):
            if (found[name] != view.output).any():
                yield f"hindsight is set, but {name} is not the true output"
    may_read = {
        "output": ("hindsight", policy.hindsight),
        "point": ("needs_point", policy.needs_point),
    }
    for field, (flag, given) in may_read.items():
        other = dataclasses.replace(view, **{field: getattr(view, field)[::-1]})
        again = found if given else _choices(policy, other, tokens, admitted)
        for name, value in found.items():
            if (again[name] != value).any():
                yield f"{name} reads {field}, which only a policy with {flag}=True may"


def _choices(policy: Policy, view: View, tokens: np.ndarray, admitted: np.ndarray) -> Values:
    """All that the policy says of some requests."""
    seen = View(**{name: jnp.asarray(value) for name, value in vars(view).items()})
    estimate = jnp.asarray(_right_form(policy, "estimate", policy.estimate(seen), tokens.shape))
    generated, round_ = jnp.asarray(tokens), jnp.asarray(admitted)
    found = {
        "estimate": estimate,
        "admission_key": policy.admission_key(estimate, seen),
        "reserve": policy.reserve(estimate, seen),
        "eviction_key": policy.eviction_key(estimate, generated, round_),
        "refine": policy.refine(estimate, generated),
    }
    return {name: _right_form(policy, name, value, tokens.shape) for name, value in found.items()}


def _right_form(policy: Policy, name: str, value: object, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype != np.int32 or array.shape != shape:
        raise AssertionError(
            f"policy {policy.name!r}: {name} gives {array.dtype}{list(array.shape)} for requests "
            f"of shape {list(shape)}; expected int32{list(shape)}"
        )
    return array


def _random_values(rng: np.random.Generator) -> tuple[View, np.ndarray, np.ndarray]:
    """Lengths of one to a million tokens, tokens generated, and rounds of admission."""
    lengths = np.exp(rng.uniform(0, np.log(10**6), (6, COUNT))).astype(np.int32)
    prompt, output, one, other, point, tokens = lengths
    arrival, admitted = rng.integers(0, MAX_ROUND, (2, COUNT), dtype=np.int32)
    lower, upper = np.minimum(one, other), np.maximum(one, other)
    return View(prompt, output, lower, upper, point, arrival), tokens, admitted


def _take(view: View, part: np.ndarray) -> View:
    return View(**{name: value[part] for name, value in vars(view).items()})
