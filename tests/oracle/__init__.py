"""The shipped policies once more, by hand: plain Python, for the reference only.

Nothing here comes from `jaxsched.policies` but the record types, so that a mistake in a formula
there does not hide itself.
"""

from tests.oracle.live import LIVE, mcf, remaining_volume
from tests.oracle.network import a_min_network
from tests.oracle.rules import RULES, a_max, a_min, a_min_family, fcfs, h_sf, mc_sf, svf
from tests.oracle.schedulers import EXTENDED, gsa_spec, sorted_f
from tests.oracle.shipped import rule_for

ALL = {**RULES, **EXTENDED, **LIVE}

BLIND = {
    "h_sf", "fcfs", "svf:output", "sorted_f:output", "gsa_spec", "lcf", "random_victim",
    "remaining_volume", "remaining_volume:output",
}  # fmt: skip
"""Those that read no prediction."""

__all__ = [
    "ALL", "BLIND", "EXTENDED", "LIVE", "RULES", "a_max", "a_min", "a_min_family", "a_min_network",
    "fcfs", "gsa_spec", "h_sf", "mc_sf", "mcf", "remaining_volume", "rule_for", "sorted_f", "svf",
]  # fmt: skip
