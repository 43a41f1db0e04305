"""The worker of a serving engine, by the rules of docs/model.md: blocks, chunks, kept tokens.

All requests of a lane have a place in dense arrays, and one step of all lanes does one thing in
each: take one request off the worker, or let one in, or run the round and those after it in which
only decodes happen. The rules allow this order within a round:

- Of the running requests all but one lack one token, which the budget holds for each; the other,
  last admitted, is in the middle of its prompt. So first the decodes get their blocks, a block or
  none each, and then it gets its own.
- A request whose prompt is computed holds base + t tokens in round t, with a base that stands. So
  the look-ahead test is that of the papers' worker in blocks: at each expected end `height` is what
  those that last so long are expected to hold, with what is added and taken out again in one pass.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsched.arrays import Pytree, split
from jaxsched.engines.xla.choices import Read, ask
from jaxsched.engines.xla.clock import LAST_TICK, elapsed, first_round, rounds_until
from jaxsched.engines.xla.inputs import LaneTable, reader
from jaxsched.engines.xla.log import wide_zeros
from jaxsched.engines.xla.state import NEVER
from jaxsched.policies.program import Choices
from jaxsched.result import Result, Status

NOBODY = np.int32(-1)
"""A place in the arrays that does not exist."""


class Crowd(Pytree):
    """The requests of a lane, [n] each."""

    running: chex.Array
    generated: chex.Array  # tokens of output, kept when preempted
    computed: chex.Array  # tokens in the cache, with those granted in the round under way
    blocks: chex.Array  # for these
    admitted: chex.Array  # round of the last admission
    entered: chex.Array  # tokens generated at the last admission
    # round before which it is expected to be through; 0 if it is not counted in the heights
    end: chex.Array
    height: chex.Array  # blocks in the round before `end`, of all that are counted and last to it
    estimate: chex.Array
    evictions: chex.Array
    key: chex.Array  # admission key
    reserve: chex.Array
    quantum: chex.Array | None
    first: chex.Array  # round after which its first token is there, or -1
    completion: chex.Array  # or -1
    # of first admission, first token and completion in picoseconds, or -1; [n] int64 each
    times: tuple[chex.Array, ...] | None


class LaneState(Pytree):
    """A lane; scalars but for the requests and the evicted runs."""

    requests: Crowd
    time: chex.Array  # round
    clock: chex.Array | None  # picoseconds at its start, int64
    granted: chex.Array  # whether those that run have got their grants of this round
    unmet: chex.Array  # whether somebody was preempted in this round for want of blocks
    middle: chex.Array  # the request in the middle of its prompt, or NOBODY
    grant: chex.Array  # what it gets in this round, 0 before that is known
    left: chex.Array  # of the round's budget, once grants are made
    prompts: chex.Array  # prompt tokens computed in this round
    wasted: chex.Array  # tokens, int64
    memory_time: chex.Array  # of runs that ended in an eviction and of prompts in pieces, int64
    peak: chex.Array  # blocks
    runs: chex.Array | None  # evicted runs, [E, 4]
    halted: chex.Array


class LaneInputs(NamedTuple):
    """What does not change in a lane."""

    fields: dict[str, jax.Array]  # of `View`, [n]
    real: jax.Array  # no padding, [n]
    arrival: jax.Array | None  # in rounds, or in picoseconds as int64, [n]
    memory: jax.Array
    params: chex.ArrayTree
    clock: jax.Array | None
    block: jax.Array
    cap: jax.Array
    budget: jax.Array
    watermark: jax.Array


def simulate_serving(
    table: LaneTable,
    worker: jax.Array,
    choices: Choices,
    arrivals: bool,
    skip: jax.Array,
    history: int,
) -> Result:
    """Simulates every instance of a table.

    Args:
      table: N instances; with `arrivals` the field is when they come, or `due` is under a clock.
      worker: Block, max_num_seqs, budget and watermark, [N, 4].
      choices: The scheduler.
      arrivals: Whether requests arrive over time.
      skip: Instances that must not be simulated, [N].
      history: Evicted runs of a lane to keep.
    """
    lanes = _lanes(table, worker, arrivals)
    limit = table.limits.max_rounds

    def begin(lane: LaneInputs, skip: jax.Array) -> LaneState:
        return _begin(lane, choices, skip, history)

    def body(states: LaneState) -> LaneState:
        return jax.vmap(lambda lane, state: _step(lane, state, choices, limit))(lanes, states)

    states = jax.vmap(begin)(lanes, skip)
    states = lax.while_loop(lambda states: ~jnp.all(states.halted), body, states)
    return _result(lanes, states, table.count, skip)


def _lanes(table: LaneTable, worker: jax.Array, arrivals: bool) -> LaneInputs:
    total = table.memory.shape[0]
    fields = {name: array.reshape(total, -1) for name, array in table.fields.items()}
    position = lax.broadcasted_iota(np.int32, fields["prompt"].shape, 1)
    arrival = None
    if arrivals:
        arrival = fields["arrival"] if table.due is None else table.due.reshape(total, -1)
    block, seqs, budget, watermark = (worker[:, k] for k in range(4))
    return LaneInputs(
        fields=fields,
        real=position < table.count[:, None],
        arrival=arrival,
        memory=table.memory,
        params=table.params,
        clock=table.clock,
        block=jnp.maximum(block, 1),
        cap=jnp.minimum(seqs, table.limits.max_batch),
        budget=budget,
        watermark=watermark,
    )


def _begin(lane: LaneInputs, choices: Choices, skip: jax.Array, history: int) -> LaneState:
    """Nobody runs, and everybody waits or is still to come."""
    shape = lane.real.shape
    zeros, zero = jnp.zeros(shape, jnp.int32), jnp.int32(0)
    read = reader(lane.fields, memory=lane.memory)
    estimate = ask(choices, "estimate", read, lane.params, shape)
    read = reader(lane.fields, memory=lane.memory, estimate=estimate, evictions=zeros,
                  generated=zeros)  # fmt: skip
    key, reserve, quantum = _standing(choices, read, lane, lane.fields["prompt"])
    never = zeros + NOBODY
    with jax.enable_x64(True):
        nothing = tuple(jnp.full(shape, -1, jnp.int64) for _ in range(3))
    return LaneState(
        requests=Crowd(
            running=zeros > 0, generated=zeros, computed=zeros, blocks=zeros, admitted=zeros,
            entered=zeros, end=zeros, height=zeros, estimate=estimate, evictions=zeros, key=key,
            reserve=reserve, quantum=quantum, first=never, completion=never,
            times=None if lane.clock is None else nothing,
        ),
        time=zero,
        clock=None if lane.clock is None else wide_zeros(()),
        granted=zero > 0,
        unmet=zero > 0,
        middle=NOBODY + zero,
        grant=zero,
        left=zero,
        prompts=zero,
        wasted=wide_zeros(()),
        memory_time=wide_zeros(()),
        peak=zero,
        runs=jnp.full((history, 4), -1, jnp.int32) if history else None,
        halted=skip | ~jnp.any(lane.real),
    )  # fmt: skip


def _standing(
    choices: Choices, read: Read, lane: LaneInputs, prompt: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Admission key, reserve and quantum of requests: they stand from one eviction to the next."""
    shape = prompt.shape
    key = ask(choices, "admission_key", read, lane.params, shape)
    reserve = ask(choices, "reserve", read, lane.params, shape)
    quantum = None
    if choices.quantum is not None:
        quantum = ask(choices, "quantum", read, lane.params, shape)
    return key, jnp.maximum(jnp.minimum(reserve, lane.memory - prompt), 1), quantum


