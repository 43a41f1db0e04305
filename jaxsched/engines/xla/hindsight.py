"""One step of a lane under hindsight shortest first, for a backlog: one request a step.

The estimate is the output, so nobody is evicted, every reservation ends with its request, and
requests enter in a fixed order with no end beyond the newcomer's. The wait for the look-ahead test
is then exact,

    max over the ends e_j > t of min(e_j - t, reserved_j + s + (e_j - t) - M), and 0,

and completions need no step of their own.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsched.engines.xla.home import Home
from jaxsched.engines.xla.inputs import Inputs, Queue, lookup
from jaxsched.engines.xla.state import (
    DONE,
    NEVER,
    RUN,
    WANTS_SLOT,
    Event,
    Lane,
    LoopPlan,
    Slots,
    Stepper,
)
from jaxsched.policies.program import Choices


def step(
    lane: Lane, queue: Queue, inputs: Inputs, choices: Choices, plan: LoopPlan
) -> tuple[Lane, Event]:
    """Admits the next request of one lane; arguments and results as of `step.step`."""
    home, slots, time = inputs.home, lane.slots, lane.time
    taken = lane.heads[0]
    index = lookup(inputs, "order", taken)
    prompt, output = (lookup(inputs, name, index) for name in ("prompt", "output"))
    shift, prompt, output = home.settle(prompt - inputs.memory - time, prompt, output)
    wait = home.highest(jnp.minimum(slots.end - time, slots.load + shift))
    (start,) = home.settle(time + jnp.maximum(wait, 0))
    more = (taken < inputs.num_requests) & (start < inputs.limits.max_rounds)
    count = slots.end.shape[-1]
    slot = home.lowest(jnp.where(slots.end <= start, lax.iota(np.int32, count), np.int32(count)))
    active = lane.halt == RUN
    admitted, slot = home.settle(active & more & (slot < np.int32(count)), slot)
    # The use of memory peaks where a request ends; that of an end that has passed is final.
    passed = _peak_until(home, slots, jnp.minimum(start, inputs.limits.max_rounds))
    last = jnp.maximum(passed, _last_peak(home, slots, inputs.limits.max_rounds))
    peak = jnp.maximum(lane.peak, jnp.where(admitted, passed, jnp.where(more, 0, last)))
    halt = jnp.where(more, jnp.where(admitted, RUN, WANTS_SLOT), DONE)
    after = lane.replace(
        slots=_insert(home, slots, slot, admitted, prompt, output, start),
        time=jnp.where(admitted, start, time),
        heads=(taken + admitted.astype(np.int32), *lane.heads[1:]),
        peak=jnp.where(active, peak, lane.peak),
        halt=jnp.where(active, halt, lane.halt),
    )
    never = jnp.full_like(index, NEVER)
    event = Event(
        admitted=(jnp.where(admitted, index, never),),
        evicted=never,
        time=start,
        lost=jnp.zeros_like(index),
    )
    return after, event


def _insert(
    home: Home,
    slots: Slots,
    slot: jax.Array,
    admitted: jax.Array,
    prompt: jax.Array,
    output: jax.Array,
    start: jax.Array,
) -> Slots:
    end = start + output
    held = prompt + (slots.end - start)
    load = slots.load + jnp.where(admitted & (slots.end > start), held, 0)
    own = jnp.maximum(home.highest(jnp.where(slots.end == end, load, 0)), end + prompt + output)
    return slots.replace(
        end=home.put(slots.end, admitted, slot, end),
        load=home.put(load, admitted, slot, own),
        admitted=home.put(slots.admitted, admitted, slot, start),
        base=home.put(slots.base, admitted, slot, prompt - start),
    )


def _last_peak(home: Home, slots: Slots, limit: jax.Array | np.int32) -> jax.Array:
    """Largest memory still to come when nobody else is admitted before the round limit."""
    held = jnp.where(slots.end > limit, slots.base + limit, 0)
    return jnp.maximum(_peak_until(home, slots, limit), home.total(held))


def _peak_until(home: Home, slots: Slots, time: jax.Array | np.int32) -> jax.Array:
    """Largest memory at the ends up to a round; slots never used, or of an older lane, end at 0."""
    ended = (slots.end > 0) & (slots.end <= time)
    return home.highest(jnp.where(ended, slots.load - slots.end, 0))


IN_ORDER = Stepper(step, lambda lane, *_: lane)
