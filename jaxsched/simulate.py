"""The one public way to run simulations."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxsched.engine import simulate_lanes
from jaxsched.instance import MAX_ROUND, Instance, canonical, check_instance, check_shapes, is_traced
from jaxsched.policies import Policy
from jaxsched.result import Result


def simulate(instance: Instance, policy: Policy, *, max_rounds: int = MAX_ROUND) -> Result:
    if is_traced(instance):
        check_shapes(instance, policy.needs_point)
    else:
        check_instance(instance, policy.needs_point)
    instance = canonical(instance)
    lanes = instance.lanes
    flat = jax.tree.map(lambda a: a.reshape((math.prod(lanes),) + a.shape[len(lanes):]), instance)
    res = _run(flat, jnp.int32(max_rounds), policy)
    return jax.tree.map(lambda a: a.reshape(lanes + a.shape[1:]), res)


@functools.partial(jax.jit, static_argnames="policy")
def _run(instance, max_rounds, policy):
    return simulate_lanes(instance, max_rounds, policy)