class Opening(NamedTuple):
    """Stage 2 of a round as far as a step takes it; scalars but for the masks of shape [n]."""

    stepping: jax.Array
    takes: jax.Array  # somebody leaves, see `who`: preempted, or completed before its expected end
    evicts: jax.Array  # the former
    short: jax.Array  # for want of blocks
    who: jax.Array
    grants: jax.Array  # nobody leaves any more: the grants are made
    decoding: jax.Array  # runs, with its prompt computed, [n]
    crossing: jax.Array  # decodes, and needs one more block, [n]
    grant: jax.Array  # of the one in the middle of its prompt
    held: jax.Array  # blocks for it then
    fixed: jax.Array  # whether the grant is to stay
    finishes: jax.Array  # whether that is all it lacks, and it gets it
    active: jax.Array  # running requests
    used: jax.Array  # blocks, with the grants if they are made
    left: jax.Array  # of the budget after them


def _open(
    lane: LaneInputs, state: LaneState, choices: Choices, limit: jax.Array | np.int32
) -> Opening:
    r, time = state.requests, state.time
    position = lax.iota(np.int32, r.running.shape[0])
    stepping = ~state.halted & (time < limit)
    if state.clock is not None:
        with jax.enable_x64(True):
            stepping &= state.clock < LAST_TICK
    opening = stepping & ~state.granted
    count, used = _sum(r.running), _sum(jnp.where(r.running, r.blocks, 0))
    there, middle = state.middle >= 0, jnp.maximum(state.middle, 0)
    decoding = r.running & (position != state.middle)
    crossing = decoding & (r.computed == r.blocks * lane.block)
    needed = used + _sum(crossing)
    lacks = lane.fields["prompt"][middle] + r.generated[middle] - r.computed[middle]
    grant = jnp.where(state.grant > 0, state.grant, jnp.minimum(lacks, lane.budget - count + 1))
    grant = jnp.where(there, grant, 0)
    held = _ceil(r.computed[middle] + grant, lane.block)
    full = needed + jnp.where(there, held - r.blocks[middle], 0)
    blocks = lane.memory // lane.block

    late = (r.completion >= 0) & (r.end > time)
    some_late, short = jnp.any(late), full > blocks
    leaves, takes = r.running, short
    if r.quantum is not None:
        spent = r.running & (r.generated - r.entered >= r.quantum)
        some = jnp.any(spent)
        leaves, takes, short = jnp.where(some, spent, leaves), takes | some, short & ~some
    leaves, short = jnp.where(some_late, late, leaves), short & ~some_late
    takes = opening & (takes | some_late)
    read = reader(lane.fields, memory=lane.memory, estimate=r.estimate, evictions=r.evictions,
                  generated=r.generated, admitted=r.admitted)  # fmt: skip
    key = ask(choices, "eviction_key", read, lane.params, leaves.shape)
    grants = opening & ~takes
    return Opening(
        stepping=stepping,
        takes=takes,
        evicts=takes & ~some_late,
        short=takes & short,
        who=_first(leaves, key, choices.evict_largest),
        grants=grants,
        decoding=decoding,
        crossing=crossing,
        grant=grant,
        held=held,
        fixed=takes & short & (needed <= blocks),
        finishes=grants & there & (grant == lacks),
        active=count,
        used=jnp.where(grants, full, used),
        left=jnp.where(grants, lane.budget - count + there.astype(np.int32) - grant, state.left),
    )


