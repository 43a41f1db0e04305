"""Every metric of serving, in one table: an entry is all that a new one takes.

From `METRICS` come the fields of `Serving`, the columns of tables, the headings of what commands
print, and the table in docs/metrics.md, which defines them. All come from exact completion times.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from jaxsched.clocks import TICKS_PER_SECOND, Clock, Energy
from jaxsched.instance import Instance
from jaxsched.metrics import samples
from jaxsched.metrics.chunks import block_gaps
from jaxsched.metrics.samples import PERCENTILES, Distribution, Floats
from jaxsched.metrics.timeline import gaps
from jaxsched.result import Result, Status
from jaxsched.workers import Worker

STATISTICS = ("mean", *(f"p{q}" for q in PERCENTILES), "max")
"""What is said of a distribution."""


@dataclasses.dataclass(frozen=True)
class Value:
    """A number per lane and whether it means anything; where it does not, the value is 0.

    Attributes:
      value: Of shape [...].
      valid: Of the same shape.
    """

    value: Floats
    valid: NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Lanes:
    """Simulated lanes, as the functions of `METRICS` see them; arguments as those of `serving`.

    Numbers are per lane, of shape [...], or if `pooled` over all lanes, of shape [].
    """

    instance: Instance
    result: Result
    clock: Clock
    energy: Energy | None = None
    ttft_limit: float | None = None
    tpot_limit: float | None = None
    e2el_limit: float | None = None
    pooled: bool = False
    counted: NDArray[np.bool_] | None = None
    worker: Worker | None = None

    def over_requests(self, values: Floats, mask: NDArray[np.bool_]) -> Distribution:
        """Of numbers of requests, of shape [..., n], where the mask says so."""
        flat = (values.reshape(-1), mask.reshape(-1)) if self.pooled else (values, mask)
        return samples.of(*flat)

    def total(self, values: Any) -> Any:
        """Numbers of the lanes, of shape [...], or their sum."""
        return np.sum(values) if self.pooled else np.asarray(values)

    def rate(self, value: Any, over: Any = 1) -> Value | None:
        """A quotient of totals, valid where all requests completed and over is not 0; or None."""
        if value is None:
            return None
        whole = np.all(self.whole) if self.pooled else self.whole
        valid = np.asarray(whole & (np.asarray(over) > 0))
        return Value(np.where(valid, value / np.where(valid, over, 1), 0.0), valid)

    @functools.cached_property
    def every(self) -> samples.Requests:
        """What each request saw."""
        return samples.requests(self.instance, self.result)

    @functools.cached_property
    def seen(self) -> samples.Requests:
        """The same of the requests that count."""
        return self.every if self.counted is None else self.every.only(self.counted)

    @property
    def left(self) -> Any:
        """Requests that count and did not complete."""
        n = np.shape(self.instance.prompt)[-1]
        asked = np.arange(n) < np.asarray(self.result.num_requests)[..., None]
        asked = asked if self.counted is None else asked & self.counted
        return self.total(np.sum(asked & ~self.seen.finished, axis=-1))

    @functools.cached_property
    def whole(self) -> NDArray[np.bool_]:
        """Lanes all of whose requests completed, of shape [...] even if pooled."""
        return np.asarray(self.result.status) == Status.FINISHED

    @property
    def completed(self) -> Any:
        """Requests that completed."""
        return self.total(np.sum(self.seen.finished, axis=-1))

    @functools.cached_property
    def tokens(self) -> Any:
        """Output tokens of the requests that completed."""
        return self.total(self._sum(self.instance.output, self.seen.finished))

    @functools.cached_property
    def makespan(self) -> Any:
        """Seconds from the first arrival to the last completion; pooled, their sum."""
        finished, largest = self.seen.finished, np.iinfo(np.int64).max
        arrival = samples.arrival_ticks(self.instance)
        first = np.min(np.where(finished, arrival, largest), axis=-1)
        last = np.max(np.where(finished, self.result.ticks[..., 2], 0), axis=-1)
        return self.total(np.where(np.any(finished, axis=-1), last - first, 0) / TICKS_PER_SECOND)

    @property
    def good(self) -> Any:
        """Requests that keep the limits; None without any. TPOT is 0 for one token, as in vLLM."""
        limits = {name: getattr(self, f"{name}_limit") for name in LIMITED.values()}
        kept = [
            getattr(self.seen, name) <= limit for name, limit in limits.items() if limit is not None
        ]
        if not kept:
            return None
        return self.total(np.sum(np.all([self.seen.finished, *kept], axis=0), axis=-1))

    @property
    def attainment(self) -> Value | None:
        """Percent of the requests that keep the limits; None without any."""
        good = self.good
        return None if good is None else self.rate(100.0 * good, self.completed + self.left)

    @functools.cached_property
    def joules(self) -> Any:
        """Energy of lanes that finished; None without coefficients, and on a worker with blocks.

        Every admission is the final run's or was ended by an eviction.
        """
        if self.energy is None or (self.worker is not None and self.worker.blocks):
            return None
        result, done = self.result, self.every.finished
        again = 1 + np.asarray(result.preemptions, np.int64)
        prompts = np.sum(np.asarray(self.instance.prompt, np.int64) * again * done, axis=-1)
        generated = self._sum(self.instance.output, done) + np.asarray(result.wasted_tokens)
        rounds, used = np.asarray(result.rounds, np.int64), np.asarray(result.memory_time)
        return self.total(np.asarray(self.energy.joules(rounds, prompts, generated, used), float))

    @property
    def capacity(self) -> Any:
        """KV cache of the rounds that ran, in token-rounds."""
        rounds = np.asarray(self.result.rounds, np.int64)
        return self.total(rounds * np.asarray(self.instance.memory, np.int64))

    @property
    def peak(self) -> Any:
        """Largest share of the cache that was in use; of all lanes if pooled."""
        peak = np.asarray(self.result.peak_memory) / np.maximum(self.instance.memory, 1)
        return np.max(peak, initial=0.0) if self.pooled else peak

    def between_tokens(self) -> Distribution | None:
        """Lane by lane; lanes that did not finish have no samples. None without a history."""
        if self.result.history is None:
            return None
        found = [
            self._gaps(lane) if self.whole[lane] else samples.NOTHING
            for lane in np.ndindex(self.whole.shape)
        ]
        if self.pooled:
            columns = zip(*(one.columns for one in found), strict=True)
            found = [samples.Progressions(*map(np.concatenate, columns))]
        each = [samples.of_progressions(one, TICKS_PER_SECOND) for one in found]
        shape = () if self.pooled else self.whole.shape
        told = zip(*(dataclasses.astuple(one) for one in each), strict=True)
        return Distribution(*(np.stack(column).reshape(shape) for column in told))

    def _gaps(self, lane: tuple[int, ...]) -> samples.Progressions:
        given = (self.instance, self.result, self.clock)
        if self.worker is not None and self.worker.blocks:
            return block_gaps(*given, self.worker, lane)
        return gaps(*given, lane)

    def _sum(self, tokens: Any, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Sum over the requests of the mask, of shape [...]."""
        return np.sum(np.asarray(tokens, np.int64) * mask, axis=-1)


