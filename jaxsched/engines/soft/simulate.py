"""`soft_simulate`: a simulation that can be differentiated."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxsched.arrays import Pytree
from jaxsched.engines.soft.step import SoftLane, State, advance
from jaxsched.engines.soft.threshold import SAVED
from jaxsched.engines.soft.timeline import Timeline
from jaxsched.instance import REQUEST_FIELDS, Instance, check_shapes
from jaxsched.policies import Policy, View, family, network

KEY_STEP = 1 / 2
"""Keys are whole numbers in the other engines; what settles ties stays below a step of them."""

AT_ONCE = 8
"""Lanes whose arrays a core's cache holds, and that are enough to be worth a pass."""

A_MIN_FAMILY = family.a_min_family()
"""The policy whose params are a `FamilyParams`."""


class SoftResult(Pytree):
    """What the relaxation found; leading axes are lanes.

    Attributes:
      latency: Mean over the shares of each request of completion minus arrival, in rounds, of shape
        [..., n]; 0 for padding. What the timeline cut off counts as completed at its end.
      unfinished: Mass of the requests that the timeline cut off, of shape [...].
      evictions: Mass evicted, of shape [...].
      num_requests: Requests of each lane, of shape [...].
    """

    latency: Array
    unfinished: Array
    evictions: Array
    num_requests: Array

    @property
    def total_latency(self) -> Array:
        """Sum over the requests, of shape [...]."""
        return jnp.sum(self.latency, axis=-1)

    @property
    def mean_latency(self) -> Array:
        """Total latency over the number of requests, of shape [...]."""
        return self.total_latency / jnp.maximum(self.num_requests, 1)


def soft_simulate(
    instance: Instance,
    params: Any,
    temperature: Any,
    timeline: Timeline,
    *,
    policy: Policy = A_MIN_FAMILY,
    exact_gradient: bool = False,
) -> SoftResult:
    """Simulates a scheduler softly, differentiable in `params` (see docs/relaxation.md).

    Requests are taken in shares: sigmoid((threshold - key) / temperature), with keys in standard
    deviations of those that wait (or run), and the threshold where memory is full by the look-ahead
    test. As the temperature falls and every round is a step, it tends to `simulate`. Works under
    `jax.jit`, `jax.grad` and `jax.vmap`; computes in float64 if `jax_enable_x64` is on.

    Args:
      instance: Instances of lane shape [...]. Values are not checked, `simulate` does that.
      params: Numbers of the policy, without lane axes, in floats: a `FamilyParams` or a
        `NetworkParams` for these, else as the policy's functions read them.
      temperature: Larger than 0; between 0.1 and 1 gradients are of use.
      timeline: The steps, of the instance's lane shape. From `exact_timeline`, the decisions are
        those of an exact simulation and only their derivatives are soft (straight-through).
      policy: What the scheduler decides: its functions are called on floats, where nothing is
        rounded (see `jaxsched.policies.arithmetic`); its own `params` are not looked at.
      exact_gradient: Whether the gradient is exactly that of the soft latency, which is chaotic
        on long instances. Without, it is damped in two places: progress does not move the round
        in which memory is freed, and who is admitted displaces no more memory than was freed.

    Returns:
      A `SoftResult`.

    Raises:
      TypeError: If a field of the instance does not hold integers.
      ValueError: If a shape is wrong, or the policy has an order of all requests, quanta or
        headroom, for which there is no relaxation.
    """
    _check_policy(policy)
    check_shapes(instance, needs_point=False)
    lanes, n = instance.lanes, instance.n
    if jnp.shape(timeline.start)[:-1] != lanes:
        raise ValueError(
            f"timeline has lanes {jnp.shape(timeline.start)[:-1]}; expected {lanes} as the instance"
        )
    dtype = jnp.result_type(float)
    params = _numbers(jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params))
    # What its functions read is found with numbers of the given structure, not with its own.
    placeholders = jax.tree.map(lambda leaf: np.zeros(np.shape(leaf), np.int32), params)
    policy = dataclasses.replace(policy, params=placeholders)
    temperature = jnp.asarray(temperature, dtype)
    count = n if instance.num_requests is None else instance.num_requests
    fields = {
        name: jnp.zeros((*lanes, n), dtype) if value is None else jnp.asarray(value, dtype)
        for name in REQUEST_FIELDS
        for value in [getattr(instance, name)]
    }
    fields |= {
        "memory": jnp.broadcast_to(jnp.asarray(instance.memory, dtype), lanes),
        "count": jnp.broadcast_to(jnp.asarray(count, dtype), lanes),
    }
    steps = timeline.replace(
        start=jnp.asarray(timeline.start, dtype), length=jnp.asarray(timeline.length, dtype)
    )

    def one(fields: dict[str, Array], steps: Timeline) -> SoftResult:
        lane = _lane(fields, params, temperature, policy, exact_gradient)
        return _result(lane, _scan(lane, steps), steps, fields["count"])

    return _side_by_side(one, lanes, fields, steps)


