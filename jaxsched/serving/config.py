"""The configuration of a serving job: `job = "serving"`."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from jaxsched import clocks
from jaxsched.config import (
    LengthsConfig,
    at_least,
    different_policies,
    no_whole_orders,
    one_of,
    prediction,
    several,
    with_key,
)

JOB = "serving"


@dataclasses.dataclass(frozen=True)
class ServingConfig:
    """Every policy under every prediction, for several rates of arrivals.

    Attributes:
      job: "serving".
      lanes: Random streams for each rate; the same requests and (stretched) arrivals for every
        rate, policy and prediction, so that comparisons are paired.
      num_requests: Requests of a stream.
      memory: KV cache of the worker, M, in tokens.
      clock: A preset of `jaxsched.clocks`.
      rates: Requests per second that arrive.
      policies: Names that `jaxsched.policy` understands.
      predictions: Interval specifications, such as "real" (see `jaxsched.specs`).
      max_batch: Most requests that run together; None for no cap.
      ttft_limit: Largest time to first token of a request that counts as good, in seconds.
      tpot_limit: Largest time per output token likewise.
      trace: Path of a trace with arrival times: each stream is so many of its requests in a row
        from a random one on, their times scaled to the rate. None: Poisson arrivals of requests
        with `lengths`.
      skip_too_large: Leave out requests of the trace that need more than the memory.
      sha256: Of the trace's bytes; filled in when the file is read.
      lengths: Where prompt and output lengths come from without a trace.
      seed: Of everything random.
    """

    job: str
    lanes: int = at_least(2)
    num_requests: int = at_least(2)
    memory: int = at_least(2)
    clock: str
    rates: tuple[float, ...]
    policies: tuple[str, ...]
    predictions: tuple[str, ...]
    max_batch: int | None = at_least(1, default=None)
    ttft_limit: float | None = None
    tpot_limit: float | None = None
    trace: str | None = None
    skip_too_large: bool = False
    sha256: str = ""
    lengths: LengthsConfig = LengthsConfig("lmsys_tokens")
    seed: int = at_least(0, default=0)

    def __post_init__(self) -> None:
        one_of("job", self.job, (JOB,))
        with_key("clock", clocks.clock, self.clock)
        several("rates", self.rates)
        for name in ("ttft_limit", "tpot_limit"):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise ValueError(f"{name}: got {limit}; expected more than 0 seconds")
        for rate in self.rates:
            if not 0 < rate < float("inf"):
                raise ValueError(f"rates: got {rate}; expected more than 0 requests per second")
        different_policies(self.policies)
        no_whole_orders(self.policies)
        several("predictions", self.predictions)
        for text in self.predictions:
            if prediction("predictions", text, self.memory).source is None and self.trace is None:
                raise ValueError('predictions: "columns" needs a trace; random lengths have none')


def with_digest(config: ServingConfig) -> ServingConfig:
    """The configuration with the SHA-256 of its trace, so that results say what they are of."""
    if config.trace is None:
        return config
    digest = hashlib.sha256(Path(config.trace).read_bytes()).hexdigest()
    return dataclasses.replace(config, sha256=digest)
