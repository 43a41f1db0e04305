"""The model in plain Python: slow, obvious, the judge of the other engines."""

from jaxsched.engines.reference.model import (
    COMPLETED,
    CUT,
    EVICTED,
    FINISHED,
    LAST_TICK,
    ROUND_LIMIT,
    Blocks,
    Clock,
    Outcome,
    Request,
    Run,
    simulate,
)

__all__ = [
    "COMPLETED", "CUT", "EVICTED", "FINISHED", "LAST_TICK", "ROUND_LIMIT", "Blocks", "Clock",
    "Outcome", "Request", "Run", "simulate",
]  # fmt: skip