def _side_by_side(one: Callable[..., Any], lanes: tuple[int, ...], *of: Any) -> Any:
    """A function of a lane for all of them; on a CPU for so many at once as its cache holds."""
    count = math.prod(lanes)
    few = next((size for size in range(AT_ONCE, 1, -1) if count % size == 0), count)
    if jax.default_backend() != "cpu" or count <= AT_ONCE or 2 * few < AT_ONCE:
        for _ in lanes:
            one = jax.vmap(one)
        return one(*of)
    flat = jax.tree.map(lambda leaf: leaf.reshape(count, *leaf.shape[len(lanes) :]), of)
    found = lax.map(lambda each: one(*each), flat, batch_size=few)
    return jax.tree.map(lambda leaf: leaf.reshape(*lanes, *leaf.shape[1:]), found)


def _check_policy(policy: Policy) -> None:
    for name in ("rank", "quantum", "headroom"):
        if getattr(policy, name) is not None:
            raise ValueError(f"policy {policy.name!r} has a {name}; soft_simulate knows none")


def _numbers(params: Any) -> Any:
    """What the functions of the policy read, not rounded."""
    if isinstance(params, family.FamilyParams):
        return family.unrounded(params)
    if isinstance(params, network.NetworkParams):
        return network.unrounded(params)
    return params


def _lane(
    fields: dict[str, Array],
    params: Any,
    temperature: Array,
    policy: Policy,
    exact_gradient: bool,
) -> SoftLane:
    names = {name: fields[name] for name in REQUEST_FIELDS}
    prompt = fields["prompt"]
    n, dtype = prompt.shape[0], prompt.dtype
    place = np.arange(n, dtype=dtype)
    zero = jnp.zeros_like(prompt)
    view = View(memory=fields["memory"], params=params, evictions=zero, **names)
    return SoftLane(
        view=view,
        real=jnp.asarray(place) < fields["count"],
        tie=jnp.asarray(KEY_STEP * place / n, dtype),
        policy=policy,
        temperature=temperature,
        exact_gradient=exact_gradient,
    )


def _scan(lane: SoftLane, steps: Timeline) -> State:
    """All steps; of each the state before it is kept, and its thresholds."""
    zero = jnp.zeros_like(lane.view.prompt)
    estimate = zero + lane.policy.estimate(lane.view)
    evicted = zero if "evictions" in lane.policy.reads else None
    state = State(
        waiting=lane.real.astype(zero.dtype),
        active=zero,
        tokens=zero,
        waiting_estimate=estimate,
        active_estimate=estimate,
        waiting_evictions=evicted,
        active_evictions=evicted,
        completion=zero,
        evictions=jnp.sum(zero),
        thresholds=jnp.zeros_like(zero, shape=2),
        fullest=jnp.zeros_like(zero, np.int32, shape=()),
    )
    keep = jax.checkpoint_policies.save_only_these_names(SAVED)

    def step(state: State, step: Timeline) -> tuple[State, None]:
        return advance(lane, state, step), None

    return lax.scan(jax.checkpoint(step, policy=keep, prevent_cse=False), state, steps)[0]


def _result(lane: SoftLane, state: State, steps: Timeline, count: Array) -> SoftResult:
    left = jnp.where(lane.real, state.waiting + state.active, 0.0)
    end = steps.start[-1] + steps.length[-1]
    total = state.completion + left * end
    return SoftResult(
        latency=jnp.where(lane.real, total - lane.view.arrival, 0.0),
        unfinished=jnp.sum(left),
        evictions=state.evictions,
        num_requests=count,
    )