class Reservation(NamedTuple):
    """The look-ahead test of one request, which may enter or be counted at the expected ends."""

    end: jax.Array  # its own
    share: jax.Array  # its blocks at the ends of others, up to its own, [n]
    load: jax.Array  # blocks of all at its own
    passes: jax.Array
    wait: jax.Array  # rounds until it may pass


def _look_ahead(
    lane: LaneInputs, state: LaneState, who: jax.Array, end: jax.Array, most: jax.Array
) -> Reservation:
    """Tests request `who`, expected to last to the round `end`, against `most` blocks."""
    r, time, block = state.requests, state.time, lane.block
    tokens = lane.fields["prompt"] + r.generated
    own = tokens[who]
    counted = r.end > time
    within, beyond = counted & (r.end <= end), counted & (r.end >= end)
    share = jnp.where(within, _ceil(own + r.end - time - 1, block), 0)
    load = _sum(jnp.where(beyond, _ceil(tokens + end - time - 1, block), 0))
    load += _ceil(own + end - time - 1, block)
    # An end is in the way until it has passed, or until the request has so much less left by then.
    rounds = jnp.where(
        within & (r.height <= most),
        jnp.minimum(r.end - time, own + r.end - time - 1 - block * (most - r.height)),
        r.end - time,
    )
    wait = jnp.max(jnp.where(counted & (r.height + share > most), rounds, 0))
    # The load at its own end only falls once the nearest end beyond that has passed.
    nearest = jnp.min(jnp.where(beyond, r.end, NEVER))
    nearest = jnp.where(nearest == NEVER, NEVER, nearest - end + 1)
    wait = jnp.where(load > most, jnp.maximum(wait, nearest), wait)
    return Reservation(end, share, load, wait <= 0, wait)


