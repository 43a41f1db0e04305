"""A policy's functions by themselves: what they give, and what they may read."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxsched.instance import MAX_ROUND, REQUEST_FIELDS
from jaxsched.policies import Policy, Running, View

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
        hash(policy.kind)
    except TypeError as error:
        raise AssertionError(f"policy {policy.name!r} cannot be hashed: {error}") from error
    for fault in (*_unequal_functions(policy), *_wrong_values(policy, seed)):
        raise AssertionError(f"policy {policy.name!r}: {fault}")


def _unequal_functions(policy: Policy) -> Iterator[str]:
    for name, choice in vars(policy.kind).items():
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
    found |= _rank(policy, view, found["estimate"])
    again = _choices(policy, view, tokens[::-1], admitted[::-1])
    if policy.quantum is not None and (again["quantum"] != found["quantum"]).any():
        yield "quantum reads generated or admitted; expected it to stay the same during a run"
    if policy.shortest_first:
        for name in ("estimate", "admission_key", "reserve"):
            if (found[name] != view.output).any():
                yield f"shortest_first is set, but {name} is not the true output"
    may_read = {
        "output": ("hindsight", policy.hindsight),
        "point": ("needs_point", policy.needs_point),
    }
    for field, (flag, given) in may_read.items():
        other = dataclasses.replace(view, **{field: getattr(view, field)[::-1]})
        again = found if given else _choices(policy, other, tokens, admitted)
        again = again | _rank(policy, other, again["estimate"])
        for name, value in found.items():
            if (again[name] != value).any():
                yield f"{name} reads {field}, which only a policy with {flag}=True may"


def _choices(policy: Policy, view: View, tokens: np.ndarray, admitted: np.ndarray) -> Values:
    """All that the policy says of some requests."""
    seen = _as_jax(policy, view)
    estimate = jnp.asarray(_right_form(policy, "estimate", policy.estimate(seen), tokens.shape))
    numbers = (jnp.asarray(tokens), jnp.asarray(admitted), seen.memory, seen.params)
    running = Running(seen.prompt, *numbers)
    found = {
        "estimate": estimate,
        "admission_key": policy.admission_key(estimate, seen),
        "reserve": policy.reserve(estimate, seen),
        "eviction_key": policy.eviction_key(estimate, running),
        "refine": policy.refine(estimate, running),
    }
    if policy.quantum is not None:
        found["quantum"] = policy.quantum(estimate, running)
    return {name: _right_form(policy, name, value, tokens.shape) for name, value in found.items()}


def _rank(policy: Policy, view: View, estimate: np.ndarray) -> Values:
    """What it says of all requests at once, if anything."""
    if policy.rank is None:
        return {}
    real = jnp.ones(estimate.shape, bool)
    value = policy.rank(jnp.asarray(estimate), _as_jax(policy, view), real)
    return {"rank": _right_form(policy, "rank", value, estimate.shape)}


def _as_jax(policy: Policy, view: View) -> View:
    params = jax.tree.map(jnp.asarray, policy.params)
    fields = {name: jnp.asarray(value) for name, value in vars(view).items() if name != "params"}
    return View(**fields, params=params)


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
    memory = np.asarray(2 * 10**6, np.int32)
    rank = rng.permutation(COUNT).astype(np.int32)
    view = View(prompt, output, lower, upper, point, arrival, rank, memory)
    return view, tokens, admitted


def _take(view: View, part: np.ndarray) -> View:
    per_request = {name: vars(view)[name][part] for name in (*REQUEST_FIELDS, "rank")}
    return dataclasses.replace(view, **per_request)
