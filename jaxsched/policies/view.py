"""What a policy may see of a request."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class View:
    """What a policy sees of one request: whole numbers, of whatever type the engine computes in.

    Attributes:
      prompt: Prompt length in tokens.
      output: True output length in tokens; a policy that reads it is a hindsight policy.
      lower: Predicted lower bound of the output.
      upper: Predicted upper bound of the output.
      point: Point prediction of the output; `simulate` then asks for it.
      arrival: Round of arrival. Under a clock, what it compares like: the number of different
        arrivals in the lane before its own.
      memory: KV cache of the worker in tokens.
      rank: Place of the request by `Policy.rank`; 0 without.
      evictions: How often it has been evicted.
      estimate: The policy's estimate of the output, 1 to 2^31 - 2.
      generated: Tokens that it has: those generated since it was admitted, 0 while it waits. On
        the worker of a serving engine, which keeps them, all that were generated so far.
      admitted: Round of admission.
      params: `Policy.params`.
    """

    prompt: Any
    output: Any
    lower: Any
    upper: Any
    point: Any
    arrival: Any
    memory: Any
    rank: Any = 0
    evictions: Any = 0
    estimate: Any = 0
    generated: Any = 0
    admitted: Any = 0
    params: Any = None


Running = View
"""The former name of what is seen of an active request."""

VIEW_FIELDS = tuple(field.name for field in dataclasses.fields(View) if field.name != "params")

_ARRIVED = ("prompt", "output", "lower", "upper", "point", "arrival", "memory", "params")
_WAITING = (*_ARRIVED, "rank", "evictions", "estimate")
_QUEUED = (*_WAITING, "generated")

KNOWN: dict[str, tuple[str, ...]] = {
    "estimate": _ARRIVED,
    "rank": (*_ARRIVED, "estimate"),
    "admission_key": _QUEUED,
    "reserve": _QUEUED,
    "headroom": _QUEUED,
    "quantum": _WAITING,
    "refine": _QUEUED,
    "eviction_key": (*_QUEUED, "admitted"),
}
"""Function of a policy -> the fields of `View` that it may read; the others change under way."""