class Entry(NamedTuple):
    """Stage 3 of a round as far as a step takes it; scalars."""

    exists: jax.Array  # whether somebody waits
    who: jax.Array  # who is next, or is taken off, or goes on as the last
    admitted: jax.Array
    grant: jax.Array
    counts: jax.Array  # whether `who` is counted at the expected ends from now on
    ahead: Reservation
    wait: jax.Array  # rounds until somebody may enter


def _enter(lane: LaneInputs, state: LaneState, opening: Opening, choices: Choices) -> Entry:
    """Tests the first that waits; if another leaves or decodes from now on, counts only that."""
    r, time, block = state.requests, state.time, lane.block
    waiting = lane.real & ~r.running & (r.completion < 0)
    if lane.arrival is not None:
        waiting &= _arrived(lane, state)
    exists, next_one = jnp.any(waiting), _first(waiting, r.key, False)
    who = jnp.where(opening.finishes, jnp.maximum(state.middle, 0), next_one)
    who = jnp.where(opening.takes, opening.who, who)
    generated, prompt = r.generated[who], lane.fields["prompt"][who]
    blocks, alone = lane.memory // block, opening.active == 0
    most = blocks
    if choices.headroom is not None:
        known = {name: array[who] for name, array in lane.fields.items()}
        read = reader(known, memory=lane.memory, estimate=r.estimate[who],
                      evictions=r.evictions[who], generated=generated)  # fmt: skip
        headroom = jnp.minimum(ask(choices, "headroom", read, lane.params), lane.memory)
        most -= jnp.where(alone, 0, _ceil(headroom, block))
    end = time + jnp.maximum(r.reserve[who] - generated, 1)
    end = jnp.where(opening.takes, r.end[who], end)
    ahead = _look_ahead(lane, state, who, end, most)

    least = jnp.minimum(blocks - jnp.where(alone, 0, lane.watermark), most)
    room = opening.used + _ceil(prompt + generated, block) <= least
    shut = state.unmet | (opening.left <= 0)
    full = opening.active >= lane.cap
    open_ = opening.stepping & ~opening.takes & ~opening.finishes
    admitted = open_ & exists & ~full & ~shut & room & ahead.passes
    grant = jnp.minimum(prompt + generated, opening.left)
    wait = jnp.where(shut, np.int32(1), jnp.where(room, ahead.wait, NEVER))
    return Entry(
        exists=exists,
        who=who,
        admitted=admitted,
        grant=grant,
        counts=opening.finishes | (admitted & (grant == prompt + generated)),
        ahead=ahead,
        wait=jnp.where(exists & ~full, wait, NEVER),
    )


def _step(
    lane: LaneInputs, state: LaneState, choices: Choices, limit: jax.Array | np.int32
) -> LaneState:
    """One step of a lane; one that has halted stays as it is."""
    opening = _open(lane, state, choices, limit)
    entry = _enter(lane, state, opening, choices)
    state = state.replace(
        requests=_refined(lane, state, opening, choices, _moved(lane, state, opening, entry)),
        halted=~opening.stepping,
        **_round_so_far(state, opening, entry),
        **_booked(lane, state, opening),
    )
    runs = opening.stepping & ~opening.takes & ~opening.finishes & ~entry.admitted
    state = _run(lane, state, choices, runs, opening, entry, limit)
    left = lane.real & (state.requests.completion < 0)
    return state.replace(halted=state.halted | ~jnp.any(left))


