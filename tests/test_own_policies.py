"""A user's own policies: the same in every engine, in either style, and on the command line."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import random
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxsched as js
from jaxsched import workloads
from jaxsched.cli import main
from jaxsched.engines.soft import soft_simulate, uniform_timeline
from jaxsched.machine.optional import can_import
from jaxsched.policies.arithmetic import least, log2, most, over, shift, where
from jaxsched.studies import store
from jaxsched.testing import KINDS, check_result, contract, random_requests

ROUNDS = 150
"""Where simulations are cut off: nothing here promises to end."""

NATIVE = ["native"] if can_import("jaxsched.engines.cpu") else []

# ---- the same functions in plain arithmetic and helpers, and in jax.numpy


def blend(r: Any) -> Any:
    return over(3 * r.lower + r.upper, 4)


def blend_np(r: Any) -> Any:
    return (3 * r.lower + r.upper) // 4


def short_and_small(r: Any) -> Any:
    return r.params["prompt"] * r.prompt + log2(r.estimate, 8) - shift(r.arrival, 2)


def short_and_small_np(r: Any) -> Any:
    return r.params["prompt"] * r.prompt + log2(r.estimate, 8) - jnp.right_shift(r.arrival, 2)


def wide_or_old(r: Any) -> Any:
    """Reads all there is; 64 bits."""
    wide = where(r.upper - r.lower > r.params["gaps"][0], 8 * r.upper, r.lower)
    return wide + r.params["gaps"][1] * r.generated - r.admitted - 3 * r.arrival + r.evictions


def wide_or_old_np(r: Any) -> Any:
    gaps = jnp.asarray(r.params["gaps"])
    wide = jnp.where(r.upper - r.lower > gaps[0], 8 * r.upper, r.lower)
    rest = jnp.stack([gaps[1] * r.generated, jnp.asarray(-r.admitted - 3 * r.arrival)])
    return wide + jnp.sum(rest) + r.evictions


def turn(r: Any) -> Any:
    """Known when a request enters, but not before."""
    return 2 * r.admitted - r.arrival + 5 * r.evictions + least(r.upper, 40) - r.params["prompt"]


def turn_np(r: Any) -> Any:
    return (
        2 * r.admitted - r.arrival + 5 * r.evictions + jnp.minimum(r.upper, 40)
        - r.params["prompt"]
    )  # fmt: skip


def standing(r: Any) -> Any:
    """Known while it waits."""
    return shift(r.lower + r.upper, 1) + r.params["gaps"][0] * r.evictions


def standing_np(r: Any) -> Any:
    return (r.lower + r.upper >> 1) + r.params["gaps"][0] * r.evictions


def grown(r: Any) -> Any:
    return most(r.estimate, r.generated) + over(r.generated, 2) + r.evictions


def grown_np(r: Any) -> Any:
    return jnp.maximum(r.estimate, r.generated) + r.generated // 2 + r.evictions


def share(r: Any) -> Any:
    return where(r.prompt > 2, over(r.memory * r.params["prompt"], 64), 1)


def share_np(r: Any) -> Any:
    return jnp.where(r.prompt > 2, r.memory * r.params["prompt"] // 64, 1)


def patience(r: Any) -> Any:
    return 4 + r.params["prompt"] + least(r.estimate, 50) + 2 * r.evictions


def patience_np(r: Any) -> Any:
    return 4 + r.params["prompt"] + jnp.clip(r.estimate, 1, 50) + 2 * r.evictions


def by_prompt(r: Any, real: Any) -> Any:
    """Long prompts first; padding behind."""
    key = jnp.where(real, -r.prompt * r.params["prompt"] - r.upper, 2**40)
    return jnp.argsort(jnp.argsort(key, stable=True))


def place(r: Any) -> Any:
    return r.rank


def place_and_progress(r: Any) -> Any:
    return r.rank + r.params["prompt"] * r.generated


PARAMS = {"gaps": np.array([4, -2], np.int32), "prompt": np.int32(3)}
OTHERS = [PARAMS, {"gaps": np.array([0, 9], np.int32), "prompt": np.int32(0)},
          {"gaps": np.array([-7, 0], np.int32), "prompt": np.int32(-5)}]  # fmt: skip

PLAIN = {
    "moving": js.Policy(
        "moving", blend, short_and_small, eviction_key=wide_or_old, refine=grown, limit=10,
        params=PARAMS,
    ),
    "entering": js.Policy(
        "entering", blend, short_and_small, eviction_key=turn, evict_largest=True, headroom=share,
        limit=10, params=PARAMS,
    ),
    "standing": js.Policy(
        "standing", blend, eviction_key=standing, refine=grown, quantum=patience, params=PARAMS,
    ),
    "ranked": js.Policy(
        "ranked", blend, place, eviction_key=place_and_progress, rank=by_prompt, headroom=share,
        quantum=patience, limit=10, params=PARAMS,
    ),
}  # fmt: skip

IN_JAX = {
    blend: blend_np, short_and_small: short_and_small_np, wide_or_old: wide_or_old_np,
    turn: turn_np, standing: standing_np, grown: grown_np, share: share_np, patience: patience_np,
}  # fmt: skip


def in_jax_numpy(policy: js.Policy) -> js.Policy:
    """The same policy in the other style."""
    parts = {field.name: getattr(policy, field.name) for field in dataclasses.fields(policy)}
    known = {k: IN_JAX[part] for k, part in parts.items() if callable(part) and part in IN_JAX}
    return dataclasses.replace(policy, **known)


def batch(seed: int, arrivals: bool, lanes: int = 28) -> js.Instance:
    return contract.draw(contract.Trial("", arrivals, ROUNDS), random.Random(seed), lanes)


def figures(result: js.Result) -> list[np.ndarray]:
    names = ("completion", "first_token", "preemptions", "evictions", "peak_memory", "rounds",
             "status", "total_latency", "wasted_tokens", "memory_time")  # fmt: skip
    return [np.asarray(getattr(result, name)) for name in names]


def expect_same(found: js.Result, right: js.Result) -> None:
    for one, other in zip(figures(found), figures(right), strict=True):
        np.testing.assert_array_equal(one, other)


def concrete(result: js.Result) -> js.Result:
    return jax.tree.map(np.asarray, result)


# ---- one policy, every engine


@pytest.mark.parametrize("name", PLAIN)
def test_every_engine_and_either_style(name: str) -> None:
    policy, other = PLAIN[name], in_jax_numpy(PLAIN[name])
    instance = batch(1, arrivals=policy.rank is None)
    run = functools.partial(js.simulate, instance, max_rounds=ROUNDS)
    right = concrete(run(policy, engine="jax"))
    check_result(instance, right, policy, max_rounds=ROUNDS)
    assert right.evictions.sum() > 20 and (right.status == 0).sum() > 5
    for engine in NATIVE:
        expect_same(run(policy, engine=engine), right)
        expect_same(run(other, engine=engine), right)
    few = jax.tree.map(lambda leaf: leaf[:6], instance)
    check_result(few, jax.tree.map(lambda leaf: leaf[:6], right), other, max_rounds=ROUNDS)


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        *((name, engine) for name in PLAIN for engine in NATIVE),
        ("moving", "jax"),
        ("ranked", "jax"),
    ],
)
def test_numbers_as_lanes(name: str, engine: str) -> None:
    """`vmap` over the numbers inside `jit`, in the style of jax.numpy, and each alone."""
    policy = in_jax_numpy(PLAIN[name])
    instance = batch(2, arrivals=policy.rank is None, lanes=14)

    def run(params: Any) -> js.Result:
        numbered = dataclasses.replace(policy, params=params)
        return js.simulate(instance, numbered, max_rounds=ROUNDS, engine=engine)

    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *OTHERS)
    found = jax.jit(jax.vmap(run))(together)
    for i, params in enumerate(OTHERS):
        alone = concrete(jax.tree.map(lambda leaf: leaf[i], found))  # noqa: B023 - called at once
        numbered = dataclasses.replace(PLAIN[name], params=params)
        check_result(instance, alone, numbered, max_rounds=ROUNDS)
    if engine == "native":
        expect_same(jax.jit(run)(PARAMS), jax.tree.map(lambda leaf: leaf[0], found))


def test_limit_is_where_numbers_end() -> None:
    """What is larger counts as the limit."""
    instance, over_it = batch(3, arrivals=True), {**PARAMS, "prompt": np.int32(2**31 - 1)}
    policy = PLAIN["entering"]
    at_it = {**PARAMS, "prompt": np.int32(10)}
    for engine in ("jax", *NATIVE):
        found, right = (
            js.simulate(
                instance, dataclasses.replace(policy, params=params), max_rounds=ROUNDS,
                engine=engine,
            )
            for params in (over_it, at_it)
        )  # fmt: skip
        expect_same(found, right)


# ---- under a clock


CLOCK = js.Clock(fixed=0.01, per_prompt_token=1e-3, per_request=1e-4, per_cache_token=1e-5)


def live(seed: int, lanes: int = 14) -> js.Instance:
    """With arrivals in seconds, some rounds long."""
    rng, kinds = random.Random(seed), [kind for kind in KINDS if kind != "late_arrivals"]
    drawn = [random_requests(rng, kinds[i % len(kinds)]) for i in range(lanes)]
    instance = contract.batch(drawn, arrivals=True)
    return instance.replace(arrival=np.minimum(instance.arrival, 400) * 0.013)


@pytest.mark.parametrize("name", [name for name in PLAIN if PLAIN[name].rank is None])
def test_under_a_clock(name: str) -> None:
    instance, policy = live(4), PLAIN[name]
    engines = [*NATIVE, "jax"] if name == "moving" else NATIVE or ["jax"]
    for engine in engines:
        result = concrete(
            js.simulate(instance, policy, clock=CLOCK, max_rounds=ROUNDS, engine=engine)
        )
        assert result.evictions.sum() > 5
        check_result(instance, result, policy, max_rounds=ROUNDS, clock=CLOCK)


# ---- the relaxation


def tokens_of_a_request(r: Any) -> Any:
    return r.estimate + r.params["prompt"] * r.prompt - over(r.arrival, 8)


def progress(r: Any) -> Any:
    wide = where(r.upper - r.lower > r.params["gap"], r.params["wide"] * r.upper, r.lower)
    return most(wide, r.generated) - shift(r.admitted, 3) + r.arrival + 2 * r.evictions


def stretched(r: Any) -> Any:
    return over(r.estimate * shift(r.params["wide"], -1), 2)


SOFT = js.Policy(
    "soft", blend, tokens_of_a_request, reserve=stretched, eviction_key=progress,
    params={"prompt": np.int32(1), "gap": np.int32(20), "wide": np.int32(1)},
)  # fmt: skip


@pytest.fixture(scope="module")
def backlog() -> js.Instance:
    drawn = workloads.make(
        jax.random.key(1), lengths=workloads.lengths.independent((1, 60), (1, 120)),
        intervals=workloads.intervals.relative(0.5), n=16, memory=np.full(3, 400), lanes=3,
    )  # fmt: skip
    rounds = np.sort(np.random.default_rng(0).integers(0, 60, (3, 16), dtype=np.int32))
    return drawn.replace(arrival=rounds, num_requests=np.full(3, 16))


def test_the_relaxation_runs_it_and_tends_to_simulate(backlog: js.Instance) -> None:
    right = js.simulate(backlog, SOFT)
    assert right.evictions.sum() > 0 and np.all(right.status == 0)
    end = int(right.rounds.max()) + 100
    timeline = uniform_timeline(np.full(3, end), end, margin=1.0)

    def latency(params: Any, temperature: Any) -> Any:
        soft = soft_simulate(backlog, params, temperature, timeline, policy=SOFT)
        return jnp.sum(soft.mean_latency), soft

    run = jax.jit(
        jax.value_and_grad(latency, has_aux=True),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    errors = []
    with jax.enable_x64(True):
        params = jax.tree.map(np.float64, SOFT.params)
        for temperature in (1.0, 1e-6):
            (_, soft), gradient = run(params, jnp.float64(temperature))
            found = np.asarray(soft.mean_latency)
            errors.append(np.abs(found / right.mean_latency - 1).mean())
            assert np.all(np.isfinite(found))
            if temperature == 1.0:
                assert all(np.isfinite(x) for x in gradient.values())
                assert gradient["prompt"] != 0 and gradient["wide"] != 0
    assert errors[1] < 0.05 and errors[1] < errors[0], errors


def test_helpers_take_a_number_of_the_policy_as_their_second_argument() -> None:
    """In the relaxation it is a float, and the first a whole number."""
    for bits in (0.0, 3.0, -2.0):
        np.testing.assert_allclose(jax.jit(lambda x: shift(1024, x))(bits), 1024 / 2**bits)
    np.testing.assert_allclose(jax.jit(lambda x: over(10, x))(4.0), 2.5)
    assert jax.grad(lambda x: shift(8, x))(1.0) < 0


# ---- what cannot be compiled to machine code


def in_floats(r: Any) -> Any:
    return jnp.floor(jnp.asarray(r.lower, jnp.float64) * 1.5 + 0.25).astype(jnp.int64)


def doubled_in_a_loop(r: Any) -> Any:
    """The first power of 2 times the estimate that is more than what was generated, within 2^10."""

    def body(_: Any, tokens: Any) -> Any:
        return jnp.where(tokens <= r.generated, 2 * tokens, tokens)

    return lax.fori_loop(0, 10, body, jnp.asarray(r.estimate, jnp.int64))


def doubled_while(r: Any) -> Any:
    """Ends for every number: the JAX engine asks for places where nobody is as well."""

    def short(tokens: Any) -> Any:
        return tokens <= r.generated

    start = jnp.maximum(jnp.asarray(r.estimate, jnp.int64), 1)
    return lax.while_loop(short, lambda tokens: 2 * tokens, start)


def middle(r: Any) -> Any:
    return r.estimate + jnp.sort(jnp.asarray(r.params, jnp.int64))[1] * r.prompt


UNKNOWN = {
    "floats": (js.Policy("in floats", in_floats), "estimate computes in float64"),
    "fori_loop": (js.Policy("in a loop", blend, refine=doubled_in_a_loop), "refine uses "),
    "while_loop": (js.Policy("while", blend, refine=doubled_while), "refine uses while"),
    "sort": (
        js.Policy("sorts", blend, eviction_key=middle, params=np.array([9, -3, 2], np.int32)),
        "eviction_key uses sort",
    ),
}


@pytest.mark.skipif(jax.default_backend() != "cpu" or not NATIVE, reason="auto is jax anyway")
@pytest.mark.parametrize("name", UNKNOWN)
def test_what_has_no_program_runs_in_jax(name: str) -> None:
    policy, why = UNKNOWN[name]
    instance = batch(5, arrivals=True, lanes=14)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = [js.simulate(instance, policy, max_rounds=ROUNDS) for _ in range(2)]
    (text,) = {str(warning.message) for warning in caught}
    assert len(caught) == 1 and text.startswith(f"policy {policy.name!r} runs on the JAX engine: ")
    assert why in text and caught[0].filename == __file__
    check_result(instance, concrete(results[0]), policy, max_rounds=ROUNDS)
    with pytest.raises(ValueError, match=f'engine "native" cannot compile .*{why}.*"jax"'):
        js.simulate(instance, policy, engine="native")


# ---- integers of 64 bits


@pytest.mark.parametrize("engine", ["jax", *NATIVE])
def test_totals_are_pairs_inside_jit_only(engine: str) -> None:
    """8 requests of 2^27 - 1 rounds one after another: totals of more than 32 bits."""
    length, prompt = np.full(8, 2**27 - 1, np.int32), np.ones(8, np.int32)
    instance = js.Instance(prompt=prompt, output=length, lower=length, upper=length, memory=2**27)
    policy, seen = js.Policy("blend", blend), []

    def run(instance: js.Instance) -> tuple[js.Result, Any, Any]:
        result = js.simulate(instance, policy, engine=engine)
        seen.append((result.totals.dtype, result.totals.shape))
        return result, result.total_latency, result.memory_time

    outside, *_ = run(instance)
    inside, latency, memory_time = concrete(jax.jit(run)(instance))
    assert seen == [(np.int64, (3,)), (np.uint32, (3, 2))]
    assert outside.total_latency == inside.total_latency == latency == 36 * (2**27 - 1)
    assert outside.memory_time == inside.memory_time == memory_time > 2**54
    assert outside.total_latency.dtype == np.int64


# ---- on the command line


MINE = """
import jaxsched as js
from jaxsched.policies.arithmetic import over


