"""A policy's functions by themselves: what they give on random and on extreme requests."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxsched.engines.xla.choices import compute
from jaxsched.instance import MAX_ROUND
from jaxsched.policies import LARGEST, Policy, View
from jaxsched.policies.fixed_point import limited
from jaxsched.policies.program import Choices, PolicyError
from jaxsched.policies.view import KNOWN, VIEW_FIELDS

COUNT = 256
"""Random requests that the functions are called on."""

LEAST = {"quantum": 1, "headroom": 0}
"""Function -> the smallest value that means anything."""

_Values = dict[str, np.ndarray]


def check_choices(policy: Policy, seed: int = 0) -> None:
    """Calls a policy's functions on Python's integers and as engines compute them.

    Raises:
      AssertionError: If one breaks the contract of `Policy`; the text has its name and the value.
    """
    try:
        hash(policy.kind)
    except TypeError as error:
        raise AssertionError(f"policy {policy.name!r} cannot be hashed: {error}") from error
    try:
        choices = policy.choices
    except PolicyError as error:
        raise AssertionError(str(error)) from error
    faults = (
        *_unequal_functions(policy),
        *_wrong_values(policy, choices, np.random.default_rng(seed)),
    )
    for fault in faults:
        raise AssertionError(f"policy {policy.name!r}: {fault}")


def _unequal_functions(policy: Policy) -> Iterator[str]:
    for name, choice in vars(policy.kind).items():
        if inspect.isfunction(choice) and "<locals>" in choice.__qualname__:
            yield (
                f"{name} is defined inside {choice.__qualname__.split('.<locals>')[0]}; expected a "
                "function of a module, or two instances of the policy are not equal and compile "
                "twice"
            )


def _wrong_values(policy: Policy, choices: Choices, rng: np.random.Generator) -> Iterator[str]:
    fields = _random_values(rng)
    if policy.rank is not None:
        yield from _wrong_ranks(policy, fields)
    for name in KNOWN:
        function = getattr(policy, name)
        if name == "rank" or function is None:
            continue
        exact = [_exactly(policy, name, fields, i) for i in range(COUNT)]
        found = np.asarray(
            compute(
                choices,
                name,
                {key: jnp.asarray(value) for key, value in fields.items()}.__getitem__,
                jax.tree.map(jnp.asarray, limited(policy.params, policy.limit)),
            )
        )
        found = np.broadcast_to(found, (COUNT,))
        for i, (right, value) in enumerate(zip(exact, found.tolist(), strict=True)):
            seen = ", ".join(
                f"{field}={fields[field].reshape(-1)[i % fields[field].size]}"
                for field in KNOWN[name]
                if field in fields
            )
            if right < LEAST.get(name, -np.inf):
                yield f"{name} gives {right} for {seen}; expected at least {LEAST[name]}"
            if right != value:
                yield (
                    f"{name} gives {right} in Python's whole numbers and {value} in 64 bits for "
                    f"{seen}; expected results and steps below 2^63"
                )


def _exactly(policy: Policy, name: str, fields: _Values, i: int) -> int:
    """What the function says of a request on Python's integers."""
    record = {field: int(value[i] if value.ndim else value) for field, value in fields.items()}
    numbers = limited(policy.params, policy.limit)
    params = jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), numbers)
    with jax.enable_x64(True):
        try:
            return operator.index(getattr(policy, name)(View(**record, params=params)))
        except Exception as error:
            raise AssertionError(
                f"policy {policy.name!r}: {name} fails on Python's integers: "
                f"{type(error).__name__}: {error}"
            ) from error


def _wrong_ranks(policy: Policy, fields: _Values) -> Iterator[str]:
    """Of all requests, and of some of them with padding behind."""
    assert policy.rank is not None
    with jax.enable_x64(True):
        wide = {name: jnp.asarray(value, jnp.int64) for name, value in fields.items()}
        params = jax.tree.map(jnp.asarray, limited(policy.params, policy.limit))
        for many in (COUNT, COUNT // 2, 1):
            real = np.arange(COUNT) < many
            places = np.asarray(policy.rank(View(**wide, params=params), jnp.asarray(real)))[:many]
            if sorted(places.tolist()) != list(range(many)):
                odd = [p for p in places.tolist() if not 0 <= p < many] or places.tolist()
                yield (
                    f"rank gives {odd[0]} among the places of {many} requests; expected each of 0 "
                    f"to {many - 1} once"
                )


def _random_values(rng: np.random.Generator) -> _Values:
    """Lengths of one to a million tokens, tokens generated, rounds; a few as large as may be."""
    lengths = np.exp(rng.uniform(0, np.log(10**6), (7, COUNT))).astype(np.int32)
    lengths[:, 0] = 1
    prompt, output, one, other, point, tokens, estimate = lengths
    lower, upper = np.minimum(one, other), np.maximum(one, other)
    upper[1:3] = point[1:3] = estimate[1:3] = LARGEST
    arrival, admitted = rng.integers(0, MAX_ROUND, (2, COUNT), dtype=np.int32)
    values = {
        "prompt": prompt, "output": output, "lower": lower, "upper": upper, "point": point,
        "arrival": arrival, "memory": np.asarray(2 * 10**6, np.int32),
        "rank": rng.permutation(COUNT).astype(np.int32),
        "evictions": rng.integers(0, 9, COUNT, dtype=np.int32), "estimate": estimate,
        "generated": tokens, "admitted": admitted,
    }  # fmt: skip
    return {name: values[name] for name in VIEW_FIELDS}