def _moved(lane: LaneInputs, state: LaneState, opening: Opening, entry: Entry) -> Crowd:
    """After the grants, or one who left, or one who entered."""
    r, ahead = state.requests, entry.ahead
    position = lax.iota(np.int32, r.running.shape[0])
    here, middle = position == entry.who, position == state.middle
    leaves, evicted, enters = opening.takes & here, opening.evicts & here, entry.admitted & here
    counts = entry.counts & here
    more = opening.decoding.astype(np.int32) + jnp.where(middle, opening.grant, 0)
    computed = r.computed + jnp.where(opening.grants, more, 0)
    blocks = r.blocks + (opening.grants & opening.crossing).astype(np.int32)
    blocks = jnp.where(opening.grants & middle, opening.held, blocks)
    granted = _ceil(entry.grant, lane.block)
    sign = jnp.where(opening.takes, np.int32(-1), entry.counts.astype(np.int32))
    times = r.times
    if times is not None:
        with jax.enable_x64(True):
            begun = jnp.where(enters & (times[0] < np.int64(0)), state.clock, times[0])
        times = (begun, *times[1:])
    return r.replace(
        running=(r.running & ~evicted) | enters,
        computed=jnp.where(evicted, 0, jnp.where(enters, entry.grant, computed)),
        blocks=jnp.where(evicted, 0, jnp.where(enters, granted, blocks)),
        admitted=jnp.where(enters, state.time, r.admitted),
        entered=jnp.where(enters, r.generated, r.entered),
        end=jnp.where(leaves | enters, 0, r.end) + jnp.where(counts, ahead.end, 0),
        height=jnp.where(counts, ahead.load, r.height + sign * ahead.share),
        evictions=r.evictions + evicted.astype(np.int32),
        times=times,
    )


def _refined(
    lane: LaneInputs, state: LaneState, opening: Opening, choices: Choices, moved: Crowd
) -> Crowd:
    """What the policy thinks of a request that was preempted."""
    r, who = state.requests, opening.who
    known = {name: array[who] for name, array in lane.fields.items()}
    read = reader(known, memory=lane.memory, generated=r.generated[who], evictions=r.evictions[who],
                  estimate=r.estimate[who])  # fmt: skip
    estimate = ask(choices, "refine", read, lane.params)
    read = reader(known, memory=lane.memory, generated=r.generated[who], estimate=estimate,
                  evictions=r.evictions[who] + 1)  # fmt: skip
    key, reserve, quantum = _standing(choices, read, lane, known["prompt"])
    here = opening.evicts & (lax.iota(np.int32, r.running.shape[0]) == who)
    return moved.replace(
        estimate=jnp.where(here, estimate, moved.estimate),
        key=jnp.where(here, key, moved.key),
        reserve=jnp.where(here, reserve, moved.reserve),
        quantum=None if quantum is None else jnp.where(here, quantum, moved.quantum),
    )


def _round_so_far(state: LaneState, opening: Opening, entry: Entry) -> dict[str, jax.Array]:
    gone = opening.finishes | (opening.takes & (opening.who == state.middle))
    middle = jnp.where(gone, NOBODY, state.middle)
    given = jnp.where(entry.admitted, entry.grant, 0)
    return {
        "granted": state.granted | opening.grants,
        "unmet": state.unmet | opening.short,
        "middle": jnp.where(entry.admitted & ~entry.counts, entry.who, middle),
        "grant": jnp.where(gone, 0, jnp.where(opening.fixed, opening.grant, state.grant)),
        "left": opening.left - given,
        "prompts": state.prompts + jnp.where(opening.grants, opening.grant, 0) + given,
    }


def _booked(lane: LaneInputs, state: LaneState, opening: Opening) -> dict[str, jax.Array | None]:
    """The totals with the run that a preemption ended."""
    r, who, runs = state.requests, opening.who, state.runs
    lost, since = r.computed[who], lane.fields["prompt"][who] + r.entered[who]
    if runs is not None:
        place = jnp.where(opening.evicts, jnp.sum(r.evictions, dtype=np.int32), NEVER)
        entry = jnp.stack([who, r.admitted[who], state.time, r.generated[who]])
        runs = runs.at[place].set(entry, mode="drop")
    with jax.enable_x64(True):
        tokens = jnp.where(opening.evicts, lost, np.int32(0)).astype(jnp.int64)
        held = jnp.where(opening.evicts, _run_time(lost, since, lane.block), np.int64(0))
        return {"wasted": state.wasted + tokens, "memory_time": state.memory_time + held,
                "runs": runs}  # fmt: skip


