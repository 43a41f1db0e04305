"""What the functions of a policy compute, as a list of operations on whole numbers.

A function is called once, on a record that notes which fields are read and hands out numbers of
JAX. What JAX has seen (its jaxpr, on int64) becomes a `Program`: a few dozen operations on scalars,
which the engines turn into code of their own. A function that cannot be told so, because it uses
floats or arrays in a way that is not known here, still runs on the JAX engine.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsched.policies.arithmetic import whole_log2
from jaxsched.policies.view import KNOWN, VIEW_FIELDS

Places = np.ndarray
"""Places of operations in a program, in the shape of the array that they stand for."""


@dataclasses.dataclass(frozen=True)
class Op:
    """One operation."""

    name: str  # "field", "param" or "const", or an operation on earlier results
    args: tuple[int, ...] = ()  # places of these
    data: Any = None  # name of the field, place of the number among all of the policy, or value
    boolean: bool = False  # whether it gives a truth value


@dataclasses.dataclass(frozen=True)
class Program:
    """Operations, each after those that it uses, the last one giving the result."""

    ops: tuple[Op, ...]

    @property
    def is_field(self) -> str | None:
        """The field that it gives unchanged, if it is one."""
        return self.ops[-1].data if self.ops[-1].name == "field" else None


@dataclasses.dataclass(frozen=True)
class Choice:
    """A function of a policy, looked at."""

    function: Callable[[Any], Any]  # it
    # what it computes, or why that cannot be told in operations on whole numbers
    program: Program | str
    reads: frozenset[str]  # the fields of `View` that it reads


@dataclasses.dataclass(frozen=True, eq=False)
class Choices:
    """What engines need to know of a policy; `None` where it has no such function.

    There is one for all policies that differ in name and numbers only.

    Attributes:
      rank, evict_largest, limit: As of `Policy`.
      reads: Fields of `View` that any of them reads.
      unknown: Why a function has no program, with its name; `None` if all have one.
    """

    estimate: Choice
    admission_key: Choice
    reserve: Choice
    eviction_key: Choice
    refine: Choice
    headroom: Choice | None
    quantum: Choice | None
    rank: Callable[[Any, jax.Array], jax.Array] | None
    evict_largest: bool
    limit: int
    reads: frozenset[str]
    unknown: str | None

    def program(self, name: str) -> Program | None:
        """The program of a function, by name; `None` if there is no such function.

        Raises:
          ValueError: If it has none.
        """
        choice = getattr(self, name)
        if choice is not None and isinstance(choice.program, str):
            raise ValueError(f"{name} {choice.program}")
        return None if choice is None else choice.program

    @property
    def keys_move(self) -> bool:
        """Whether eviction keys change while a request runs."""
        return "generated" in self.eviction_key.reads

    @property
    def shortest_first(self) -> bool:
        """Whether the true output is the estimate, the order and the reservation."""
        return _same(self.estimate, "output") and all(
            _same(choice, "estimate") for choice in (self.admission_key, self.reserve)
        )


def _same(choice: Choice, field: str) -> bool:
    return isinstance(choice.program, Program) and choice.program.is_field == field


def choices_of(policy: Any) -> Choices:
    """Looks at the functions of a policy.

    Raises:
      PolicyError: If a function does not give one whole number, branches, or reads what it may not;
        the text names it.
    """
    leaves, structure = jax.tree.flatten(policy.params)
    shapes = tuple((np.shape(leaf), np.dtype(jnp.result_type(leaf))) for leaf in leaves)
    try:
        if any(dtype == np.bool_ for _, dtype in shapes):
            raise TypeError("params hold truth values; expected whole numbers, 0 and 1")
        return _choices(policy.kind, structure, shapes)
    except (AttributeError, TypeError, ValueError) as error:
        raise PolicyError(f"policy {policy.name!r}: {error}") from error


@functools.lru_cache(maxsize=512)
def _choices(policy: Any, structure: Any, shapes: tuple[Any, ...]) -> Choices:
    names = [name for name in KNOWN if name != "rank"]
    found = {
        name: None if function is None else _look_at(name, function, structure, shapes)
        for name in names
        for function in [getattr(policy, name)]
    }
    there = [choice for choice in found.values() if choice is not None]
    reads = frozenset().union(*(choice.reads for choice in there))
    if policy.rank is not None:
        reads |= _rank_reads(policy, structure, shapes)
    unknown = (
        f"{name} {choice.program}"
        for name, choice in found.items()
        if choice is not None and isinstance(choice.program, str)
    )
    floats = (f"params hold {dtype}" for _, dtype in shapes if dtype.kind not in "iu")
    return Choices(
        **found,
        rank=policy.rank,
        evict_largest=policy.evict_largest,
        limit=policy.limit,
        reads=reads,
        unknown=next(unknown, next(floats, None)),
    )


class Watched:
    """A `View` that notes what is read of it.

    Args:
      who: For errors.
      values: Field -> value.
      known: The fields that may be read.
    """

    def __init__(self, who: str, values: dict[str, Any], known: Sequence[str]) -> None:
        self._who, self._values, self._known = who, values, known
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._values:
            raise AttributeError(
                f"{self._who} reads {name!r}; expected one of {', '.join(self._known)}"
            )
        if name not in self._known:
            raise ValueError(
                f"{self._who} reads {name}, which is not fixed when it is asked; expected only "
                f"{', '.join(self._known)}"
            )
        self.read.add(name)
        return self._values[name]


def _look_at(
    who: str, function: Callable[[Any], Any], structure: Any, shapes: tuple[Any, ...]
) -> Choice:
    read, known = set[str](), KNOWN[who]
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise TypeError(f"{who}: {error}; expected a function of one record r") from error

    def on_leaves(values: dict[str, jax.Array], leaves: list[jax.Array]) -> jax.Array:
        record = Watched(who, {**values, "params": structure.unflatten(leaves)}, known)
        value = function(record)
        read.update(record.read)
        if not isinstance(value, (int, np.integer, jax.Array)) or isinstance(value, bool):
            raise TypeError(f"{who} gives {value!r}; expected a whole number")
        value = jnp.asarray(value)
        if value.shape != () or not jnp.issubdtype(value.dtype, np.integer):
            raise TypeError(
                f"{who} gives {value.dtype}{list(value.shape)}; expected one whole number (see "
                "`over` and `shift` in jaxsched.policies.arithmetic)"
            )
        return value

    with jax.enable_x64(True):
        whole = jax.ShapeDtypeStruct((), np.int64)
        leaves = [jax.ShapeDtypeStruct(shape, _wide(dtype)) for shape, dtype in shapes]
        try:
            jaxpr = jax.make_jaxpr(on_leaves)(dict.fromkeys(sorted(VIEW_FIELDS), whole), leaves)
        except jax.errors.TracerBoolConversionError as error:
            raise TypeError(
                f"{who} branches on what it reads; expected `where` of "
                "jaxsched.policies.arithmetic instead of if, and, or, min, max"
            ) from error
    try:
        program: Program | str = _translate(jaxpr, [shape for shape, _ in shapes])
    except _UnknownError as error:
        program = str(error)
    return Choice(function, program, frozenset(read - {"params"}))


def _wide(dtype: Any) -> Any:
    return np.int64 if np.issubdtype(dtype, np.integer) else dtype


def _rank_reads(policy: Any, structure: Any, shapes: tuple[Any, ...]) -> frozenset[str]:
    """What the order of all requests reads, beside the estimate."""
    read = set[str]()

    def on_leaves(values: dict[str, jax.Array], leaves: list[jax.Array]) -> jax.Array:
        params = structure.unflatten(leaves)
        record = Watched("rank", {**values, "params": params}, KNOWN["rank"])
        places = policy.rank(record, jnp.ones(3, bool))
        read.update(record.read)
        return places

    with jax.enable_x64(True):
        values = {name: jax.ShapeDtypeStruct((3,), np.int64) for name in VIEW_FIELDS}
        values["memory"] = jax.ShapeDtypeStruct((), np.int64)
        leaves = [jax.ShapeDtypeStruct(shape, _wide(dtype)) for shape, dtype in shapes]
        places = jax.eval_shape(on_leaves, values, leaves)
    if places.shape != (3,) or not jnp.issubdtype(places.dtype, np.integer):
        raise TypeError(
            f"rank gives {places.dtype}{list(places.shape)} for requests of shape [3]; expected "
            "whole numbers of that shape"
        )
    return frozenset(read - {"params"})


class PolicyError(TypeError, ValueError):
    """A function of a policy is not one: it branches, gives no whole number, or reads too much."""


class _UnknownError(Exception):
    """Says what is not known, as the end of a sentence that begins with a function's name."""


