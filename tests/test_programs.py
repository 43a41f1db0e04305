"""What policies compute: random expressions are equal on Python's integers, in JAX and in LLVM.

Python's integers have no limits, so they are right; `ranges` has to contain every value met.
"""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings

from jaxsched.engines.xla.choices import compute
from jaxsched.policies import LARGEST, Policy, View
from jaxsched.policies.arithmetic import least, log2, most, over, shift, stretch, where
from jaxsched.policies.program import Op, Program
from jaxsched.policies.ranges import FIELD_RANGES, NARROW, narrow, ranges, widest, widths
from jaxsched.policies.simplify import where_zero

LIMIT = 2**62
"""Where no step passes it, 64 bits are enough for everything."""

REQUESTS = 8
FIELDS = ("prompt", "lower", "upper", "arrival", "memory", "estimate", "evictions", "generated")
PARAMS = 3

# ---- expressions: a name and arguments, each a number, a field, a number of the policy, or again


ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "neg": operator.neg,
    "abs": abs,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "not": operator.invert,
    "least": least,
    "most": most,
    "over": lambda x, y: over(x, most(y, 1)),
    "floordiv": lambda x, y: x // where(y == 0, 1, y),
    "mod": lambda x, y: x % where(y == 0, 7, y),
    "shift": lambda x, y: shift(x, least(most(y, -12), 40)),
    "right": lambda x, y: x >> least(abs(y), 63),
    "shift by 3": lambda x: shift(x, 3),
    "shift by -5": lambda x: shift(x, -5),
    "left": lambda x: x << 7,
    "log2": lambda x: log2(most(x, 1), 10),
    "stretch": lambda x, y: stretch(x, y),
    "where <": lambda x, y, a, b: where(x < y, a, b),
    "where >= and !=": lambda x, y, a, b: where((x >= y) & (a != b), a, b),
    "where <= or ==": lambda x, y, a, b: where((x <= y) | (a == b), a, b),
    "where >": lambda x, y, a, b: where(x > y, a, b),
}
ARITY = {
    name: 1 if name in ("neg", "abs", "not", "shift by 3", "shift by -5", "left", "log2")
    else 4 if name.startswith("where") else 2
    for name in ARITHMETIC
}  # fmt: skip


def value(expression: Any, r: Any, note: Callable[[Any], Any] = lambda _: None) -> Any:
    """What an expression is for a record; `note` is called with the value of every part."""
    if isinstance(expression, int):
        found = expression
    elif isinstance(expression, str):
        found = getattr(r, expression)
    elif expression[0] == "param":
        found = r.params[expression[1]]
    else:
        parts = (value(part, r, note) for part in expression[1:])
        found = ARITHMETIC[expression[0]](*parts)
    note(found)
    return found