LIMITED = {"ttft": "ttft", "tpot": "tpot", "e2e": "e2el"}
"""What a service level can limit, and the metric that it is a limit of."""


def read_slo(text: str) -> dict[str, float]:
    """Limits of a service level such as "ttft=2,tpot=0.2,e2e=30", in seconds.

    By the names of the arguments of `serving`, such as `ttft_limit`. ValueError if it is none.
    """
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (piece.strip() for piece in part.partition("="))
        try:
            seconds = float(number)
        except ValueError:
            seconds = math.nan
        if name not in LIMITED or f"{LIMITED[name]}_limit" in limits or not seconds > 0:
            expected = "limits of more than 0 seconds, each once, such as ttft=2,tpot=0.2,e2e=30"
            raise ValueError(f"got {part!r} in {text!r}; expected {expected}")
        limits[f"{LIMITED[name]}_limit"] = seconds
    return limits


UNITS = ("s", "whole s", "1/s", "tokens", "tokens/s", "share", "percent", "J", "J/token", "")
"""Units of metrics; of "whole s" no fraction matters, and "" is a number of things."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """An entry of `METRICS`.

    Attributes:
      title: What it is, in words.
      formula: How it is computed, in the letters of docs/metrics.md.
      unit: One of `UNITS`.
      of: Lanes -> a `Distribution`, a `Value`, or numbers that are always valid; None where what
        it needs (a history, limits, an energy) was not given.
      heading: What printed tables call it; "" where they leave it out.
      means: Which of its columns tables of several streams take means of: statistics of a
        distribution such as "p99", or "" for the number itself.
      swept: Which of its columns sweeps have.
      with_limits: Which of them they have if there is a service level.
    """

    title: str
    formula: str
    unit: str
    of: Callable[[Lanes], Any]
    heading: str = ""
    means: tuple[str, ...] = ()
    swept: tuple[str, ...] = ()
    with_limits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"{self.title}: unit is {self.unit!r}; expected one of {UNITS}")


METRICS: dict[str, Metric] = {
    "ttft": Metric(
        "time to first token, TTFT", "`F − a`", "s", heading="TTFT",
        of=lambda lanes: lanes.over_requests(lanes.seen.ttft, lanes.seen.finished),
        means=("mean", "p50", "p99", "max"), swept=("mean", "p99"),
    ),
    "tpot": Metric(
        "time per output token, TPOT", "`(C − F) / (o − 1)`, for `o > 1`", "s", heading="TPOT",
        of=lambda lanes: lanes.over_requests(lanes.seen.tpot, lanes.seen.several),
        means=("mean", "p99"), swept=("mean", "p99"),
    ),
    "itl": Metric(
        "inter-token latency, ITL", "times between consecutive tokens as the client sees them", "s",
        heading="ITL", of=lambda lanes: lanes.between_tokens(),
    ),
    "e2el": Metric(
        "end-to-end latency, E2EL", "`C − a`", "s", heading="end to end",
        of=lambda lanes: lanes.over_requests(lanes.seen.e2el, lanes.seen.finished),
        means=("mean", "p50", "p99", "max"), swept=("p99",),
    ),
    "queueing": Metric(
        "queueing delay", "`A − a`", "s", heading="queueing",
        of=lambda lanes: lanes.over_requests(lanes.seen.queueing, lanes.seen.finished),
        means=("mean", "max"),
    ),
    "completed": Metric(
        "completed", "requests that did", "", of=lambda lanes: lanes.completed,
    ),
    "unfinished": Metric(
        "unfinished", "requests that did not complete", "",
        of=lambda lanes: lanes.left,
    ),
    "makespan": Metric(
        "makespan", "last `C` − first `a`", "whole s", heading="makespan",
        of=lambda lanes: lanes.rate(lanes.makespan),
    ),
    "request_throughput": Metric(
        "request throughput", "completed / makespan", "1/s", heading="req/s",
        of=lambda lanes: lanes.rate(lanes.completed, lanes.makespan), means=("",), swept=("",),
    ),
    "output_throughput": Metric(
        "output throughput", "Σ `o` / makespan", "tokens/s", heading="tok/s",
        of=lambda lanes: lanes.rate(lanes.tokens, lanes.makespan), means=("",),
    ),
    "attainment": Metric(
        "attainment", "requests that keep every limit given / all requests · 100", "percent",
        heading="kept",
        of=lambda lanes: lanes.attainment, means=("",), with_limits=("",),
    ),
    "goodput": Metric(
        "goodput",
        "requests with TTFT ≤ `ttft_limit`, TPOT ≤ `tpot_limit` and E2EL ≤ `e2el_limit` / "
        "makespan; TPOT is 0 for `o = 1`", "1/s", heading="good/s", with_limits=("",),
        of=lambda lanes: lanes.rate(lanes.good, lanes.makespan), means=("",),
    ),
    "preemptions": Metric(
        "preemptions", "evictions", "", heading="preempted",
        of=lambda lanes: lanes.total(np.asarray(lanes.result.evictions, np.int64)), means=("",),
    ),
    "wasted_tokens": Metric(
        "wasted tokens", "tokens lost to evictions", "", heading="wasted",
        of=lambda lanes: lanes.total(lanes.result.wasted_tokens), means=("",),
    ),
    "kv_mean": Metric(
        "KV use, mean", "Σ over the rounds of the cache in use / (`R M`)", "share", heading="KV",
        of=lambda lanes: lanes.rate(lanes.total(lanes.result.memory_time), lanes.capacity),
        means=("",),
    ),
    "kv_peak": Metric(
        "KV use, peak", "largest cache in use in a round / `M`", "share", heading="peak",
        of=lambda lanes: lanes.rate(lanes.peak), means=("",),
    ),
    "energy": Metric(
        "energy", "`fixed R + per_prompt_token ΣP + per_request ΣD + per_cache_token ΣK`", "J",
        heading="joules",
        of=lambda lanes: lanes.rate(lanes.joules),
    ),
    "energy_per_token": Metric(
        "energy per token", "energy / Σ `o`", "J/token", heading="J/tok",
        of=lambda lanes: lanes.rate(
            lanes.joules, lanes.total(lanes._sum(lanes.instance.output, lanes.every.finished))
        ), means=("",), swept=("",),
    ),
}  # fmt: skip
"""Metrics by name, in the order of the columns of tables."""


def column(name: str, statistic: str = "") -> str:
    """The column of a metric or of a statistic of it, such as `p99_ttft`."""
    return f"{statistic}_{name}" if statistic else name


MEANS = tuple(column(name, part) for name, one in METRICS.items() for part in one.means)
"""Columns that tables of several streams take means of."""

SWEPT = tuple(
    sorted(
        (column(name, part) for name, one in METRICS.items() for part in one.swept),
        key=lambda name: not name.endswith("e2el"),  # first, beside the mean latency
    )
)
"""Columns of a sweep that only simulations under a clock have."""


LIMITED_COLUMNS = tuple(
    column(name, part) for name, one in METRICS.items() for part in one.with_limits
)
"""Columns of a sweep that only those with a service level have."""


def rows() -> Iterator[tuple[str, ...]]:
    """Rows of the documentation's table: metric, field, formula, unit."""
    for name, one in METRICS.items():
        yield one.title, f"`{name}`", one.formula, one.unit.removeprefix("whole ")


