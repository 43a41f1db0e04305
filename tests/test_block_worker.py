"""The worker of a serving engine, in the engines, against the reference: everything of `Result`."""

from __future__ import annotations

import random
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsched as js
from jaxsched.instance import MAX_ROUND
from jaxsched.policies import Policy, View
from jaxsched.simulate import _native_works
from jaxsched.testing import (
    KINDS,
    as_arrays,
    check_result,
    in_whole_blocks,
    random_requests,
    random_worker,
)
from jaxsched.workers import Worker
from tests import oracle
from tests.test_clock import random_clock

WIDTH, LANES = 40, 42

ENGINES = ["jax", *(["native"] if _native_works() else [])]


def root(r: View) -> Any:
    """Has no program, so it runs on JAX alone: a length in floating point."""
    return jnp.sqrt(jnp.asarray(r.lower * r.upper, jnp.float64)).astype(jnp.int64)


def halfway(r: View) -> Any:
    return (r.lower + r.upper) // 2


def least_done(r: View) -> Any:
    """Moves in every round, and reads nearly all there is."""
    return 3 * r.generated - r.admitted + 5 * r.evictions + r.prompt % 3


def a_third(r: View) -> Any:
    return r.memory // 3 + r.generated


def slice_of(r: View) -> Any:
    return r.estimate // 2 + r.evictions


OWN = Policy(
    "own", estimate=halfway, admission_key=least_done.__class__ and halfway, eviction_key=least_done,
    headroom=a_third, quantum=slice_of, evict_largest=True,
)  # fmt: skip
