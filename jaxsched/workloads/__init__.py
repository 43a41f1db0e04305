"""Workloads: lengths, predicted intervals, arrivals and traces, and `make` to draw instances.

Host-side: every function takes an explicit key and returns numpy arrays that are the same
whatever device JAX runs on.
"""

from jaxsched.workloads import arrivals, draws, embedded, intervals, lengths, traces
from jaxsched.workloads.draws import lane_keys, uniforms
from jaxsched.workloads.generate import make
from jaxsched.workloads.joint import Lengths
from jaxsched.workloads.marginals import Marginal
from jaxsched.workloads.trace import Trace
from jaxsched.workloads.traces import (
    read_azure,
    read_burstgpt,
    read_lmsys_proxy,
    read_mooncake,
    read_servegen,
    read_table,
    read_trace,
    read_vidur,
)

__all__ = [
    "Lengths",
    "Marginal",
    "Trace",
    "arrivals",
    "draws",
    "embedded",
    "intervals",
    "lane_keys",
    "lengths",
    "make",
    "read_azure",
    "read_burstgpt",
    "read_lmsys_proxy",
    "read_mooncake",
    "read_servegen",
    "read_table",
    "read_trace",
    "read_vidur",
    "traces",
    "uniforms",
]
