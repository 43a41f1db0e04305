"""A policy of your own: an estimate and a few choices, written once, on every engine.

python examples/own_policy.py
jaxsched simulate TRACE --memory 5000 --interval relative:0.5 --policies fcfs,own_policy.py:CAUTIOUS
"""

from functools import partial
from typing import Any

import jax

import jaxsched as js
from jaxsched.policies.arithmetic import most, over
from jaxsched.testing import check_policy


def halfway(r: js.View) -> Any:
    """Estimates an output by the middle of its interval."""
    return r.lower + over(r.upper - r.lower, 2)


def three_quarters(r: js.View) -> Any:
    """Reserves more than the estimate, so that fewer requests are evicted."""
    return most(r.estimate, over(r.lower + 3 * r.upper, 4))


CAUTIOUS = js.Policy("cautious", estimate=halfway, reserve=three_quarters)


def main() -> None:
    """Checks the policy against the plain model, and compares it."""
    check_policy(CAUTIOUS)
    lengths = js.workloads.embedded.lmsys().truncated(max_output=1000)
    wide = js.workloads.intervals.relative(0.9)
    make = partial(js.workloads.make, n=500, lanes=64, memory=16_492)
    instances = make(jax.random.key(0), lengths=lengths, intervals=wide)
    for policy in (js.Policy("halfway", estimate=halfway), CAUTIOUS, js.a_max(), js.a_min()):
        latency = js.simulate(instances, policy).mean_latency
        print(f"{policy.name:18} {latency.mean():6.1f} rounds")


if __name__ == "__main__":
    main()
