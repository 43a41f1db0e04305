"""jaxsched: batched, exact simulation of LLM inference scheduling under a KV-cache limit."""

from jaxsched.instance import Instance, stack
from jaxsched.policies import Policy, View, a_max, a_min, fcfs, h_sf, mc_sf, policy
from jaxsched.result import Result, Status
from jaxsched.simulate import simulate

__all__ = [
    "Instance", "Policy", "Result", "Status", "View", "a_max", "a_min", "fcfs", "h_sf", "mc_sf",
    "policy", "simulate", "stack",
]  # fmt: skip
