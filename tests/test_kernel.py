"""The kernel for a GPU: exact where it is interpreted on a CPU, and compiled without a GPU."""

from __future__ import annotations

import dataclasses
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsched as js
from benchmarks.compile_for import on_device
from jaxsched.engines import xla as jax_engine
from jaxsched.testing import check_result
from jaxsched.testing.contract import TRIALS, draw
from tests.oracle import rule_for

SHAPE = jax.ShapeDtypeStruct((4, 200), jnp.int32)


# One backlog with an order of its own, arrivals with evictions under a cap, and up to four admitted
# in a step, in a kernel and in the loop that other accelerators run.
@pytest.mark.parametrize(
    ("name", "trial", "cap", "kernel", "slots"),
    [
        ("h_sf", 0, None, "interpret", (8, 40)),
        ("a_min:every_round", 1, 3, "interpret", (8, 40)),
        ("a_min:on_eviction", 0, 7, "interpret", (8, 40)),
        ("tuned:lmsys_one", 1, None, "interpret", (8, 40)),
        ("a_min:on_eviction", 0, None, "", (32, 128)),
        ("fcfs:watermark=0.125", 1, None, "", (32, 128)),
    ],
)
def test_equals_the_reference(name, trial, cap, kernel, slots):
    # So few of everything that lanes change kernels, fill buffers and take new instances.
    small = dict(kernel=kernel, slots=slots, chunk=16, buffer=16, pool=3, party=4, wide=not kernel)
    small["window"] = 0 if kernel else 24
    instance = draw(TRIALS[trial], random.Random(name), 8)
    result = js.simulate(instance, js.policy(name), max_batch=cap, engine="jax", plan=small)
    check_result(
        instance, jax.tree.map(np.asarray, result), rule_for(js.policy(name)), max_batch=cap
    )


def test_a_lane_waits_for_a_border_when_it_has_taken_all_that_is_at_hand():
    output = np.broadcast_to(np.arange(1, 101), (2, 100))
    ones, memory = np.ones_like(output), [30_000, 400]
    instance = js.Instance(prompt=ones, output=output, lower=ones, upper=output, memory=memory)
    plan = dict(wide=True, window=24, party=4)
    result = js.simulate(instance, js.a_max(), engine="jax", plan=plan)
    check_result(instance, jax.tree.map(np.asarray, result), rule_for(js.a_max()))


def lowered(policy, **options):
    """The program for a GPU, which need not be there."""

    def run(prompt, output, lower, upper, arrival):
        instance = js.Instance(
            prompt=prompt, output=output, lower=lower, upper=upper, point=lower, memory=4_000,
            arrival=arrival if options else None,
        )  # fmt: skip
        return js.simulate(instance, policy, engine="jax", **options).completion

    arrival = jax.ShapeDtypeStruct(SHAPE.shape, jnp.float32)
    with on_device("gpu"):
        traced = jax.jit(run).trace(*(SHAPE,) * 4, arrival)
        return traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.filterwarnings("error:Explicitly requested dtype")  # 64 bits would become 32
def test_lowers_for_a_gpu_without_one(monkeypatch):
    """The papers' worker and vLLM's, with a policy of one's own, arrivals, a clock and a cap."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    own = dataclasses.replace(
        js.a_min(), name="own", eviction_key=lambda r: r.generated * r.output // 7 - r.evictions
    )
    # One for each number of slots, 128 and 256.
    shipped = (js.policy(name) for name in ("tuned:lmsys_one", "mc_sf", "random_victim"))
    for policy in (js.a_min(), js.a_min_network(), *shipped):
        assert lowered(policy).count("@__gpu$xla.gpu.triton") == 2
    options = dict(clock=js.clocks.llama2_70b_2xa100(), max_batch=7)
    assert lowered(own, **options).count("@__gpu$xla.gpu.triton") == 2
    options["worker"] = js.workers.vllm()
    assert lowered(own, **options).count("@__gpu$xla.gpu.triton") == 2


@pytest.mark.parametrize(
    "wrong",
    [
        dict(pool=0), dict(turn=-1), dict(chunk=0), dict(scan=3), dict(buffer=0), dict(buffer=12),
        dict(party=3), dict(window=19), dict(kernel="tpu"), dict(slots=()), dict(slots=(8, 36)),
        dict(slots=(40, 8)), dict(slots=(8, 32)), dict(kernel="gpu", slots=(8, 40)),
        dict(runs=(8,)),
    ],
)  # fmt: skip
def test_sizes_that_lanes_cannot_do_with_are_refused(wrong):
    given = tuple((dict(chunk=16, scan=4, party=2) | wrong).items())
    with pytest.raises(ValueError, match=rf"plan: {list(wrong)[-1]} is .*; expected "):
        jax_engine.make_plan(40, 3, False, sizes=given)


@pytest.mark.parametrize("text", ["a_max", "best:hindsight"])
def test_a_plan_reaches_the_engine(text):
    instance = draw(TRIALS[0], random.Random(0), 8)
    with pytest.raises(
        ValueError, match=r"plan: slots is \(8,\); expected ascending multiples of 8"
    ):
        js.simulate(instance, js.policy(text), engine="jax", plan={"slots": [8]})


def test_plans_for_a_gpu_take_the_kernel_where_it_can_run():
    plan = jax_engine.make_plan(2_000, 9, False, backend="gpu")
    assert (plan.kernel, plan.slots[-1]) == ("gpu", 2_048)
    assert jax_engine.make_plan(2_000, 9, False, blocks=True, backend="gpu").kernel
    assert not jax_engine.make_plan(2_000, 9, False, whole=False, backend="gpu").kernel
    assert not jax_engine.make_plan(5_000, 9, False, backend="gpu").kernel
    assert not jax_engine.make_plan(2_000, 9, False, backend="cpu").kernel
