"""What a step of the JAX engine costs, by its number of slots."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.hlo import Loop, largest_loop
from benchmarks.instances import draw
from benchmarks.scale import Scale
from benchmarks.section import Job, Row, Section
from jaxsched import Policy, policy
from jaxsched.engines.xla import NO_CAP, Numbers, RunLimits, compiler_options, make_plan
from jaxsched.engines.xla import loop as lanes_loop
from jaxsched.engines.xla.hindsight import IN_ORDER
from jaxsched.engines.xla.inputs import LaneTable, make_table
from jaxsched.engines.xla.state import DONE, NEVER, Event, LoopPlan, Stepper
from jaxsched.engines.xla.step import ANY_ORDER
from jaxsched.engines.xla.turns import turn_of
from jaxsched.instance import MAX_ROUND, canonical

INSTANCES = 64
LIMITS = RunLimits(np.int32(MAX_ROUND), np.int32(NO_CAP))


def _jobs(scale: Scale) -> list[Job]:
    return [
        Job(f"steps, {name}, {setting}", functools.partial(_steps, scale, name, setting))
        for name in scale.some
        for setting in scale.settings[:1]
    ]


@dataclasses.dataclass
class Level:
    """Chunks of one number of slots.

    Attributes:
      run: Runs a chunk, compiled when first used.
      loop: What its loop consists of.
      steps: Steps taken.
      seconds: Time that they took.
    """

    run: Callable[[lanes_loop.Pool, jax.Array], tuple[lanes_loop.Pool, Event]]
    loop: Loop
    steps: int = 0
    seconds: float = 0.0


class Driver:
    """Runs the engine's loop over chunks from here, with a clock beside it.

    Attributes:
      start: Gives lanes at work on the first instances.
      levels: By position in `LoopPlan.slots`, those that were needed.
      borders: Borders between chunks passed.
      waited: Seconds that they took.
    """

    def __init__(
        self, table: LaneTable, chosen: Policy, plan: LoopPlan, advance: Stepper | None = None
    ) -> None:
        shipped = IN_ORDER if chosen.choices.shortest_first else ANY_ORDER
        self._advance = shipped if advance is None else advance
        nothing = jnp.zeros((INSTANCES,), bool)
        self._table, self._policy, self._plan = table, chosen, plan
        self.start = jax.jit(lambda: lanes_loop._start(table, plan, nothing))
        self._turn = jax.jit(lambda state: turn_of(state.lanes, state.level, plan))
        self._border = jax.jit(
            lambda state, log, turn: lanes_loop._border(state, log, table, plan, nothing, turn)
        )
        self.levels: dict[int, Level] = {}
        self.borders, self.waited = 0, 0.0

    def run(self) -> None:
        """Simulates all instances; what was counted before is forgotten."""
        self.borders, self.waited = 0, 0.0
        for level in self.levels.values():
            level.steps, level.seconds = 0, 0.0
        state = self.start()
        while bool(jnp.any(state.lanes.halt != DONE)) or int(state.next_row) < INSTANCES:
            state, _ = self.step(state)

    def step(self, state: lanes_loop.Pool) -> tuple[lanes_loop.Pool, Event]:
        """A chunk and the border behind it."""
        turn, slots = self._turn(state)
        level = self._level(int(slots), state, turn)
        begun = time.perf_counter()
        state, log = jax.block_until_ready(level.run(state, turn))
        stepped = time.perf_counter()
        level.seconds += stepped - begun
        level.steps += _taken(log)
        begun = time.perf_counter()
        state = jax.block_until_ready(self._border(state, log, turn))
        self.waited, self.borders = self.waited + time.perf_counter() - begun, self.borders + 1
        return state, log

    def _level(self, i: int, state: lanes_loop.Pool, turn: jax.Array) -> Level:
        if i not in self.levels:
            self.levels[i] = self._compile(state, turn, i)
        return self.levels[i]

    def _compile(self, state: lanes_loop.Pool, turn: jax.Array, level: int) -> Level:
        choices, plan = self._policy.choices, self._plan

        def chunk(
            table: LaneTable, state: lanes_loop.Pool, turn: jax.Array
        ) -> tuple[lanes_loop.Pool, Event]:
            return lanes_loop._chunk(table, choices, plan, self._advance, level, state, turn)

        options = compiler_options("cpu")
        lowered = jax.jit(chunk, compiler_options=options).lower(self._table, state, turn)
        compiled = lowered.compile()
        loop = largest_loop(compiled.as_text(), INSTANCES * plan.n)
        return Level(functools.partial(compiled, self._table), loop)


def _steps(scale: Scale, name: str, setting: str) -> list[Row]:
    chosen, plan, table = prepare(scale, name, setting)
    driver = Driver(table, chosen, plan)
    for _ in range(2):  # the first one compiles
        driver.run()
    common = {"policy": name, "setting": setting, "lanes": plan.width}
    rows = [
        common | _cost(level, plan, plan.slots[i])
        for i, level in sorted(driver.levels.items())
        if level.steps
    ]
    rows[-1]["border_us"] = 1e6 * driver.waited / driver.borders
    return rows


def prepare(scale: Scale, name: str, setting: str) -> tuple[Policy, LoopPlan, LaneTable]:
    instance = canonical(draw(setting, INSTANCES, scale.n, scale.memory))
    plan, chosen = make_plan(scale.n, INSTANCES, False), policy(name)
    if chosen.choices.shortest_first:
        plan = dataclasses.replace(plan, party=1)
    table = jax.jit(lambda flat: make_table(flat, LIMITS, chosen.choices, Numbers()))(instance)
    return chosen, plan, table


def _taken(log: Event) -> int:
    """Steps that a chunk took; rows that were never written have no time."""
    return int(np.sum(np.any(np.asarray(log.time) != NEVER, axis=1)))


def _cost(level: Level, plan: LoopPlan, slots: int) -> Row:
    return {
        "slots": slots,
        "fusions": level.loop.fusions,
        "copies": level.loop.copies,
        "others": level.loop.others,
        "kilobytes": level.loop.bytes / 1e3 / plan.width,
        "steps": level.steps * plan.width / INSTANCES,
        "step_us": 1e6 * level.seconds / level.steps / plan.width,
    }


STEPS = Section(
    name="steps",
    title="A step of the JAX engine on the CPU",
    note=(
        f"{INSTANCES} instances on one device, driven chunk by chunk; the pool holds `lanes` of "
        "them. Kernels are read from the compiled body of the loop, kB are what they read and "
        "write in a step and lane (of tables only what is looked up counts, as nothing). Steps are "
        "per instance, times per step and lane; a border is where chunks meet, per pool."
    ),
    columns={
        "policy": ("policy", "s"),
        "setting": ("predictions", "s"),
        "lanes": ("lanes", "d"),
        "slots": ("slots", ",d"),
        "fusions": ("fusions", "d"),
        "copies": ("copies", "d"),
        "others": ("others", "d"),
        "kilobytes": ("kB per step and lane", ".1f"),
        "steps": ("steps per instance", ",.0f"),
        "step_us": ("µs per step and lane", ".2f"),
        "border_us": ("µs per border", ",.0f"),
    },
    jobs=_jobs,
)
