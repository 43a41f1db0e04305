"""Shapes of code that decide how well XLA compiles a step: plain, and as the engine has it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.scale import Scale
from benchmarks.section import Job, Row, Section
from benchmarks.timing import interleave
from jaxsched.engines.xla.fold import lowest, put
from jaxsched.engines.xla.inputs import sorted_pairs

LANES, SLOTS, KEYS, TIMES = 16, 256, 2048, 1000

Body = Callable[[jax.Array, jax.Array], jax.Array]


def _jobs(scale: Scale) -> list[Job]:
    rng = np.random.default_rng(0)
    slots = rng.integers(0, 1000, (LANES, SLOTS), np.int32)
    keys = rng.integers(0, 1000, (LANES, KEYS), np.int32)
    cases: tuple[tuple[str, Body, Body, np.ndarray, int], ...] = (
        ("masked minimum over the slots", _minimum, _folded_minimum, slots, TIMES),
        ("one new value in the slots, carried", _masked, _scattered, slots, TIMES),
        ("sorting (key, index) pairs", _two_operands, _packed, keys, 1),
    )
    return [Job(case[0], functools.partial(_compare, scale, *case)) for case in cases]


def _compare(
    scale: Scale, what: str, plain: Body, tuned: Body, values: np.ndarray, times: int
) -> list[Row]:
    runs = {}
    for name, body in (("plain", plain), ("tuned", tuned)):
        program = jax.jit(functools.partial(_repeat, body, times))
        runs[name] = functools.partial(_run, program, jnp.asarray(values))
    found = interleave(runs, max(5, scale.repeats), scale.seconds)
    plain_us, tuned_us = (1e6 * found[name].median / times / LANES for name in runs)
    shape = f"{LANES} × {values.shape[1]:,}"
    row = {"what": what, "shape": shape, "plain_us": plain_us, "tuned_us": tuned_us}
    return [row | {"ratio": plain_us / tuned_us}]


def _run(program: Callable[[jax.Array], jax.Array], values: jax.Array) -> jax.Array:
    return jax.block_until_ready(program(values))


def _repeat(body: Body, times: int, values: jax.Array) -> jax.Array:
    """Applies the body so often, each time to what it made before."""
    if times == 1:
        return jax.vmap(body)(values, jnp.arange(LANES, dtype=np.int32))

    def once(i: jax.Array, values: jax.Array) -> jax.Array:
        return jax.vmap(body, in_axes=(0, None))(values, i)

    return lax.fori_loop(0, np.int32(times), once, values)


def _minimum(values: jax.Array, i: jax.Array) -> jax.Array:
    return put(values, i >= 0, i % SLOTS, jnp.min(jnp.where(values > i % 100, values, 2**30)))


def _folded_minimum(values: jax.Array, i: jax.Array) -> jax.Array:
    return put(values, i >= 0, i % SLOTS, lowest(jnp.where(values > i % 100, values, 2**30)))


def _masked(values: jax.Array, i: jax.Array) -> jax.Array:
    return jnp.where(lax.iota(np.int32, SLOTS) == i % SLOTS, i, values)


def _scattered(values: jax.Array, i: jax.Array) -> jax.Array:
    return put(values, i >= 0, i % SLOTS, i)


def _two_operands(keys: jax.Array, i: jax.Array) -> jax.Array:
    return lax.sort((keys, lax.iota(np.int32, KEYS)), num_keys=1, is_stable=True)[1]


def _packed(keys: jax.Array, i: jax.Array) -> jax.Array:
    return sorted_pairs(keys, None)[1]


TRICKS = Section(
    name="tricks",
    title="Shapes of code",
    note="Time per lane of one such operation inside a loop, one device; the sort outside.",
    columns={
        "what": ("what", "s"),
        "shape": ("lanes × elements", "s"),
        "plain_us": ("plain, µs per lane", ".3f"),
        "tuned_us": ("as in the engine", ".3f"),
        "ratio": ("faster by", ".1f"),
    },
    jobs=_jobs,
)