def _run(
    lane: LaneInputs,
    state: LaneState,
    choices: Choices,
    runs: jax.Array,
    opening: Opening,
    entry: Entry,
    limit: jax.Array | np.int32,
) -> LaneState:
    """Stage 4 if it `runs`, and as many rounds after it as change nothing; or silence passes."""
    r, time, block, count = state.requests, state.time, lane.block, opening.active
    chunked = state.middle >= 0
    full = r.running & (r.computed == lane.fields["prompt"] + r.generated)
    change = jnp.min(jnp.where(r.running, lane.fields["output"] - r.generated, NEVER))
    if r.quantum is not None:
        quantum = jnp.where(r.running, r.quantum + r.entered - r.generated, NEVER)
        change = jnp.minimum(change, jnp.min(quantum))
    change = jnp.minimum(change, jnp.minimum(entry.wait, limit - time))
    change = jnp.minimum(change, _rounds_that_fit(lane, r, opening))
    change = jnp.where(chunked, np.int32(1), change)
    passing = _pass(lane, state, change, runs, count)
    jump = jnp.where(runs & (count > 0), passing.rounds, 0)

    generated = r.generated + jnp.where(full, jump, 0)
    more = jnp.where(r.running, jnp.maximum(jump - 1, 0), 0)
    blocks = jnp.where(r.running, _ceil(r.computed + more, block), 0)
    firsts = full & (r.generated == 0) & (jump > 0)
    done = full & (generated == lane.fields["output"]) & (jump > 0)
    times = r.times
    with jax.enable_x64(True):
        piece = jnp.where((jump > 0) & chunked, r.blocks[jnp.maximum(state.middle, 0)], np.int32(0))
        memory_time = state.memory_time + piece.astype(jnp.int64) * block.astype(jnp.int64)
        if times is not None:
            times = (times[0], *(
                jnp.where(now, passing.clock, old)
                for now, old in zip((firsts, done), times[1:], strict=True)
            ))  # fmt: skip
    again = runs & (passing.rounds > 0) | runs & (count == 0)
    return state.replace(
        requests=r.replace(
            running=r.running & ~done,
            generated=generated,
            computed=r.computed + more,
            blocks=blocks,
            first=jnp.where(firsts, time + 1, r.first),
            completion=jnp.where(done, time + jump, r.completion),
            times=times,
        ),
        time=time + jnp.where(runs, passing.rounds, 0),
        clock=passing.clock,
        granted=state.granted & ~again,
        unmet=state.unmet & ~again,
        grant=jnp.where(again, 0, state.grant),
        prompts=jnp.where(again, 0, state.prompts),
        memory_time=memory_time,
        peak=jnp.where(jump > 0, jnp.maximum(state.peak, _sum(blocks)), state.peak),
    )


