"""Workloads: lengths, predicted intervals, arrivals and traces, and `make` to draw instances.

Host-side: every function takes an explicit key and returns numpy arrays that are the same
whatever device JAX runs on. For each format of traces there is a function `read_NAME`.
"""

from typing import Any

from jaxsched.workloads import arrivals, draws, embedded, intervals, lengths, traces
from jaxsched.workloads.draws import lane_keys, uniforms
from jaxsched.workloads.fleet import replicas, route
from jaxsched.workloads.generate import make
from jaxsched.workloads.lengths import Lengths
from jaxsched.workloads.marginals import Marginal
from jaxsched.workloads.traces import Trace, read_table, read_trace

__all__ = [
    "Lengths", "Marginal", "Trace", "arrivals", "draws", "embedded", "intervals", "lane_keys",
    "lengths", "make", "read_table", "read_trace", "replicas", "route", "traces", "uniforms",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name.startswith("read_") and name[5:] in traces.FORMATS:
        return getattr(traces, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *(f"read_{name}" for name in traces.FORMATS)]
