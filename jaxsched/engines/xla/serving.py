"""One step of one lane on the worker of a serving engine, by the rules of docs/model.md.

A round takes a step for each request that leaves or enters but the first of each, in this order:
one leaves, the grants are made, one enters, the round runs and those after it in which nothing
changes. The rules allow this order within a round: of the running requests all but one lack one
token, which the budget holds for each; the other, last admitted, is in the middle of its prompt.
So first the decodes get their blocks, a block or none each, and then it gets its own.
"""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxsched.engines.xla import blocks as running
from jaxsched.engines.xla import queue as waiting
from jaxsched.engines.xla.blocks import BlockSize, blocks_for, divided
from jaxsched.engines.xla.clock import LAST_TICK
from jaxsched.engines.xla.inputs import Inputs, Queue
from jaxsched.engines.xla.slots import Entrant, nobody, unused
from jaxsched.engines.xla.state import (
    NEVER,
    OPEN,
    RUN,
    UNMET,
    Entries,
    Event,
    Lane,
    LoopPlan,
    Round,
    Served,
    Slots,
    Stepper,
    empty_round,
)
from jaxsched.engines.xla.step import begin, halts, pass_rounds, pass_time
from jaxsched.policies.program import Choices

_T = TypeVar("_T")
_Leaving = tuple[running.Left, Slots, Entries, waiting.Front, jax.Array]
_Entering = tuple[jax.Array, Slots, Entries, tuple[jax.Array, ...], waiting.Front]


