"""Schedulers as data: a policy is an estimate and a few choices; everything else is shared.

view.py         what a policy sees of a request
arithmetic.py   what its functions are written with, in whole numbers and in floats
interface.py    `Policy`
program.py      what its functions compute, as a list of operations that engines compile
ranges.py       between which values each of them stays
simplify.py     what is left of them where numbers are 0
paper.py published.py live.py family.py network.py   the shipped ones
files.py own.py names.py                     tuned rules, policies of one's own, and all by name
"""

from jaxsched.policies.arithmetic import LARGEST
from jaxsched.policies.interface import Policy
from jaxsched.policies.live import (
    lcf,
    mcf,
    past_future,
    random_ties,
    random_victim,
    remaining_volume,
    tie,
    trail,
)
from jaxsched.policies.names import NUMBERED, SHIPPED, policy, policy_files, usage
from jaxsched.policies.paper import (
    a_max,
    a_min,
    fcfs,
    h_sf,
    mc_sf,
    no_evict,
    priority,
    svf,
)
from jaxsched.policies.published import gsa_spec, sorted_f
from jaxsched.policies.view import Running, View

__all__ = [
    "LARGEST", "NUMBERED", "SHIPPED", "Policy", "Running", "View", "a_max", "a_min", "fcfs",
    "gsa_spec", "h_sf", "lcf", "mc_sf", "mcf", "no_evict", "past_future", "policy", "policy_files",
    "priority", "random_ties", "random_victim", "remaining_volume", "sorted_f", "svf", "tie",
    "trail", "usage",
]  # fmt: skip