def _nodes(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.sampled_from(sorted(ARITHMETIC)).flatmap(
        lambda name: st.tuples(st.just(name), *[children] * ARITY[name])
    )


LEAVES = st.one_of(
    st.sampled_from(FIELDS),
    st.tuples(st.just("param"), st.integers(0, PARAMS - 1)),
    st.sampled_from((0, 1, 2, 3, -1, -5, 1000, 2**20, 2**31 - 1, -(2**31), 2**33)),
)
EXPRESSIONS = st.recursive(LEAVES, _nodes, max_leaves=10)


def _numbers(low: int, high: int) -> st.SearchStrategy[int]:
    small = st.integers(low, min(high, low + 2000))
    return st.one_of(small, st.integers(low, high), st.sampled_from((low, high)))


def _lists(low: float, high: float, size: int) -> st.SearchStrategy[list[int]]:
    return st.lists(_numbers(int(low), int(high)), min_size=size, max_size=size)


VALUES = st.fixed_dictionaries({name: _lists(*FIELD_RANGES[name], REQUESTS) for name in FIELDS})


# ---- the three ways to compute


def records(values: dict[str, list[int]], params: Any) -> list[View]:
    empty = dict.fromkeys(("output", "point"), 0)
    return [
        View(**empty, **{name: column[i] for name, column in values.items()}, params=params)
        for i in range(REQUESTS)
    ]


def in_jax(policy: Policy, name: str, values: dict[str, list[int]]) -> np.ndarray:
    columns = {name: jnp.asarray(np.asarray(column, np.int32)) for name, column in values.items()}
    params = jax.tree.map(jnp.asarray, policy.params)
    found = np.asarray(compute(policy.choices, name, columns.__getitem__, params))
    return np.broadcast_to(found, REQUESTS)


class InLLVM:
    """A program as a function of the machine, with every result of the given widths."""

    def __init__(self, program: Program, wide: list[int]) -> None:
        pytest.importorskip("numba")
        from llvmlite import ir

        from jaxsched.engines.cpu import code, kernels

        module = ir.Module("program")
        kind = ir.FunctionType(code.INT64, [code.INT64.as_pointer()])
        function = ir.Function(module, kind, "program")
        b = ir.IRBuilder(function.append_basic_block())

        def load(op: Op) -> ir.Value:
            place = op.data + len(FIELDS) if op.name == "param" else FIELDS.index(op.data)
            return b.load(b.gep(function.args[0], [code.INT32(place)]))

        found = code.compute(b, program, wide, load)
        b.ret(b.sext(found, code.INT64) if found.type != code.INT64 else found)
        self._engine = kernels._machine_code(module)
        address = self._engine.get_function_address("program")
        self._call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(address)

    def __call__(self, record: View) -> int:
        numbers = [getattr(record, name) for name in FIELDS] + list(record.params)
        return self._call(np.asarray(numbers, np.int64).ctypes.data)


def _divided(x: int, y: int) -> int:
    """Towards 0, as machines do."""
    return abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)


STEPS: dict[str, Callable[..., int]] = {
    **{name: getattr(operator, name)
       for name in ("add", "sub", "mul", "neg", "abs", "xor", "lt", "le", "gt", "ge", "eq", "ne")},
    "floordiv": operator.floordiv,
    "div": _divided,
    "rem": lambda x, y: x - y * _divided(x, y),
    "and": operator.and_,
    "or": operator.or_,
    "max": max,
    "min": min,
    "sign": lambda x: (x > 0) - (x < 0),
    "select": lambda condition, no, yes: yes if condition else no,
    "shl": lambda x, by: x << max(0, min(by, 63)),
    "shr": lambda x, by: x >> max(0, min(by, 63)),
    "log2": lambda x, bits: log2(max(x, 1), bits),
    "int": int,
}  # fmt: skip
"""Operation -> the same on Python's integers."""


def steps(program: Program, record: View) -> list[int]:
    """The result of every operation."""
    found: list[int] = []
    for op in program.ops:
        args = [found[arg] for arg in op.args]
        if op.name == "field":
            found.append(getattr(record, op.data))
        elif op.name == "param":
            found.append(record.params[op.data])
        elif op.name == "const":
            found.append(op.data)
        elif op.name == "not":
            found.append(not args[0] if op.boolean else ~args[0])
        else:
            found.append(STEPS[op.name](*args))
    return found


def policy_of(function: Callable[[Any], Any], params: Any, limit: int = LARGEST) -> Policy:
    numbers = np.asarray(params, np.int32)
    return Policy("x", estimate=lambda r: 1, refine=function, limit=limit, params=numbers)


def never_too_large(expression: Any, record: View) -> bool:
    sizes: list[int] = []
    value(expression, record, lambda found: sizes.append(abs(found)))
    return max(sizes) < LIMIT


# ---- the tests


