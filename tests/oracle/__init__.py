"""The shipped policies once more, by hand: plain Python, for the reference only.

Nothing here comes from `jaxsched.policies` but the record types, so that a mistake in a formula
there does not hide itself.
"""

from tests.oracle.network import a_min_network
from tests.oracle.rules import RULES, a_max, a_min, a_min_family, fcfs, h_sf, mc_sf, svf
from tests.oracle.schedulers import EXTENDED, gsa_spec, sorted_f
from tests.oracle.shipped import rule_for

ALL = {**RULES, **EXTENDED}

BLIND = {"h_sf", "fcfs", "svf:output", "sorted_f:output", "gsa_spec"}
"""Those that read no prediction."""

__all__ = [
    "ALL", "BLIND", "EXTENDED", "RULES", "a_max", "a_min", "a_min_family", "a_min_network", "fcfs",
    "gsa_spec", "h_sf", "mc_sf", "rule_for", "sorted_f", "svf",
]  # fmt: skip