def step(
    lane: Lane, queue: Queue, inputs: Inputs, choices: Choices, plan: LoopPlan
) -> tuple[Lane, Event]:
    """Advances one lane to its next change and applies it; arguments and results as of `step.step`.

    At most one request leaves, and at most one enters or gets the last of its prompt.
    """
    home, now = inputs.home, lane.round
    assert now is not None
    assert inputs.worker is not None
    cap, budget, watermark = (inputs.worker[i] for i in range(3))
    block = BlockSize(*home.settle(*(inputs.worker[i] for i in range(3, 6))))
    time, blocks = home.settle(lane.time + lane.jump, divided(inputs.memory, block))
    stepping = (lane.halt == RUN) & (time < inputs.limits.max_rounds)
    if plan.clocked:
        with jax.enable_x64(True):
            stepping &= lane.clock < LAST_TICK
    with jax.named_scope("arrive"):
        arrivals = waiting.arrive(lane, queue, inputs, time, stepping, choices, plan)
    with jax.named_scope("evict"):
        usage = running.held(lane.slots, time, block, inputs, choices)
        opening = stepping & (now.left < 0)
        grant, full = _granted(now, usage.active, usage.blocks, opening, block, budget)
        some = (usage.num_late > 0) | (full > blocks)
        if usage.num_spent is not None:
            some |= usage.num_spent > 0
        (leaves,) = home.settle(opening & some)

        def leave(state: _Leaving) -> _Leaving:
            _, slots, buffer, front, _ = state
            left, slot = running.first_to_leave(slots, usage, now, time, leaves, inputs, choices)
            who = left.who
            slots = running.take_out(home, slots, who, slot, time, block)
            mine = waiting.Candidate(who.key, who.position, who.estimate, who.evictions, who.kept)
            if plan.window:
                mine = waiting.with_terms(mine, inputs, choices, who.prompt)
            buffer, front = waiting.push(inputs, buffer, front, who.evicted, mine, choices)
            return left, slots, buffer, front, waiting.crowded(home, buffer)

        buffer, front = arrivals.buffer, arrivals.front
        none = running.nobody_left(nobody(time, plan))
        crowded = waiting.crowded(home, buffer) if plan.arrivals else jnp.zeros_like(stepping)
        left, slots, buffer, front, crowded = home.when(
            leaves, leave, (none, lane.slots, buffer, front, crowded)
        )
        leaver = left.who
        short = leaver.evicted
        if usage.num_spent is not None:
            short &= usage.num_spent == 0
        unmet = (now.left == UNMET) | short
        fixed = short & (usage.blocks + blocks_for(now.done, block) <= blocks)
        gone = leaver.evicted & (leaver.position == now.index)
        now = now.replace(grant=jnp.where(fixed, grant, now.grant))
        now = _where(gone, empty_round((), plan), now)
        cached = jnp.where(leaver.evicted & ~gone, left.lost + 1, 0)
        count = usage.active - leaver.evicted.astype(np.int32)
        used = usage.blocks - blocks_for(cached, block)
        grant, used = _granted(now, count, used, opening, block, budget)
        more = (usage.num_late > 1) | (used > blocks)
        if usage.num_spent is not None:
            more |= usage.num_spent > leaver.evicted.astype(np.int32)
        more, grants, there = opening & more, opening & ~more, now.index != NEVER
        budget = jnp.where(unmet, 0, budget - count + there.astype(np.int32) - grant)
        budget = jnp.where(grants, budget, lane.round.left)
        done = now.done + jnp.where(grants, grant, 0)
        finishes = grants & there & (done == now.goal)
        used, count, budget = home.settle(used, count, budget)
    with jax.named_scope("admit"):
        chosen = _where(finishes, _middle(now), front.first._replace(terms=None))
        request = waiting.request(chosen, inputs, choices)
        own = request.prompt + chosen.kept
        alone = count == 0
        most = blocks
        if request.headroom is not None:
            most -= jnp.where(alone, 0, blocks_for(request.headroom, block))
        end = time + jnp.maximum(request.reserve - chosen.kept, 1)
        fit = running.fits_ahead(home, slots, time, end, own, most, block)
        least = jnp.minimum(blocks - jnp.where(alone, 0, watermark), most)
        room = used + blocks_for(own, block) <= least
        exists = (front.first.position != NEVER) & (count < cap)
        blocked = more | arrivals.more
        wanted = stepping & ~(blocked | finishes)
        wanted &= exists & (budget > 0) & room & fit.passes
        given = jnp.where(wanted, jnp.minimum(own, budget), 0)
        through = finishes | (given == own)
        enters, through, finishes = home.settle(wanted | finishes, through, finishes)

        def enter(state: _Entering) -> _Entering:
            _, slots, buffer, heads, front = state
            # Of who is in the middle of its prompt `finish` is NEVER.
            here = jnp.where(finishes, slots.finish == NEVER, unused(slots, time))
            (place,) = home.first_places(here, 1)
            place = jnp.where(enters, place, np.int32(slots.end.shape[-1]))
            entry = _entry(request, chosen, fit, through, now, finishes, time)
            counts = through & (place < np.int32(slots.end.shape[-1]))
            slots = running.put_in(home, slots, place, counts, entry, fit, time, block)
            taken = wanted & (place < nowhere)
            buffer, heads, front = waiting.take(
                inputs, buffer, heads, front, queue, taken.astype(np.int32), choices, plan
            )
            return place, slots, buffer, heads, front

        nowhere = jnp.full_like(time, slots.end.shape[-1])
        place, slots, buffer, heads, front = home.when(
            enters, enter, (nowhere, slots, buffer, arrivals.heads, front)
        )
        admitted = wanted & (place < nowhere)
        if plan.window:
            crowded |= waiting.out_of_sight(heads, queue, plan)
        given = jnp.where(admitted, given, 0)
        begins = finishes | (admitted & through)
    with jax.named_scope("jump"):
        prompts = jnp.where(grants, grant, 0) + given
        count, budget = count + admitted.astype(np.int32), budget - given
        used += blocks_for(given, block)
        now = now.replace(
            left=jnp.where(opening & ~grants, jnp.where(unmet, UNMET, OPEN), budget), done=done
        )
        now = _next_middle(now, chosen, own, given, admitted & ~through, finishes, time)
        changes = admitted | finishes
        wait = jnp.where(budget <= 0, np.int32(1), jnp.where(room, fit.wait, NEVER))
        wait = jnp.where(exists, jnp.where(changes, np.int32(1), wait), NEVER)
        wait = jnp.where(count < cap, wait, NEVER)
        still = stepping & ~(blocked | (wanted & ~admitted))
        ready = (budget <= 0) | (count >= cap) | (finishes & ~exists)
        still &= ~changes | ready if usage.next_spent is None else ~changes
        silent = still & ~exists & (count == 0)
        change = jnp.minimum(wait, inputs.limits.max_rounds - time)
        change = jnp.where(now.index != NEVER, np.int32(1), change)
        if usage.next_spent is not None:
            change = jnp.minimum(change, usage.next_spent)
        still, change, count = home.settle(still, change, count)

        def until(change: jax.Array) -> jax.Array:
            finish = home.lowest(jnp.where(running.decoding(slots, time), slots.finish, NEVER))
            most = jnp.minimum(change, jnp.where(finish == NEVER, NEVER, finish - time))
            fitting = running.rounds_that_fit(home, slots, time, count, blocks - used, most, block)
            return jnp.where(still & (count > 0), fitting, change)

        change = home.when(still & (count > 0), until, change)
        if plan.clocked:
            tokens = usage.tokens - cached + jnp.where(begins, own, 0) + now.done
            passing = pass_time(
                lane, arrivals, inputs, change, still, silent, prompts, count, tokens
            )
        else:
            passing = pass_rounds(arrivals, change, still, silent)
        (jump,) = home.settle(passing.jump)
        runs = (jump > 0) & (count > 0)
        piece = blocks_for(now.done, block)

        def higher(peak: jax.Array) -> jax.Array:
            most = block.tokens * (running.peak(home, slots, time, jump, block) + piece)
            return jnp.where(runs, jnp.maximum(peak, most), peak)

        peak = home.when(runs, higher, lane.peak)
        again = still & ((jump > 0) | (count == 0))
        now = now.replace(
            left=jnp.where(again, OPEN, now.left), grant=jnp.where(again, 0, now.grant)
        )
    taken = usage.active + usage.num_late - leaver.exists.astype(np.int32)
    after = Lane(
        slots=slots,
        buffer=buffer,
        time=time,
        jump=jump,
        heads=heads,
        peak=peak,
        halt=halts(lane, wanted & ~admitted, crowded, passing.idle | ~stepping),
        used=taken + admitted.astype(np.int32),
        clock=passing.clock,
        prefill=passing.prefill,
        round=now,
        front=waiting.kept(front, plan),
    )
    event = Event(
        admitted=(jnp.where(admitted, chosen.position, NEVER),),
        evicted=jnp.where(leaver.evicted, leaver.position, NEVER),
        time=time,
        lost=left.lost,
        clock=lane.clock,
        served=Served(
            begun=jnp.where(begins, chosen.position, NEVER),
            admitted=left.admitted,
            entered=left.entered,
            kept=leaver.generated,
            piece=jnp.where(runs, block.tokens * piece, 0),
        ),
    )
    return after, event


