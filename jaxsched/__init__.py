"""jaxsched: exact, batched simulation of LLM inference scheduling under a KV-cache limit."""

from jaxsched import workloads
from jaxsched._version import __version__
from jaxsched.bounds import mean_busy_time_bound, rounds_bound
from jaxsched.instance import Instance, check_instance, stack
from jaxsched.policies import Policy, View, a_max, a_min, fcfs, h_sf, mc_sf, policy
from jaxsched.result import Result, Status
from jaxsched.simulate import simulate

__all__ = [
    "Instance",
    "Policy",
    "Result",
    "Status",
    "View",
    "__version__",
    "a_max",
    "a_min",
    "check_instance",
    "fcfs",
    "h_sf",
    "mc_sf",
    "mean_busy_time_bound",
    "policy",
    "rounds_bound",
    "simulate",
    "stack",
    "workloads",
]
