"""Schedulers as data: each policy is four small choices, everything else is shared."""

from jaxsched.policies.checks import check_policy_functions
from jaxsched.policies.choices import estimate_by, volume
from jaxsched.policies.interface import LARGEST, Policy, Running, View
from jaxsched.policies.names import NUMBERED, SHIPPED, policy
from jaxsched.policies.paper import a_max, a_min, fcfs, h_sf, mc_sf, svf

__all__ = [
    "LARGEST", "NUMBERED", "SHIPPED", "Policy", "Running", "View", "a_max", "a_min",
    "check_policy_functions", "estimate_by", "fcfs", "h_sf", "mc_sf", "policy", "svf", "volume",
]  # fmt: skip
