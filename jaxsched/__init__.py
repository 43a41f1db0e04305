"""jaxsched: exact, batched simulation of LLM inference scheduling under a KV-cache limit."""

from jaxsched.machine import start as _start  # noqa: F401  # isort: skip  # before all else

import importlib
import sys
from typing import Any

from jaxsched import clocks, metrics, workers, workloads
from jaxsched._version import __version__
from jaxsched.bounds import (
    busy_seconds_bound,
    lower_bound,
    mean_busy_time_bound,
    rounds_bound,
)
from jaxsched.clocks import Clock, Energy
from jaxsched.engines import reference
from jaxsched.engines import soft as relaxation
from jaxsched.instance import Instance, check_instance, stack
from jaxsched.policies import (
    Policy,
    Running,
    View,
    a_max,
    a_min,
    fcfs,
    gsa_spec,
    h_sf,
    lcf,
    mc_sf,
    mcf,
    no_evict,
    past_future,
    policy,
    priority,
    random_ties,
    random_victim,
    remaining_volume,
    sorted_f,
    svf,
    tie,
    trail,
)
from jaxsched.policies.family import FamilyParams, a_min_family
from jaxsched.policies.files import load_policy
from jaxsched.policies.network import NetworkParams, a_min_network
from jaxsched.result import Result, Status
from jaxsched.simulate import simulate
from jaxsched.studies import read_sweep
from jaxsched.workers import Worker

# Two engines are public by themselves, under names of their own.
sys.modules |= {"jaxsched.reference": reference, "jaxsched.relaxation": relaxation}


__all__ = [
    "Clock", "Energy", "FamilyParams", "Instance", "NetworkParams", "Policy", "Result",
    "Running", "Status", "View", "Worker", "__version__", "a_max", "a_min", "a_min_family",
    "a_min_network", "best_schedule", "busy_seconds_bound", "check_instance", "clocks", "fcfs",
    "gsa_spec", "h_sf", "lcf", "load_policy", "lower_bound", "mc_sf", "mcf",
    "mean_busy_time_bound", "metrics", "no_evict", "optimal", "past_future", "policy",
    "predict", "priority", "random_ties", "random_victim", "read_sweep", "reference",
    "relaxation", "remaining_volume", "rounds_bound", "simulate", "sorted_f", "stack", "svf",
    "tie", "trail", "workers", "workloads",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """What needs numba, or optax and orbax, is imported when it is first asked for."""
    if name == "predict":
        return importlib.import_module("jaxsched.predict")
    if name in ("best_schedule", "optimal"):
        return getattr(importlib.import_module("jaxsched.optimum"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