def _rounds_that_fit(lane: LaneInputs, r: Crowd, opening: Opening) -> jax.Array:
    """Rounds, this one counted, for which the blocks suffice if everybody who runs decodes."""
    block, some = lane.block, jnp.maximum(opening.active, 1)
    free = lane.memory // block - opening.used
    laps = free // some  # in `block` rounds everybody needs a block more
    spare = free - laps * some
    crosses = jnp.where(r.running, r.blocks * block - r.computed + 1, NEVER)

    def halve(bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        between = (low + high) // 2
        fits = _sum(crosses <= between) <= spare
        return jnp.where(fits, between, low), jnp.where(fits, high, between)

    low, _ = lax.while_loop(lambda b: b[1] - b[0] > 1, halve, (jnp.int32(0), block))
    return jnp.where(opening.active > 0, laps * block + low + 1, NEVER)


class _Passed(NamedTuple):
    rounds: jax.Array
    clock: jax.Array | None  # after them


def _pass(
    lane: LaneInputs, state: LaneState, change: jax.Array, runs: jax.Array, count: jax.Array
) -> _Passed:
    """Rounds until something changes or somebody arrives, `change` at most; their time passes."""
    if state.clock is None:
        after = jnp.int32(NEVER)
        if lane.arrival is not None:
            after = jnp.min(jnp.where(_coming(lane, state), lane.arrival, NEVER))
        return _Passed(jnp.minimum(change, after - state.time), None)
    prompts, silent = state.prompts, count == 0
    cache = _sum(jnp.where(state.requests.running, state.requests.computed, 0))
    first = first_round(lane.clock, prompts, count, cache)
    with jax.enable_x64(True):
        after = LAST_TICK + jnp.zeros_like(state.clock)
        if lane.arrival is not None:
            after = jnp.min(jnp.where(_coming(lane, state), lane.arrival, LAST_TICK))
        growth = lane.clock[3] * count.astype(jnp.int64)
        most = jnp.where(prompts > 0, np.int32(1), change)
        need = jnp.maximum(after - state.clock, np.int64(1))
        rounds = jnp.where(silent, np.int32(0), rounds_until(need, first, growth, most))
        lasted = jnp.where(
            silent, after - state.clock, elapsed(first, growth, rounds.astype(jnp.int64))
        )
        return _Passed(rounds, jnp.where(runs, state.clock + lasted, state.clock))


def _arrived(lane: LaneInputs, state: LaneState) -> jax.Array:
    with jax.enable_x64(True):
        return lane.arrival <= (state.time if state.clock is None else state.clock)


def _coming(lane: LaneInputs, state: LaneState) -> jax.Array:
    return lane.real & ~_arrived(lane, state)


def _result(lanes: LaneInputs, states: LaneState, count: jax.Array, skip: jax.Array) -> Result:
    r = states.requests
    block = lanes.block[:, None]
    since = lanes.fields["prompt"] + r.entered
    finished = jnp.all((r.completion >= 0) | ~lanes.real, axis=-1)
    status = jnp.where(finished, np.int32(Status.FINISHED), np.int32(Status.ROUND_LIMIT))
    times = r.times
    with jax.enable_x64(True):
        latency = r.completion - lanes.fields["arrival"]
        latency = jnp.where(r.completion >= 0, latency, np.int32(0)).astype(jnp.int64)
        if times is not None:
            latency, times = jnp.zeros_like(latency), split(jnp.stack(times, axis=-1))
        held = jnp.sum(_run_time(r.computed, since, block), axis=-1)
        totals = jnp.stack(
            [jnp.sum(latency, axis=-1), states.wasted, states.memory_time + held], axis=-1
        )
    return Result(
        completion=r.completion,
        first_token=r.first,
        preemptions=r.evictions,
        evictions=jnp.sum(r.evictions, axis=-1, dtype=np.int32),
        peak_memory=states.peak * lanes.block,
        rounds=jnp.maximum(jnp.max(r.completion, axis=-1), 0),
        status=jnp.where(skip, np.int32(Status.INVALID), status),
        totals=split(totals),
        num_requests=count,
        times=times,
        history=_all_runs(lanes, states),
    )


def _all_runs(lanes: LaneInputs, states: LaneState) -> jax.Array | None:
    """The evicted runs, then those in which requests completed, [N, E + n, 4]."""
    if states.runs is None:
        return None
    r = states.requests
    who = lax.broadcasted_iota(np.int32, r.completion.shape, 1)
    last = jnp.stack([who, r.admitted, r.completion, lanes.fields["output"]], axis=-1)
    last = jnp.where((r.completion >= 0)[..., None], last, np.int32(-1))
    return jnp.concatenate([states.runs, last], axis=1)


def _run_time(last: jax.Array, since: jax.Array, block: jax.Array) -> jax.Array:
    """Token-rounds of a run from the round with `since` tokens in the cache to that with `last`.

    In int64; 0 if it did not come so far.
    """
    with jax.enable_x64(True):
        last, before, block = (x.astype(jnp.int64) for x in (last, since - 1, block))
        area = _block_rounds(last, block) - _block_rounds(before, block)
        return jnp.where(last > before, block * area, np.int64(0))


def _block_rounds(tokens: jax.Array, block: jax.Array) -> jax.Array:
    """Sum of the blocks for 1, 2, ..., `tokens` tokens, int64."""
    whole = tokens // block
    return block * (whole * (whole + 1) // 2) + (tokens - whole * block) * (whole + 1)


def _ceil(tokens: jax.Array, block: jax.Array) -> jax.Array:
    """Blocks for so many tokens."""
    return (tokens + block - 1) // block


def _sum(values: jax.Array) -> jax.Array:
    return jnp.sum(values, dtype=np.int32)


def _first(some: jax.Array, key: jax.Array, largest: bool) -> jax.Array:
    """Place of the smallest (key, place) of `some`, or of the largest; any if there are none."""
    position = lax.iota(np.int32, some.shape[0])
    if largest:
        key, position = ~key, ~position
    least = jnp.min(jnp.where(some, key, NEVER))
    place = jnp.min(jnp.where(some & (key == least), position, NEVER))
    place = ~place if largest else place
    return jnp.clip(place, 0, np.int32(some.shape[0] - 1))
