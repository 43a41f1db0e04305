"""A trace of real requests, as read by `traces`: arrays, lengths to draw from, or one instance."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from jaxsched.instance import Instance, check_instance
from jaxsched.workloads import draws, generate
from jaxsched.workloads.arrivals import to_rounds, trace_seconds
from jaxsched.workloads.checks import whole
from jaxsched.workloads.intervals import IntervalSource
from jaxsched.workloads.joint import Drawn, Lengths
from jaxsched.workloads.lengths import empirical
from jaxsched.workloads.marginals import Marginal


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """Requests of a trace in the order of arrival.

    Attributes:
      output: Output lengths in tokens, int32 of shape [K].
      prompt: Prompt lengths in tokens, int32 of shape [K]; None if the file has none.
      arrival_seconds: Arrival times in seconds, non-decreasing, float64 of shape [K]; None if the
        file has none. Dates count from the first request.
      lower: Lower bounds of the predicted output lengths, int32 of shape [K], or None.
      upper: Upper bounds, likewise.
      line: Line of the file that each request ends in (of a Parquet file its row), from 1, of shape
        [K], or None.
      source: Path of the file.
      skipped: Rows left out because their output was 0 and the caller asked for that.
      moved: Rows that arrived earlier than a row before them in the file, before sorting.
      unterminated: Whether it is CSV whose last line does not end in a newline, as if cut off.
    """

    output: np.ndarray
    prompt: np.ndarray | None = None
    arrival_seconds: np.ndarray | None = None
    lower: np.ndarray | None = None
    upper: np.ndarray | None = None
    line: np.ndarray | None = None
    source: str = ""
    skipped: int = 0
    moved: int = 0
    unterminated: bool = False

    def __len__(self) -> int:
        return len(self.output)

    def select(self, rows: slice | np.ndarray) -> Trace:
        """The trace of some rows: a slice, a mask of shape [K] or increasing row numbers.

        Raises:
          ValueError: If no row is left.
        """
        names = ("output", "prompt", "arrival_seconds", "lower", "upper", "line")
        columns = {name: getattr(self, name) for name in names}
        picked = {name: None if c is None else c[rows] for name, c in columns.items()}
        if not len(picked["output"]):
            raise ValueError(f"{self.source}: none of the {len(self)} requests is left")
        return dataclasses.replace(self, **picked)

    def lengths(self, prompt: int | Marginal | None = None) -> Lengths:
        """Lengths drawn from the trace's rows, each with its own interval if the trace has them.

        Args:
          prompt: Prompt length, or law of it, for a trace that has no prompts.
        """
        return empirical(self._prompts(prompt), self.output, lower=self.lower, upper=self.upper)

    def instance(
        self,
        memory: int,
        *,
        intervals: IntervalSource | None = None,
        key: jax.Array | None = None,
        prompt: int | None = None,
        limit: int | None = None,
        rounds_per_second: float | None = None,
        speed: float | None = None,
        point: generate.PointSource | None = None,
    ) -> Instance:
        """The trace itself as one instance, request i being row i.

        Args:
          memory: KV cache in tokens.
          intervals: Where predictions come from; `None` for the trace's own.
          key: Key for random intervals or points; those that are not random need none.
          prompt: Prompt length for a trace that has no prompts.
          limit: Use the first `limit` requests only.
          rounds_per_second: Turns arrival times into rounds, ceil((t_i - t_0) · rounds_per_second);
            `None` for a backlog.
          speed: Keeps arrival times in seconds, (t_i - t_0) / speed, for simulations under a clock;
            1.0 for the trace's own rate of arrivals.
          point: Where point predictions come from; `None` for the interval's midpoint.

        Raises:
          TypeError: If memory, prompt or limit are no integers.
          ValueError: If a request needs more than the memory, predictions, prompts or arrivals are
            asked for but missing, or arrivals are asked for in both units.
        """
        if limit is not None and whole("limit", limit) > len(self):
            raise ValueError(f"limit is {limit}; expected 1 to the trace's {len(self)} requests")
        rows = self.select(slice(limit))
        ways = (generate.INTERVALS, generate.POINT)
        keys = [None if key is None else draws.purpose(key, way) for way in ways]
        own = Drawn(rows.output, rows.output, rows.lower, rows.upper)
        lower, upper = generate.predict(keys[0], intervals, own)
        instance = Instance(
            prompt=np.broadcast_to(np.asarray(rows._prompts(prompt), np.int32), rows.output.shape),
            output=rows.output,
            lower=lower,
            upper=upper,
            memory=np.asarray(memory),
            arrival=rows._arrival(rounds_per_second, speed),
            point=generate.points(keys[1], point, rows.output, lower, upper),
        )
        check_instance(instance)
        return instance

    def _prompts(self, given: int | Marginal | None) -> np.ndarray | int | Marginal:
        if (self.prompt is None) == (given is None):
            what = (
                "no prompts; expected prompt=" if given is None else "prompts; expected no prompt="
            )
            raise ValueError(f"{self.source}: has {what}")
        if self.prompt is None:
            return given if isinstance(given, Marginal) else whole("prompt", given)
        return self.prompt

    def _arrival(self, rounds_per_second: float | None, speed: float | None) -> np.ndarray | None:
        """Rounds or seconds from the first request on, or None for a backlog."""
        given = {"rounds_per_second": rounds_per_second, "speed": speed}
        asked = [name for name, value in given.items() if value is not None]
        if not asked:
            return None
        if len(asked) > 1:
            raise ValueError("speed: expected no rounds_per_second= with it")
        if self.arrival_seconds is None:
            raise ValueError(f"{self.source}: has no arrivals; expected no {asked[0]}=")
        if speed is None:
            return to_rounds(self.arrival_seconds - self.arrival_seconds[0], rounds_per_second)
        # Nothing is random in it, so any key will do.
        times = trace_seconds(self.arrival_seconds, speed)
        return times(jax.random.key(0), self.arrival_seconds.shape)
