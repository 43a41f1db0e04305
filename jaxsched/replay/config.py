"""The options of `jaxsched simulate`, checked."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from jaxsched import clocks, specs
from jaxsched.config import (
    at_least,
    different_policies,
    no_whole_orders,
    one_of,
    prediction,
    several,
    with_key,
)
from jaxsched.workloads import traces

FORMATS = ("auto", *traces.FORMATS)


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """What to simulate; the fields are the options of `jaxsched simulate`.

    Attributes:
      trace: Path of the file.
      memory: KV cache in tokens.
      policies: Names that `jaxsched.policy` understands.
      interval: A prediction (see `jaxsched.specs`); None for the trace's own.
      format: One of `FORMATS`; "auto" goes by the file's header.
      columns: FIELD=COLUMN for a file of no known format (see `traces.read_table`).
      prompt: Prompt length of every request, for a trace without prompts.
      limit: Take this many requests; None for all.
      seed: Shuffle the requests before anything else; None to keep the trace's order.
      arrivals: When requests arrive (see `jaxsched.specs`).
      clock: A preset of `jaxsched.clocks`, for results in seconds; None to count rounds.
      max_batch: Most requests that run together; None for no cap.
      ttft_limit: Largest time to first token of a request that counts as good, in seconds.
      tpot_limit: Largest time per output token likewise.
      skip_too_large: Leave out requests that need more than the memory.
      skip_zero_output: Leave out requests without output, such as failed ones.
      sha256: Of the trace's bytes, so that results say which trace they are of.
    """

    trace: str
    memory: int = at_least(2)
    policies: tuple[str, ...]
    interval: str | None = None
    format: str = "auto"
    columns: tuple[str, ...] = ()
    prompt: int | None = at_least(1, default=None)
    limit: int | None = at_least(1, default=None)
    seed: int | None = at_least(0, default=None)
    arrivals: str = "backlog"
    clock: str | None = None
    max_batch: int | None = at_least(1, default=None)
    ttft_limit: float | None = None
    tpot_limit: float | None = None
    skip_too_large: bool = False
    skip_zero_output: bool = False
    sha256: str = ""

    def __post_init__(self) -> None:
        different_policies(self.policies)
        if self.interval is not None:
            prediction("interval", self.interval, self.memory)
        one_of("format", self.format, FORMATS)
        if self.columns and self.format != "auto":
            raise ValueError(f"format is {self.format!r}; expected no format with named columns")
        for pair in self.columns:
            if not all(pair.partition("=")):
                raise ValueError(f"columns: got {pair!r}; expected FIELD=COLUMN")
        if self.columns:
            several("columns", tuple(pair.partition("=")[0] for pair in self.columns))
        if self.arrivals != "backlog":
            no_whole_orders(self.policies)
        self._check_time()

    def _check_time(self) -> None:
        """Arrivals and limits in seconds go with a clock, rounds without."""
        arrivals = with_key("arrivals", specs.arrivals, self.arrivals)
        limits = {"ttft_limit": self.ttft_limit, "tpot_limit": self.tpot_limit}
        if self.clock is not None:
            with_key("clock", clocks.clock, self.clock)
            if arrivals.kind == "rounds":
                raise ValueError(
                    f"arrivals: got {self.arrivals!r}; expected trace, poisson:RATE or backlog "
                    "under a clock"
                )
        elif arrivals.in_seconds:
            raise ValueError(f"arrivals: {self.arrivals!r} is in seconds; expected a --clock")
        for name, limit in limits.items():
            if limit is not None and self.clock is None:
                raise ValueError(f"{name}: {limit} is in seconds; expected a --clock")
            if limit is not None and not limit > 0:
                raise ValueError(f"{name}: got {limit}; expected more than 0 seconds")


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