def check(expression: Any, values: dict[str, list[int]], params: list[int], limit: int) -> int:
    """Compares the three on every request where no step is too large; says how many these are."""
    values = {**values, "memory": [values["memory"][0]] * REQUESTS}
    seen = records(values, params)
    if not any(never_too_large(expression, record) for record in seen):
        return 0
    policy = policy_of(lambda r: value(expression, r), params, limit)
    program = policy.choices.program("refine")
    assert program is not None
    bounds, wide = widest(program, limit), widths(program, limit)
    machine, in_arrays, checked = InLLVM(program, wide), in_jax(policy, "refine", values), 0
    for i, record in enumerate(seen):
        if not never_too_large(expression, record):
            continue
        right, met = value(expression, record), steps(program, record)
        assert met[-1] == right
        if max(map(abs, met)) >= LIMIT:
            continue
        for op, (low, high), bits, step in zip(program.ops, bounds, wide, met, strict=True):
            assert low <= step <= high, op
            assert bits == 64 or abs(step) <= NARROW, op
        assert (machine(record), in_arrays[i]) == (right, right)
        checked += 1
    return checked


@settings(max_examples=120)
@given(
    EXPRESSIONS, VALUES, _lists(-LARGEST, LARGEST, PARAMS), st.sampled_from((LARGEST, 2**20, 1000))
)
def test_random_expressions(
    expression: Any, values: dict[str, list[int]], params: list[int], limit: int
) -> None:
    assume(check(expression, values, [max(-limit, min(x, limit)) for x in params], limit))


@settings(max_examples=60)
@given(EXPRESSIONS, VALUES, _lists(-1000, 1000, PARAMS), st.sets(st.integers(0, PARAMS - 1)))
def test_what_is_left_where_numbers_are_0_gives_the_same(
    expression: Any, values: dict[str, list[int]], params: list[int], zeros: set[int]
) -> None:
    params = [0 if i in zeros else number for i, number in enumerate(params)]
    program = policy_of(lambda r: value(expression, r), params).choices.program("refine")
    assert program is not None
    rest = where_zero(program, tuple(zeros))
    assert len(rest.ops) <= len(program.ops)
    assert not any(op.name == "param" and op.data in zeros for op in rest.ops)
    for record in records(values, params):
        if never_too_large(expression, record):
            assert steps(rest, record)[-1] == steps(program, record)[-1]


@pytest.mark.parametrize("name", ARITHMETIC)
def test_every_operation(name: str) -> None:
    """On numbers of any size, in 32 bits and in 64, with an argument that is a number."""
    rng, checked = np.random.default_rng(len(name)), 0
    values = {
        field: np.exp2(rng.uniform(0, np.log2(FIELD_RANGES[field][1]), REQUESTS)).astype(int)
        for field in FIELDS
    }
    values["generated"][:4] = 0, 1, 33, 2**28
    values["upper"][:4] = LARGEST, 34, 1, 5
    small = ("sub", ("and", "upper", 63), ("and", "lower", 15))
    for arguments in (
        ("generated", small, "upper", "generated"),
        (("sub", "lower", "upper"), "generated", "upper", 5),
        (("neg", "upper"), ("param", 0), "lower", ("param", 1)),
        (("left", ("param", 2)), small, 2**31 - 1, -(2**31)),
        (("mul", "upper", ("param", 1)), small, ("left", "upper"), "prompt"),
        ("prompt", 3, 7, "arrival"),
    ):
        expression = (name, *arguments[: ARITY[name]])
        lists = {field: column.tolist() for field, column in values.items()}
        checked += check(expression, lists, [1000, -1000, 77], 1000)
    assert checked > 12


def test_log2_of_arrays() -> None:
    """As functions that have no program call it."""
    whole = [1, 2, 3, 1000, 2**20 - 1, 2**31 - 1, 2**31, 2**40 + 12345, 2**53 + 1, 2**62 - 1]
    for bits in (0, 1, 10, 24):
        with jax.enable_x64(True):
            found = log2(jnp.asarray(whole), bits)
        assert found.tolist() == [log2(x, bits) for x in whole]


