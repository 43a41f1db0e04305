"""Short texts for lengths, arrivals and policies, as written in the configuration of a sweep.

Workloads: a law of output lengths, then options after commas.

    lmsys, lmsys_tokens, sharegpt    the embedded distributions
    uniform:LOW:HIGH                 outputs equally likely; the prompt is one token
    geometric:MEAN:MAX               geometric outputs up to MAX; the prompt is one token
    trace:FILE                       the requests of a trace, drawn with replacement
    …,prompt:LOW:HIGH                prompts equally likely, for uniform and geometric
    …,max_prompt:N …,max_output:N …,max_total:N    the law given these limits, in tokens

Arrivals:

    backlog                          everything is there from the start
    poisson:RATE                     RATE requests per round, or per second under a clock
"""

from __future__ import annotations

import dataclasses
import math

from jaxsched import policies, specs
from jaxsched.policies import Policy, family
from jaxsched.workloads import arrivals, lengths, traces
from jaxsched.workloads.arrivals import ArrivalSource
from jaxsched.workloads.lengths import Lengths

FAMILY = "a_min_family"
LIMITS = ("max_prompt", "max_output", "max_total")
USAGE = {
    "uniform": "uniform:LOW:HIGH, such as uniform:1:100",
    "geometric": "geometric:MEAN:MAX, such as geometric:50:1000",
    "trace": "trace:FILE, such as trace:requests.csv",
}
OPTIONS = "prompt:LOW:HIGH, max_prompt:N, max_output:N or max_total:N"


def workload(text: str) -> Lengths:
    """Reads the text of a workload.

    Raises:
      ValueError: If it is none; the text says what was expected.
      OSError: If it names a trace that cannot be read.
    """
    head, *options = text.split(",")
    kind, _, rest = head.partition(":")
    try:
        chosen = [_option(option) for option in options]
        prompt = [numbers for name, numbers in chosen if name == "prompt"]
        if prompt and kind not in ("uniform", "geometric"):
            raise ValueError(f"{kind} has prompts of its own; expected no option prompt")
        law = _law(kind, rest, (prompt[0][0], prompt[0][1]) if prompt else 1)
        limits = {name: numbers[0] for name, numbers in chosen if name in LIMITS}
        return law.truncated(**limits) if limits else law
    except ValueError as error:
        raise ValueError(f"workload {text!r}: {error}") from None


def trace_file(text: str) -> str | None:
    """The file that a workload is drawn from, if it is a trace."""
    kind, _, rest = text.split(",")[0].partition(":")
    return rest if kind == "trace" else None


def _law(kind: str, rest: str, prompt: lengths.Spec) -> Lengths:
    if kind in specs.LENGTHS:
        if rest:
            raise ValueError(f"got {rest!r} after the colon; expected {kind} without it")
        return specs.LENGTHS[kind]()
    if kind == "uniform":
        low, high = _whole(rest, 2, USAGE[kind])
        return lengths.uniform((low, high), prompt=prompt)
    if kind == "geometric":
        mean, maximum = _whole(rest, 2, USAGE[kind])
        return lengths.geometric(mean, prompt=prompt, maximum=maximum)
    if kind == "trace":
        if not rest:
            raise ValueError(f"got no file; expected {USAGE[kind]}")
        return traces.read_trace(rest).lengths()
    known = (*specs.LENGTHS, *USAGE)
    raise ValueError(specs.unknown(repr(kind), kind, known, "law of lengths"))


def _option(text: str) -> tuple[str, list[int]]:
    name, _, rest = text.partition(":")
    if name not in ("prompt", *LIMITS):
        raise ValueError(f"got option {text!r}; expected {OPTIONS}")
    return name, _whole(rest, 2 if name == "prompt" else 1, OPTIONS)


def _whole(rest: str, count: int, usage: str) -> list[int]:
    parts = rest.split(":")
    if len(parts) != count or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"got {rest!r}; expected {usage}, in whole numbers")
    return [int(part) for part in parts]


def policy(text: str) -> tuple[str, Policy]:
    """Reads the text of a policy.

    Besides the names that `jaxsched.policy` understands there is the A_min family with its numbers,
    such as "a_min_family:start=0.2,run_growth=1" (see `jaxsched.FamilyParams`).

    Returns:
      What tables call it, and the policy. Of policies with numbers that is the text.

    Raises:
      ValueError: If there is no such policy.
    """
    kind, _, rest = text.partition(":")
    if kind != FAMILY:
        found = policies.policy(text)
        return (found.name if found.params is None else text), found
    numbers = {}
    for part in filter(None, rest.split(",")):
        name, _, number = part.partition("=")
        if name not in family.FIELDS:
            raise ValueError(specs.unknown(repr(name), name, family.FIELDS, "number of the family"))
        try:
            numbers[name] = float(number)
        except ValueError:
            raise ValueError(f"policy {text!r}: {number!r} is not a number") from None
    return text, family.a_min_family(family.FamilyParams(**numbers))


@dataclasses.dataclass(frozen=True)
class Arrivals:
    """A kind of arrivals.

    Attributes:
      text: What it was read from.
      rate: Requests per round, or per second under a clock; infinite for a backlog.
    """

    text: str
    rate: float

    def source(self, in_seconds: bool) -> ArrivalSource | None:
        """As in `jaxsched.workloads.arrivals`, in rounds or in seconds; None for a backlog."""
        if math.isinf(self.rate):
            return None
        return (arrivals.poisson_seconds if in_seconds else arrivals.poisson)(self.rate)


def arrival(text: str) -> Arrivals:
    """Reads the text of arrivals.

    Raises:
      ValueError: If it is none.
    """
    kind, _, rest = text.partition(":")
    if text == "backlog":
        return Arrivals(text, math.inf)
    try:
        rate = float(rest) if kind == "poisson" else math.nan
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise ValueError(f"arrivals {text!r}; expected backlog, or poisson:RATE of more than 0")
    return Arrivals(text, rate)
