"""A policy inside vLLM: `vllm serve MODEL --scheduler-cls jaxsched.vllm.Scheduler` (docs/vllm.md).

settings.py    what it is told: a policy, where predictions come from, how long anybody waits
decisions.py   the policy on live requests, without vLLM: order, victim, estimates, look-ahead
scheduler.py   vLLM's own scheduler with these decisions; the only one that imports vLLM
"""

from typing import Any

from jaxsched.vllm.settings import ServingSettings

__all__ = ["AsyncScheduler", "Scheduler", "ServingSettings"]


def __getattr__(name: str) -> Any:
    """The classes, which need vLLM, when they are asked for.

    Raises:
      ImportError: If vLLM cannot be imported, or is not built as they expect.
    """
    if name not in ("Scheduler", "AsyncScheduler"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from jaxsched.vllm import scheduler  # noqa: PLC0415

    return getattr(scheduler, name)
