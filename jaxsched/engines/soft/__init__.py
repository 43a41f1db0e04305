"""A differentiable relaxation of the simulator (see docs/relaxation.md).

timeline.py    the steps of time: few and coarse, or the exact events of a simulation
threshold.py   shares of requests up to a threshold that memory sets, and its derivative
order.py       the order of the expected ends; sorting.py sorts them on a CPU
step.py        evict, admit and run shares of requests for one step
simulate.py    `soft_simulate`: the steps of a lane, checkpointed, and lanes side by side
"""

from jaxsched.engines.soft.simulate import A_MIN_FAMILY, SoftResult, soft_simulate
from jaxsched.engines.soft.timeline import (
    Timeline,
    event_timeline,
    exact_timeline,
    uniform_timeline,
)

__all__ = [
    "A_MIN_FAMILY",
    "SoftResult",
    "Timeline",
    "event_timeline",
    "exact_timeline",
    "soft_simulate",
    "uniform_timeline",
]
