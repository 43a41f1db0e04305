"""From a shipped policy, with its numbers, to the same by hand."""

from __future__ import annotations

import numpy as np

import jaxsched as js
from jaxsched.policies import Policy
from tests.oracle.live import LIVE
from tests.oracle.network import a_min_network
from tests.oracle.rules import RULES, a_min_family, fcfs
from tests.oracle.schedulers import EXTENDED, gsa_spec


def rule_for(policy: Policy) -> Policy:
    """The hand-written twin."""
    numbers = np.asarray([] if policy.params is None else policy.params).tolist()
    if policy.kind == js.a_min_family().kind:
        return a_min_family(*numbers)
    if policy.kind == js.a_min_network().kind:
        return a_min_network(numbers)
    if policy.kind == js.fcfs(watermark=1).kind:
        return fcfs(numbers)
    if policy.kind == js.gsa_spec().kind:
        return gsa_spec(numbers)
    return {**RULES, **EXTENDED, **LIVE}[policy.name]