@settings(max_examples=40)
@given(EXPRESSIONS, VALUES, _lists(-1000, 1000, PARAMS))
def test_random_expressions_all_in_32_bits_where_these_hold_them(
    expression: Any, values: dict[str, list[int]], params: list[int]
) -> None:
    """The second form of eviction keys, up to the estimate that `narrow_until` says."""
    kernels = pytest.importorskip("jaxsched.engines.cpu.kernels", exc_type=ImportError)
    values = {
        **values,
        "memory": [values["memory"][0]] * REQUESTS,
        "generated": [tokens % 1000 for tokens in values["generated"]],
        "prompt": [1 + prompt % 100 for prompt in values["prompt"]],
    }
    assume(never_too_large(expression, records(values, params)[0]))
    policy = policy_of(lambda r: value(expression, r), params)
    program = policy.choices.program("refine")
    memory, numbers = np.asarray(values["memory"][:1]), np.asarray([params], np.int64)
    (until,) = kernels.narrow_until(program, numbers, memory, 1000, 100).tolist()
    assume(until)
    values["estimate"] = [1 + estimate % until for estimate in values["estimate"]]
    values["estimate"][0] = until
    machine = InLLVM(program, [32] * len(program.ops))
    for record in records(values, params):
        assert max(map(abs, steps(program, record))) <= NARROW
        assert machine(record) == value(expression, record)


def written_in_jax(r: Any) -> Any:
    """What there is beside plain arithmetic."""
    numbers = jnp.asarray(r.params)
    known = jnp.stack([jnp.asarray(r.prompt), jnp.asarray(r.lower), jnp.asarray(r.upper)])
    both = jnp.logical_and(r.lower < r.upper, jnp.logical_not(r.prompt == r.estimate))
    return (
        jnp.sum(numbers * known)
        + jnp.max(known) ** 2
        - jnp.min(numbers[1:])
        + jnp.sign(r.prompt - r.estimate) * jnp.abs(r.generated - r.estimate)
        + jnp.clip(r.lower - r.prompt, -7, 7)
        + jnp.where(both, numbers[0], numbers[1:][1])
        + jnp.where(jnp.maximum(r.lower < 9, r.upper < 9), 100, 200)
        + jnp.where(jnp.minimum(r.lower < 9, r.upper < 9), 1000, 2000)
        + jnp.where((r.lower < 9) < (r.upper < 9), 10_000, 20_000)
        + jnp.where((r.lower < 9) >= (r.prompt < 9), 50_000, 60_000)
        + jnp.square(r.evictions)
        + jnp.remainder(r.prompt - r.upper, 13)
    )


@pytest.mark.parametrize("small", [True, False])
def test_what_is_written_in_jax_numpy(small: bool) -> None:
    rng = np.random.default_rng(0)
    most_of = {name: min(20 if small else 2**28, FIELD_RANGES[name][1]) for name in FIELDS}
    values = {name: rng.integers(1, high, REQUESTS).tolist() for name, high in most_of.items()}
    values["memory"] = [values["memory"][0]] * REQUESTS
    params = [3, -1000, 77]
    policy = policy_of(written_in_jax, params, 1000)
    program = policy.choices.program("refine")
    machine = InLLVM(program, widths(program, 1000))
    with jax.enable_x64(True):
        right = [int(written_in_jax(record)) for record in records(values, params)]
    assert [steps(program, record)[-1] for record in records(values, params)] == right
    assert in_jax(policy, "refine", values).tolist() == right
    assert [machine(record) for record in records(values, params)] == right


def unsigned(r: Any) -> Any:
    """-1 as an unsigned number is the largest of all."""
    return jnp.minimum(jnp.asarray(r.prompt - r.upper, jnp.uint64), 5).astype(jnp.int64)


def wraps_at_32_bits(r: Any) -> Any:
    return (jnp.asarray(r.prompt, jnp.int32) * jnp.int32(2**30)).astype(jnp.int64)