def _granted(
    now: Round,
    count: jax.Array,
    used: jax.Array,
    opening: jax.Array,
    block: BlockSize,
    budget: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """What is granted to who is in the middle of its prompt, and the blocks of all with that.

    Args:
      now: The round so far.
      count: Running requests.
      used: Blocks of those whose prompt is through.
      opening: Whether grants are still to be made.
      block: Tokens in a block.
      budget: Tokens of the round.
    """
    grant = jnp.minimum(now.goal - now.done, budget - count + 1)
    grant = jnp.where(now.grant > 0, now.grant, grant)
    grant = jnp.where(opening & (now.index != NEVER), grant, 0)
    return grant, used + blocks_for(now.done + grant, block)


def _middle(now: Round) -> waiting.Candidate:
    zero = jnp.zeros_like(now.index)
    return waiting.Candidate(zero, now.index, now.estimate, now.evictions, now.kept, zero, zero)


def _entry(
    request: Entrant,
    chosen: waiting.Candidate,
    fit: running.Fit,
    through: jax.Array,
    now: Round,
    finishes: jax.Array,
    time: jax.Array,
) -> Slots:
    """What a slot holds of one who enters, or whose prompt is through."""
    return Slots(
        end=jnp.where(through, fit.end, 0),
        load=fit.load,
        finish=jnp.where(through, time + request.output - chosen.kept, NEVER),
        admitted=jnp.where(finishes, now.admitted, time),
        prompt=request.prompt,
        estimate=chosen.estimate,
        index=chosen.position,
        evictions=chosen.evictions,
        base=fit.own - time,
        entered=chosen.kept,
    )


def _next_middle(
    now: Round,
    chosen: waiting.Candidate,
    own: jax.Array,
    given: jax.Array,
    starts: jax.Array,
    finishes: jax.Array,
    time: jax.Array,
) -> Round:
    """Who is in the middle of its prompt after one `starts` or `finishes` it."""
    zero = jnp.zeros_like(own)
    after = now.replace(
        done=jnp.where(starts, given, zero),
        goal=jnp.where(starts, own, zero), grant=zero, admitted=time,
        index=jnp.where(starts, chosen.position, NEVER),
        estimate=chosen.estimate, evictions=chosen.evictions, kept=chosen.kept,
    )  # fmt: skip
    return _where(starts | finishes, after, now)


def _where(condition: jax.Array, new: _T, old: _T) -> _T:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), new, old)


IN_ROUNDS = Stepper(step, begin)
