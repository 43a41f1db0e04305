"""The functions of a policy as machine code that the event loop calls by address.

The loop is compiled once, for all policies, and kept on disk. What differs from policy to policy
are three small functions, compiled by LLVM from the programs of its choices
(`jaxsched.policies.program`) in tens of milliseconds, a network's in half a second:

    start    for all requests of a lane: estimate, reserve, admission key and so on
    refine   for one that was evicted: the estimate afterwards, and what follows from it
    keys     for a range of slots: the eviction keys in a round, and the smallest of them

Operations are of 32 bits where these hold every result, else of 64. If eviction keys move, and 64
bits may be needed, there is a second form of `keys` all in 32 bits, for lanes and estimates where
they are not (see `narrow_until`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from jaxsched.engines.cpu import layout
from jaxsched.engines.cpu.code import (
    INT32,
    INT64,
    at_least_one,
    compute,
    larger_of,
    saturated,
    smaller,
)
from jaxsched.policies.program import Choices, Op, Program
from jaxsched.policies.ranges import FIELD_RANGES, Range, narrow, ranges, widths

SIGNATURE = ir.FunctionType(INT64, [INT64] * 4)
"""(address of the lane's context, and three numbers) -> a number."""

Load = Callable[[Op], ir.Value]
"""A field of the request, or a number of the policy."""

Programs = dict[str, Program | None]


@functools.lru_cache(maxsize=256)
def compile_policy(choices: Choices) -> layout.Compiled:
    """Compiles the functions of a policy, all of which have programs."""
    names = (
        "estimate", "refine", "reserve", "admission_key", "eviction_key", "headroom", "quantum",
    )  # fmt: skip
    programs = {name: choices.program(name) for name in names}
    moving, reads_admitted = choices.keys_move, "admitted" in choices.eviction_key.reads
    latest = programs["eviction_key"].is_field == "admitted"
    addresses = _compile(
        tuple(programs.items()),
        choices.evict_largest,
        choices.limit,
        moving,
        moving or reads_admitted,
    )
    return layout.Compiled(
        *addresses,
        moving=moving,
        entering=reads_admitted and not (moving or latest),
        latest=latest,
        largest=choices.evict_largest,
        headroom=choices.headroom is not None,
        quanta=choices.quantum is not None,
        reads_arrival="arrival" in choices.reads,
    )


def narrow_until(
    program: Program, params: NDArray[np.int64], memory: NDArray[Any], longest: int, widest: int
) -> NDArray[np.int64]:
    """The largest estimate up to which 32 bits hold the eviction keys of a lane; 0 if none does.

    Args:
      program: Of the eviction key.
      params: Numbers of the policy, [lanes, k].
      memory: [lanes].
      longest: Largest output of all lanes.
      widest: Largest prompt of all lanes.
    """
    sizes = 2.0 ** np.arange(31, 9, -3)[:, None] - 2.0
    known: dict[str, Range] = {
        **FIELD_RANGES,
        "estimate": (1.0, sizes),
        "generated": (0.0, float(longest)),
        "prompt": (1.0, float(widest)),
        "output": (1.0, float(longest)),
        "memory": (memory.astype(float), memory.astype(float)),
    }
    numbers = params.astype(float)

    def bounds(op: Op) -> Range:
        return known[op.data] if op.name == "field" else (numbers[:, op.data], numbers[:, op.data])

    held = functools.reduce(np.logical_and, map(narrow, ranges(program, bounds)))
    held = np.broadcast_to(held, (len(sizes), len(memory)))
    return np.where(held.any(axis=0), sizes[held.argmax(axis=0), 0], 0).astype(np.int64)


_ENGINES: list[Any] = []
"""What owns the machine code, which lives as long as the process."""


@functools.lru_cache(maxsize=256)
def _compile(
    named: tuple[tuple[str, Program | None], ...],
    evict_largest: bool,
    limit: int,
    moving: bool,
    asks_slots: bool,
) -> tuple[int, int, int, int]:
    """Addresses of start, refine, keys and narrow."""
    make = _Maker(ir.Module("policy"), dict(named), evict_largest, limit, asks_slots)
    make.start()
    make.refine()
    wide = widths(make.needed("eviction_key"), limit)
    made = ["start", "refine"]
    if asks_slots:
        make.keys("keys", wide)
        made.append("keys")
    if moving and 64 in wide:
        make.keys("narrow", [32] * len(wide))
        made.append("narrow")
    engine = _machine_code(make.module)
    _ENGINES.append(engine)
    start, refine, keys, narrow = (
        engine.get_function_address(name) if name in made else 0
        for name in ("start", "refine", "keys", "narrow")
    )
    return start, refine, keys, narrow


def _machine_code(module: ir.Module) -> Any:
    parsed = llvm.parse_assembly(str(module))
    machine = llvm.Target.from_default_triple().create_target_machine(
        opt=3,
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        jit=True,
    )
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = options.slp_vectorization = True
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(parsed, builder)
    engine = llvm.create_mcjit_compiler(parsed, machine)
    engine.finalize_object()
    return engine


class _Maker:
    """Writes the functions of a policy into a module."""

    def __init__(
        self,
        module: ir.Module,
        programs: Programs,
        evict_largest: bool,
        limit: int,
        asks_slots: bool,
    ) -> None:
        self.module, self.programs = module, programs
        self.evict_largest, self.limit, self.asks_slots = evict_largest, limit, asks_slots

    def needed(self, name: str) -> Program:
        program = self.programs[name]
        assert program is not None
        return program

    def start(self) -> None:
        """start(context, count)."""
        lane, args = self._lane("start")
        loop = _Loop(lane, INT32(0), lane.entry.trunc(args[1], INT32), INT32(0))
        load = lane.loader(loop.body, loop.place, evictions=INT32(0))
        estimate = at_least_one(loop.body, self._value(loop.body, "estimate", load))
        lane.put_field(loop.body, layout.ESTIMATE_OFFSET, loop.place, estimate)
        load = lane.loader(
            loop.body, loop.place, evictions=INT32(0), estimate=estimate, generated=INT32(0)
        )
        self._after(lane, loop.body, loop.place, load, again=False)
        loop.close(INT32(0))

    def refine(self) -> None:
        """refine(context, request, tokens generated, those it keeps) -> the estimate."""
        lane, args = self._lane("refine")
        b, place = lane.entry, lane.entry.trunc(args[1], INT32)
        old = lane.get_field(b, layout.ESTIMATE_OFFSET, place)
        load = lane.loader(b, place, estimate=old, generated=b.trunc(args[2], INT32))
        estimate = at_least_one(b, self._value(b, "refine", load))
        lane.put_field(b, layout.ESTIMATE_OFFSET, place, estimate)
        evictions = b.add(lane.get(b, layout.EVICTIONS, place), INT32(1))
        kept = b.trunc(args[3], INT32)
        load = lane.loader(b, place, evictions=evictions, estimate=estimate, generated=kept)
        self._after(lane, b, place, load, again=True)
        b.ret(b.sext(estimate, INT64))

    def keys(self, name: str, wide: Sequence[int]) -> None:
        """keys(context, first slot, last slot + 1, round) -> the smallest key."""
        lane, args = self._lane(name)
        first, last, now = (lane.entry.trunc(arg, INT32) for arg in args[1:])
        loop = _Loop(lane, first, last, INT32(layout.NEVER))
        b, j = loop.body, loop.place
        load = lane.loader(
            b,
            lambda: lane.get(b, layout.SLOT_REQUEST, j),
            prompt=lane.get(b, layout.SLOT_PROMPT, j),
            estimate=lane.get(b, layout.SLOT_ESTIMATE, j),
            generated=b.sub(now, lane.get(b, layout.SLOT_START, j)),
            admitted=lane.get(b, layout.SLOT_ADMITTED, j),
        )
        key = self._eviction_key(b, load, wide)
        lane.put(b, layout.SLOT_KEY, j, key)
        loop.close(smaller(b, loop.carried, key))

    def _after(
        self, lane: _Lane, b: ir.IRBuilder, place: ir.Value, load: Load, again: bool
    ) -> None:
        """Stores what follows from the estimate of a request that waits."""
        prompt = b.sext(load(Op("field", data="prompt")), INT64)
        most = b.sub(lane.bases[layout.MEMORY], prompt)
        reserve = smaller(b, b.sext(self._value(b, "reserve", load), INT64), most)
        reserve = at_least_one(b, b.trunc(reserve, INT32))
        lane.put_field(b, layout.RESERVE_OFFSET, place, reserve)
        if self._changes("admission_key", again):
            lane.put(b, layout.KEY, place, self._value(b, "admission_key", load))
        if self._changes("quantum", again):
            quantum = at_least_one(b, self._value(b, "quantum", load))
            lane.put(b, layout.QUANTUM, place, quantum)
        if self._changes("headroom", again):
            free = larger_of(b, self._value(b, "headroom", load), INT32(0))
            free = smaller(b, free, b.trunc(lane.bases[layout.MEMORY], INT32))
            lane.put(b, layout.HEADROOM, place, free)
        if not self.asks_slots and self._changes("eviction_key", again):
            wide = widths(self.needed("eviction_key"), self.limit)
            lane.put(b, layout.STANDING, place, self._eviction_key(b, load, wide))

    def _changes(self, name: str, again: bool) -> bool:
        """Whether there is such a function, and it may say something new after an eviction."""
        program = self.programs[name]
        if program is None or not again:
            return program is not None
        moved = ("estimate", "evictions", "generated")
        return any(op.data in moved for op in program.ops if op.name == "field")

    def _eviction_key(self, b: ir.IRBuilder, load: Load, wide: Sequence[int]) -> ir.Value:
        key = saturated(b, compute(b, self.needed("eviction_key"), wide, load))
        return b.not_(key) if self.evict_largest else key

    def _value(self, b: ir.IRBuilder, name: str, load: Load) -> ir.Value:
        program = self.needed(name)
        return saturated(b, compute(b, program, widths(program, self.limit), load))

    def _lane(self, name: str) -> tuple[_Lane, Sequence[ir.Value]]:
        function = ir.Function(self.module, SIGNATURE, name)
        used = {
            op.data
            for program in self.programs.values()
            if program is not None
            for op in program.ops
            if op.name == "param"
        }
        return _Lane(function, sorted(used)), function.args


class _Lane:
    """Loads and stores in the arrays of a lane, whose addresses are read first of all."""

    def __init__(self, function: ir.Function, params: Sequence[int]) -> None:
        self.function = function
        self.entry = b = ir.IRBuilder(function.append_basic_block("entry"))
        table = b.inttoptr(function.args[0], INT64.as_pointer())
        self.bases = [b.load(b.gep(table, [INT32(i)])) for i in range(layout.CONTEXT)]
        numbers = b.inttoptr(self.bases[layout.PARAMS], INT64.as_pointer())
        self.params = {i: b.load(b.gep(numbers, [INT32(i)])) for i in params}

    def loader(
        self, b: ir.IRBuilder, place: ir.Value | Callable[[], ir.Value], **known: ir.Value
    ) -> Load:
        """Fields of the request at a place, some of which are known."""

        def load(op: Op) -> ir.Value:
            if op.name == "param":
                return self.params[op.data]
            if op.data == "memory":
                return self.bases[layout.MEMORY]
            if op.data in known:
                return known[op.data]
            return self.get(b, layout.OF_FIELD[op.data], place() if callable(place) else place)

        return load

    def get(self, b: ir.IRBuilder, which: int, place: ir.Value) -> ir.Value:
        return b.load(self._pointer(b, which, place))

    def put(self, b: ir.IRBuilder, which: int, place: ir.Value, value: ir.Value) -> None:
        b.store(value, self._pointer(b, which, place))

    def get_field(self, b: ir.IRBuilder, offset: int, place: ir.Value) -> ir.Value:
        return self.get(b, layout.REQUESTS, self._in_record(b, offset, place))

    def put_field(self, b: ir.IRBuilder, offset: int, place: ir.Value, value: ir.Value) -> None:
        self.put(b, layout.REQUESTS, self._in_record(b, offset, place), value)

    def _in_record(self, b: ir.IRBuilder, offset: int, place: ir.Value) -> ir.Value:
        """Place of a field of a request's record, in units of 32 bits."""
        return b.add(b.mul(place, INT32(layout.REQUEST.itemsize // 4)), INT32(offset // 4))

    def _pointer(self, b: ir.IRBuilder, which: int, place: ir.Value) -> ir.Value:
        array = b.inttoptr(self.bases[which], INT32.as_pointer())
        return b.gep(array, [b.zext(place, INT64)])


class _Loop:
    """A loop over places in [first, last) that carries one number, which the function returns."""

    def __init__(self, lane: _Lane, first: ir.Value, last: ir.Value, carry: ir.Value) -> None:
        entry, function = lane.entry, lane.function
        self._entry, self._last = entry, last
        self.body = ir.IRBuilder(function.append_basic_block("body"))
        self._end = ir.IRBuilder(function.append_basic_block("end"))
        self._first, self._carry = first, carry
        entry.cbranch(entry.icmp_signed("<", first, last), self.body.block, self._end.block)
        self.place = self.body.phi(INT32)
        self.carried = self.body.phi(INT32)

    def close(self, carry: ir.Value) -> None:
        following = self.body.add(self.place, INT32(1), flags=("nuw", "nsw"))
        for phi, before, after in (
            (self.place, self._first, following),
            (self.carried, self._carry, carry),
        ):
            phi.add_incoming(before, self._entry.block)
            phi.add_incoming(after, self.body.block)
        again = self.body.icmp_signed("<", following, self._last)
        self.body.cbranch(again, self.body.block, self._end.block)
        found = self._end.phi(INT32)
        found.add_incoming(self._carry, self._entry.block)
        found.add_incoming(carry, self.body.block)
        self._end.ret(self._end.sext(found, INT64))
