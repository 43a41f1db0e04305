"""Derivatives do not lie, and integers are integers outside jit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsched as js

INSTANCE = js.Instance(prompt=[2, 1], output=[4, 6], lower=[2, 5], upper=[6, 7], memory=9)


def of_clock(x):
    return js.simulate(INSTANCE, js.a_min(), clock=js.Clock(fixed=x))


def of_arrival(x):
    arrival = jnp.stack([x, 2 * x])
    clock = js.Clock(fixed=0.1)
    return js.simulate(INSTANCE.replace(arrival=arrival), js.a_min(), clock=clock)


def of_family(x):
    return js.simulate(INSTANCE, js.a_min_family(js.FamilyParams(start=x)))


def of_watermark(x):
    return js.simulate(INSTANCE, js.fcfs(watermark=x))


def of_own_policy(x):
    return js.simulate(INSTANCE, js.Policy("shifted", lambda r: r.lower + r.params, params=x))


@pytest.mark.parametrize("run", [of_clock, of_arrival, of_family, of_watermark, of_own_policy])
def test_a_derivative_is_refused(run):
    with pytest.raises(TypeError, match="soft_simulate"):
        jax.grad(lambda x: run(x).mean_latency)(0.5)


@pytest.mark.parametrize("engine", ["jax", "auto"])
def test_integers_are_whole_outside_jit(engine):
    def run():
        return js.simulate(INSTANCE, js.a_min(), clock=js.Clock(fixed=0.1), engine=engine)

    out = run()
    assert (out.totals.dtype, out.times.dtype) == (np.int64, np.int64)
    assert (out.totals.shape, out.times.shape) == ((3,), (2, 3))