class ProgramBuilder:
    """Collects operations, each once."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self._places: dict[Op, int] = {}

    def add(self, name: str, *args: int, data: Any = None, boolean: bool = False) -> int:
        """Where the operation of these parts stands."""
        return self.put(Op(name, tuple(int(arg) for arg in args), data, boolean))

    def put(self, op: Op) -> int:
        """Where an operation stands; it is appended if it is new."""
        if op not in self._places:
            self._places[op] = len(self.ops)
            self.ops.append(op)
        return self._places[op]

    def constant(self, value: Any) -> Places:
        """Where the elements of a whole number or an array of them stand."""
        array = np.asarray(value)
        if array.dtype.kind not in "iub":
            raise _UnknownError(f"computes in {array.dtype}, not in whole numbers")
        boolean = array.dtype.kind == "b"
        places = [self.add("const", data=int(x), boolean=boolean) for x in array.ravel()]
        return np.array(places, object).reshape(array.shape)

    def program(self, result: int) -> Program:
        """Only what the result needs, in order."""
        needed, todo = set(), [result]
        while todo:
            place = todo.pop()
            if place not in needed:
                needed.add(place)
                todo.extend(self.ops[place].args)
        order = sorted(needed)
        new = {old: place for place, old in enumerate(order)}
        ops = (self.ops[place] for place in order)
        return Program(
            tuple(dataclasses.replace(op, args=tuple(new[a] for a in op.args)) for op in ops)
        )


def _translate(closed: Any, shapes: Sequence[tuple[int, ...]]) -> Program:
    build = ProgramBuilder()
    inputs: list[Places] = [
        np.array(build.add("field", data=name), object) for name in sorted(VIEW_FIELDS)
    ]
    first = 0
    for shape in shapes:
        places = range(first, first + int(np.prod(shape)))
        params = [build.add("param", data=place) for place in places]
        inputs.append(np.array(params, object).reshape(shape))
        first = places.stop
    (result,) = _run(build, closed.jaxpr, closed.consts, inputs)
    return build.program(int(result))


def _run(
    build: ProgramBuilder, jaxpr: Any, consts: Sequence[Any], inputs: list[Places]
) -> list[Places]:
    env = dict(zip(jaxpr.constvars, map(build.constant, consts), strict=True))
    env |= dict(zip(jaxpr.invars, inputs, strict=True))

    def read(var: Any) -> Places:
        return build.constant(var.val) if hasattr(var, "val") else env[var]

    for eqn in jaxpr.eqns:
        args = [read(var) for var in eqn.invars]
        found = _apply(build, eqn, args)
        for var, value in zip(eqn.outvars, found, strict=True):
            if np.shape(value) != var.aval.shape:
                value = np.broadcast_to(value, var.aval.shape)
            env[var] = value
    return [read(var) for var in jaxpr.outvars]


ELEMENTWISE = {
    "add": "add", "sub": "sub", "mul": "mul", "neg": "neg", "max": "max", "min": "min",
    "abs": "abs", "sign": "sign", "div": "div", "rem": "rem", "and": "and", "or": "or",
    "xor": "xor", "not": "not", "eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt",
    "ge": "ge", "shift_left": "shl", "shift_right_arithmetic": "shr", "clz": "clz",
}  # fmt: skip
"""Primitive of JAX -> operation."""

NAMED: dict[str, tuple[Callable[..., Any], str]] = {
    "floor_divide": (jnp.floor_divide, "floordiv"),
    "whole_log2": (whole_log2, "log2"),
}
"""Function of JAX -> operation, where its own steps would be slower or hide what is known."""

CALLS = ("jit", "closed_call", "custom_jvp_call", "custom_vjp_call")


def _apply(build: ProgramBuilder, eqn: Any, args: list[Places]) -> list[Places]:
    name, params = eqn.primitive.name, eqn.params
    for var in (*eqn.invars, *eqn.outvars):
        if var.aval.dtype.kind not in "ib":
            raise _UnknownError(f"computes in {var.aval.dtype}, not in signed whole numbers")
        short = var.aval.dtype.kind == "i" and var.aval.dtype.itemsize < 8
        if short and name not in ("convert_element_type", *CALLS, *MOVES):
            raise _UnknownError(f"computes in {var.aval.dtype}, not in int64")
    boolean = eqn.outvars[0].aval.dtype == np.bool_

    def each(op: str, *arrays: Places) -> Places:
        add = functools.partial(build.add, op, boolean=boolean)
        return np.asarray(np.frompyfunc(add, len(arrays), 1)(*arrays), object)

    if name in CALLS:
        if np.shape(args[0]) == () and (op := _named(params, eqn.invars)):
            return [each(op, *args)]
        return _run(build, *_inner(params), args)
    if name in ELEMENTWISE:
        return [each(ELEMENTWISE[name], *args)]
    if name == "select_n":
        if eqn.invars[0].aval.dtype != np.bool_ or len(args) != 3:
            raise _UnknownError("chooses among more than two values")
        return [each("select", *args)]
    if name == "integer_pow" and params["y"] >= 1:
        return [functools.reduce(lambda a, b: each("mul", a, b), [args[0]] * params["y"])]
    if name == "square":
        return [each("mul", args[0], args[0])]
    if name == "clamp":
        return [each("min", each("max", args[1], args[0]), args[2])]
    if name == "convert_element_type":
        return [_converted(each, eqn.invars[0].aval.dtype, params["new_dtype"], args[0])]
    if name in ("copy", "stop_gradient", "optimization_barrier"):
        return args
    if name in MOVES:
        return [MOVES[name](params, *args)]
    if name in REDUCTIONS:
        return [_reduced(each, REDUCTIONS[name], params["axes"], args[0])]
    raise _UnknownError(f"uses {name}, which is not known here")


def _named(params: dict[str, Any], invars: Sequence[Any]) -> str | None:
    """The operation that a call stands for: of that name, and with the same steps."""
    if params.get("name") not in NAMED:
        return None
    function, op = NAMED[params["name"]]
    shapes = [
        jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype, weak_type=var.aval.weak_type)
        for var in invars
    ]
    with jax.enable_x64(True):
        right = jax.make_jaxpr(function)(*shapes)
    return op if list(_steps(right.eqns[0].params)) == list(_steps(params)) else None


def _steps(params: dict[str, Any]) -> Iterator[str]:
    """The primitives of a call, those of calls within it in their place."""
    for eqn in _inner(params)[0].eqns:
        if eqn.primitive.name in CALLS:
            yield from _steps(eqn.params)
        else:
            yield eqn.primitive.name


def _inner(params: dict[str, Any]) -> tuple[Any, Sequence[Any]]:
    """What a call calls, and its constants."""
    inner = params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]
    return (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())


def _converted(each: Any, old: Any, new: Any, array: Places) -> Places:
    if new == np.bool_ and old != np.bool_:
        raise _UnknownError("takes a number for a truth value")
    if old == np.bool_ and new != np.bool_:
        return each("int", array)
    if np.dtype(new).itemsize < np.dtype(old).itemsize:
        if new != np.int32:
            raise _UnknownError(f"computes in {np.dtype(new)}")
        return each("wrap32", array)
    return array


def _reduced(each: Any, op: str, axes: Sequence[int], array: Places) -> Places:
    for axis in sorted(axes, reverse=True):
        parts = [np.take(array, i, axis) for i in range(array.shape[axis])]
        array = functools.reduce(lambda a, b: each(op, a, b), parts)
    return array


def _slice(params: dict[str, Any], a: Places) -> Places:
    steps = params["strides"] or (1,) * a.ndim
    bounds = zip(params["start_indices"], params["limit_indices"], steps, strict=True)
    return a[tuple(slice(*bound) for bound in bounds)]


def _spread(params: dict[str, Any], a: Places) -> Places:
    shape = [1] * len(params["shape"])
    for axis, size in zip(params["broadcast_dimensions"], a.shape, strict=True):
        shape[axis] = size
    return np.broadcast_to(a.reshape(shape), params["shape"])


REDUCTIONS = {"reduce_sum": "add", "reduce_max": "max", "reduce_min": "min"}

MOVES: dict[str, Callable[..., Places]] = {
    "squeeze": lambda params, a: np.squeeze(a, params["dimensions"]),
    "reshape": lambda params, a: np.reshape(a, params["new_sizes"]),
    "transpose": lambda params, a: np.transpose(a, params["permutation"]),
    "concatenate": lambda params, *arrays: np.concatenate(arrays, params["dimension"]),
    "stack": lambda params, *arrays: np.stack(arrays, params["axis"]),
    "slice": _slice,
    "broadcast_in_dim": _spread,
}
"""Primitives of JAX that only move numbers about."""