def halfway(r):
    return over(r.lower + r.upper, 2)


careful = js.Policy("careful", estimate=halfway, reserve=lambda r: r.upper)
"""

TRACE = """\
arrived_at,num_prefill_tokens,num_decode_tokens
0.0,2,4
0.0,1,6
0.0,3,2
0.0,1,3
"""

CONFIG = """
lanes = 2
num_requests = [20]
policies = ["h_sf"]
predictions = ["relative:0.9"]
"""

COMMANDS = {
    "simulate": ("trace.csv", TRACE, "--memory", "9", "--interval", "relative:0.9"),
    "run": (
        "run.toml",
        f'{CONFIG}memory = 300\n[lengths]\nsource = "sharegpt"\nmax_output = 99\nmax_total = 300\n',
    ),
    "sweep": (
        "sweep.toml",
        f'{CONFIG}memory = [300]\nworkloads = ["sharegpt,max_output:99,max_total:300"]\n',
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_policies_of_a_file_on_the_command_line(
    command: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    name, text, *options = COMMANDS[command]
    Path(name).write_text(text)
    Path("mine.py").write_text(MINE)
    names = ["a_max", "mine.py:halfway", "mine.py:careful"]

    def run(out: str) -> int:
        chosen = ["--policies", ",".join(names), "--out", out]
        return main([command, name, *options, *chosen])

    assert run("out") == 0
    rows, metadata = store.read_parquet(Path("out/results.parquet"))
    assert sorted(rows["policy"].unique()) == sorted(names)
    line = f"# mine.py: sha256 {hashlib.sha256(MINE.encode()).hexdigest()}"
    assert line in metadata["config"].splitlines()
    assert line in json.loads(Path("out/manifest.json").read_text())["config"].splitlines()
    assert run("out") == 0, "again, from what is kept"

    # What is kept does not stand for another file of the same name.
    changed = MINE.replace("over(r.lower + r.upper, 2)", "1").replace("r.upper", "5 + 0 * r.upper")
    Path("mine.py").write_text(changed)
    capsys.readouterr()
    assert run("out") == 1
    error = capsys.readouterr().err
    assert "holds results of another configuration" in error and f"-{line}" in error
    assert run("new") == 0
    new, metadata = store.read_parquet(Path("new/results.parquet"))
    assert hashlib.sha256(changed.encode()).hexdigest() in metadata["config"]
    latency = [
        frame.groupby("policy")["mean_latency"].mean()[names].tolist() for frame in (rows, new)
    ]
    assert latency[0][0] == latency[1][0] and latency[0][1] != latency[1][1], latency
