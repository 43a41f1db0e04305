"""The cap on running requests: both engines against the reference."""

from __future__ import annotations

import random

import jax
import numpy as np
import pytest

import jaxsched as js
from jaxsched.engines import reference
from jaxsched.testing import KINDS, as_arrays, random_requests
from tests import oracle

ENGINES = ["jax", "native"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["h_sf", "a_min:on_eviction", "fcfs"])
def test_cap_equals_the_reference(name: str, engine: str) -> None:
    if engine == "native":
        pytest.importorskip("numba")
    rng = random.Random(5)
    drawn = [random_requests(rng, kind) for kind in KINDS for _ in range(8)]
    instance = js.Instance(**as_arrays(drawn))
    for cap in (1, 3):
        result = js.simulate(instance, js.policy(name), max_batch=cap, engine=engine)
        result = jax.tree.map(np.asarray, result)
        for lane, (requests, memory) in enumerate(drawn):
            right = reference.simulate(requests, memory, oracle.RULES[name], max_batch=cap)
            assert result.completion[lane][: len(requests)].tolist() == right.completion
            assert result.evictions[lane] == right.evictions
            assert result.peak_memory[lane] == right.peak_memory
            assert result.memory_time[lane] == right.memory_time


@pytest.mark.parametrize(
    ("cap", "error", "text"),
    [
        (0, ValueError, "max_batch is 0; expected 1 to"),
        (True, TypeError, "max_batch is True; expected an integer"),
        (2.0, TypeError, "max_batch is 2.0; expected an integer"),
    ],
)
def test_bad_caps_are_refused(cap: object, error: type[Exception], text: str) -> None:
    ones = np.ones(2, np.int32)
    instance = js.Instance(prompt=ones, output=ones, lower=ones, upper=ones, memory=9)
    with pytest.raises(error, match=text):
        js.simulate(instance, js.fcfs(), max_batch=cap)
