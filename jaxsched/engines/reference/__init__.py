"""The model in plain Python, and the shipped policies: slow, obvious, the judge of the engines."""

from jaxsched.engines.reference.model import (
    COMPLETED,
    CUT,
    EVICTED,
    FINISHED,
    LAST_TICK,
    ROUND_LIMIT,
    Clock,
    Known,
    Outcome,
    Request,
    Rule,
    Run,
    simulate,
)
from jaxsched.engines.reference.network import a_min_network
from jaxsched.engines.reference.rules import (
    RULES,
    a_max,
    a_min,
    a_min_family,
    fcfs,
    h_sf,
    mc_sf,
    svf,
)
from jaxsched.engines.reference.schedulers import EXTENDED, gsa_spec, sorted_f

__all__ = [
    "COMPLETED", "CUT", "EVICTED", "EXTENDED", "FINISHED", "LAST_TICK", "ROUND_LIMIT", "RULES",
    "Clock", "Known", "Outcome", "Request", "Rule", "Run", "a_max", "a_min", "a_min_family",
    "a_min_network", "fcfs", "gsa_spec", "h_sf", "mc_sf", "simulate", "sorted_f", "svf",
]  # fmt: skip