class Serving(types.SimpleNamespace):
    """Metrics of serving, per lane (shape [...]) or pooled (shape []); a field for each `METRICS`.

    Distributions are over the requests that completed. What needs the end of a lane (throughput,
    goodput, makespan, KV use, energy, ITL) is valid only if all its requests completed. A field is
    None where what it needs was not given: ITL a history, goodput limits, energy coefficients.
    """

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"metric {name!r} is not known; expected one of {list(METRICS)}")


def serving(
    instance: Instance,
    result: Result,
    clock: Clock,
    *,
    energy: Energy | None = None,
    ttft_limit: float | None = None,
    tpot_limit: float | None = None,
    e2el_limit: float | None = None,
    pooled: bool = False,
    names: Iterable[str] | None = None,
    counted: NDArray[np.bool_] | None = None,
    worker: Worker | None = None,
) -> Serving:
    """Metrics of simulations under a clock, under the names and definitions of vLLM's benchmark.

    Args:
      instance: What was simulated, with requests of shape [..., n]; concrete.
      result: What `simulate(instance, policy, clock=clock)` made of it. ITL needs `history=True`.
      clock: The clock that was simulated.
      energy: Joules of a round, such as `clocks.energy("llama2_70b_2xa100")`.
      ttft_limit: A good request's largest TTFT in seconds; None for no such limit.
      tpot_limit: Its largest TPOT in seconds; None for no such limit.
      e2el_limit: Its largest end-to-end latency in seconds; None for no such limit.
      pooled: One distribution over the requests of all lanes, and sums over lanes; lanes that did
        not finish make the sums invalid.
      names: Which of `METRICS` to compute; None for all.
      counted: Mask of the requests that count, of shape [..., n], such as all but those of a
        warm-up; None for all. What is of the worker rather than of requests (ITL, preemptions,
        wasted tokens, KV use, energy) is over all of them.
      worker: The worker that was simulated, the papers' by default; there is no energy on others.

    Raises:
      TypeError: If an argument is traced.
      ValueError: If the result has no times, a limit is not positive, or `clock` is not the one
        that was simulated (seen where ITL is computed).
    """
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((instance, result))):
        raise TypeError("metrics: got traced arrays; expected concrete ones, outside jit")
    limits = {"ttft_limit": ttft_limit, "tpot_limit": tpot_limit, "e2el_limit": e2el_limit}
    for name, limit in limits.items():
        if limit is not None and not limit > 0:
            raise ValueError(f"{name} is {limit}; expected more than 0 seconds")
    lanes = Lanes(
        instance, result, clock, energy, pooled=pooled, counted=counted, worker=worker, **limits
    )
    chosen = METRICS if names is None else names
    return Serving(**{name: METRICS[name].of(lanes) for name in chosen})


def figures(metrics: Serving) -> Iterator[tuple[str, Floats, NDArray[np.bool_]]]:
    """Every number of a `Serving` as (name, values, valid), named such as `p99_ttft`."""
    for name, found in vars(metrics).items():
        if isinstance(found, Distribution):
            for part in STATISTICS:
                yield column(name, part), getattr(found, part), found.valid
        elif isinstance(found, Value):
            yield name, found.value, found.valid
        elif found is not None:
            yield name, found, np.ones(np.shape(found), bool)