def counts_32_bits(r: Any) -> Any:
    return jax.lax.clz(jnp.asarray(r.prompt, jnp.int32)).astype(jnp.int64)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (unsigned, "computes in uint64, not in signed whole numbers"),
        (wraps_at_32_bits, "computes in int32, not in int64"),
        (counts_32_bits, "computes in int32, not in int64"),
    ],
)
def test_other_integers_are_not_taken_for_int64(function: Any, why: str) -> None:
    assert policy_of(function, []).choices.unknown == f"refine {why}"


@jax.jit
def floor_divide(x: Any, y: Any) -> Any:
    return x + 10 * y


def test_a_function_is_not_known_by_its_name_alone() -> None:
    policy = policy_of(lambda r: floor_divide(r.prompt, r.upper) + r.prompt // r.upper, [])
    names = [op.name for op in policy.choices.program("refine").ops]
    assert names.count("floordiv") == 1 and names.count("mul") == 1


# ---- ranges and widths


@pytest.mark.parametrize(
    ("bounds", "holds"),
    [
        ((-(2**31) + 1, 2**31 - 1), True),
        ((0, 2**31), False),
        ((-(2**31), 0), False),
        ((-(2.0**31) + 1, 5), True),
        ((2**31 - 1, 2**31 - 1), True),
    ],
)
def test_what_32_bits_hold(bounds: Any, holds: bool) -> None:
    assert bool(narrow(bounds)) == holds


@pytest.mark.parametrize(
    ("function", "bits"),
    [
        (lambda r: r.upper + 1, 32),
        (lambda r: r.upper + 2, 64),
        (lambda r: -r.upper - 1, 32),
        (lambda r: -r.upper - 2, 64),
        (lambda r: r.upper - r.lower, 32),
        (lambda r: r.upper + r.lower, 64),
        (lambda r: shift(r.prompt, -2), 32),
        (lambda r: r.prompt * 7, 32),
        (lambda r: r.prompt * 8, 64),
        (lambda r: over(r.prompt * 8, 2), 32),
        (lambda r: log2(r.upper, 26), 32),
        (lambda r: log2(r.upper, 27), 64),
        (lambda r: least(r.prompt * r.upper, 2**31 - 1), 32),
        (lambda r: r.upper - r.params[0], 64),
        (lambda r: abs(r.params[0] * 2**20), 32),
        (lambda r: r.params[0] * 2**22, 64),
        (lambda r: ~r.upper, 32),
    ],
)
def test_widths_at_the_ends_of_int32(function: Any, bits: int) -> None:
    limit = 1000
    program = policy_of(function, [0, 0, 0], limit).choices.program("refine")
    wide = widths(program, limit)
    assert wide[-1] == bits
    machine = InLLVM(program, wide)
    for number in (-limit, 0, limit):
        for which in (0, 1):
            ends = {name: [int(FIELD_RANGES[name][which])] * REQUESTS for name in FIELDS}
            (record, *_) = records(ends, [number, 0, 0])
            assert machine(record) == function(record) == steps(program, record)[-1]
            found = in_jax(policy_of(function, [number, 0, 0], limit), "refine", ends)
            assert found[0] == function(record)


def test_ranges_of_many_instances_at_once() -> None:
    """As `narrow_until` asks for them: arrays of bounds."""
    program = policy_of(lambda r: shift(r.prompt * r.params[0], 1), [0]).choices.program("refine")
    highest = np.asarray([1.0, 10.0, 100.0])
    known = {"field": (1.0, highest), "param": (np.asarray([[-3.0], [0.0]]), 5.0)}
    low, high = ranges(program, lambda op: known[op.name])[-1]
    np.testing.assert_array_equal(low, np.floor([[-1.5, -15, -150], [0, 0, 0]]))
    np.testing.assert_array_equal(np.broadcast_to(high, (2, 3)), [[2, 25, 250]] * 2)
