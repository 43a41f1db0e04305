"""What is tuned for: instances drawn afresh, and scores of candidates on them.

The score of a rule on an instance is ln(x / x of the yardstick), by the hard simulator, where x is
the mean latency, or a weighted sum of such logarithms: of the mean, of the P99, and of 1 + the
requests that miss a service level. The yardstick is `h_sf` for the mean of backlogs on the papers'
worker, else `fcfs`. All candidates of a step meet the same instances, so that their differences are
paired; so do all loads and predictions.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxsched import clocks, metrics, policies, workloads
from jaxsched.instance import MAX_ROUND, Instance
from jaxsched.policies.family import a_min_family
from jaxsched.policies.network import a_min_network
from jaxsched.result import Result
from jaxsched.simulate import simulate
from jaxsched.studies import frames
from jaxsched.studies.capacity import sustained_rate
from jaxsched.studies.draw import concatenate, stretches
from jaxsched.studies.trace import check_fit, read_requests
from jaxsched.tuning.config import TuneConfig, read_objective
from jaxsched.workers import worker_named
from jaxsched.workloads import Trace, draws, generate
from jaxsched.workloads.intervals import IntervalSource
from jaxsched.workloads.texts import read_prediction

TUNING, VALIDATION, TEST = range(3)
"""What instances are for; each draws with a key of its own."""

SHARES = (0.5, 0.25, 0.25)
"""Of the rows of a trace, in the same order."""

Measured = dict[str, NDArray[np.float64]]
"""Name of a measure -> its values, of shape [..., L]."""


class Setting(NamedTuple):
    """What a part of the instances of a batch has in common."""

    prediction: str  # an interval specification
    load: float  # share of what fcfs sustains, or rate; 0 without


class Batch(NamedTuple):
    """Instances to score candidates on."""

    instance: Instance  # of lane shape [L], the lanes of the first setting first
    yardstick: Measured  # of the first policy of `TuneConfig.against`, of shape [L]


BESIDE = ("latency_p99", "longest_wait")
"""What is told beside the scores on test instances."""


class Problem:
    """The instances and scores of a configuration.

    Raises:
      ValueError: If the trace or an instance is refused.
    """

    policy: Callable[..., policies.Policy]  # from the numbers of a rule
    trace: Trace | None  # whose requests are drawn

    def __init__(self, config: TuneConfig) -> None:
        self.config = config
        self.trace = None if config.trace is None else _requests(config)
        self._parts = [] if self.trace is None else _parts(config, self.trace)
        self._lengths = [part.lengths() for part in self._parts] or [config.lengths.law] * 3
        self._weights = read_objective(config.objective)
        self._clock = None if config.clock is None else clocks.clock(config.clock)
        worker = None if config.worker is None else worker_named(config.worker)
        self._given: dict[str, Any] = {"clock": self._clock, "worker": worker}
        self.policy = a_min_family if config.member == "family" else a_min_network
        instance = self._instances(VALIDATION, config.validation_lanes)
        found = simulate(instance, policies.policy(config.against[0]), **self._given)
        # A candidate is stopped after twice the rounds of the yardstick; of a power of two, so that
        # few programs are compiled.
        self.last_round = 1 << int(2 * np.max(found.rounds)).bit_length()
        self._last = float(self.last_round)
        if self._clock is not None:
            self._last = 2 * float(np.max(found.completion_seconds))
        self.validation = Batch(instance, self.measures(instance, found))

    @property
    def settings(self) -> list[Setting]:
        """Every prediction at every load or rate, in order of the lanes."""
        loads = self.config.loads or self.config.rates or (0.0,)
        return [Setting(*pair) for pair in itertools.product(self.config.predictions, loads)]

    @functools.cached_property
    def sustained(self) -> float:
        """Requests per second, or per round, that `fcfs` sustains on the worker."""
        return sustained_rate(self._lengths[TUNING], self.config.memory, **self._given)

    def fresh(self, step: int) -> Batch:
        """The instances of a step."""
        return self._batch(TUNING, self.config.lanes, first_lane=step * self.config.lanes)

    @functools.cached_property
    def test(self) -> Batch:
        """Instances that nothing is chosen on."""
        return self._batch(TEST, self.config.test_lanes)

    def work(self, candidates: int) -> int:
        """Requests simulated when so many candidates are scored on the instances of a step."""
        lanes = self.config.lanes * len(self.settings)
        return candidates * lanes * self.config.num_requests

    def scores(self, batch: Batch, params: Any) -> NDArray[np.float64]:
        """Scores of rules with fields of shape [P, ...], of shape [P, L]; smaller is better."""
        return self.compared(self.measured(batch, params), batch.yardstick)

    def compared(self, found: Measured, yardstick: Measured) -> NDArray[np.float64]:
        """Scores of what was measured."""
        logs = [w * np.log(found[name] / yardstick[name]) for name, w in self._weights.items()]
        return np.sum(logs, axis=0)

    def measured(self, batch: Batch, params: Any) -> Measured:
        """Measures, [P, L], of rules with fields of shape [P, ...]."""
        if not self.config.serving:
            run = _latencies(self.policy, self.last_round)
            total, unfinished = run(batch.instance, params)
            return {"mean": self._total(total, unfinished)}
        # One after another, as arrivals in seconds would be float32 inside `jit`.
        rules = (
            jax.tree.map(lambda leaf, i=i: leaf[i], params)
            for i in range(len(jax.tree.leaves(params)[0]))
        )
        each = [
            self.measured_of(batch.instance, self.policy(rule), max_rounds=self.last_round)
            for rule in rules
        ]
        return {name: np.stack([one[name] for one in each]) for name in each[0]}

    def measured_of(
        self, instance: Instance, policy: policies.Policy, max_rounds: int = MAX_ROUND
    ) -> Measured:
        """The same of one policy, of shape [L]."""
        return self.measures(instance, self.run(instance, policy, max_rounds))

    def run(
        self, instance: Instance, policy: policies.Policy, max_rounds: int = MAX_ROUND
    ) -> Result:
        """What a policy does; `last_round` is where candidates are stopped."""
        return simulate(instance, policy, max_rounds=max_rounds, **self._given)

    def tail(self, instance: Instance, result: Result, found: Measured) -> Measured:
        """P99 of the latency and longest wait, [L], under their names in rounds or in seconds.

        `found` is what `measures` says of the result.
        """
        if self._clock is None:
            figures = frames.latency_figures(instance, result)
            return {name: figures[name] for name in BESIDE}
        wait = metrics.requests(instance, result).queueing
        wait = np.max(np.where(result.completion >= 0, wait, 0.0), axis=-1)
        p99, longest = (frames.IN_SECONDS[name] for name in BESIDE)
        return {p99: found["p99"], longest: wait}

    def measures(self, instance: Instance, result: Result) -> Measured:
        """Mean (if not serving, total) and P99 of the latency, and 1 + misses of the level.

        Requests of a rule that is stopped early count as if they ended there, which is too good
        for them and bad enough.
        """
        unfinished = result.completion < 0
        if not self.config.serving:
            return {"mean": self._total(result.total_latency, unfinished.sum(axis=-1))}
        ended = result.completion if self._clock is None else result.completion_seconds
        latency = np.where(unfinished, self._last, ended)
        if instance.arrival is not None:
            latency = latency - instance.arrival
        found = {"mean": np.mean(latency, axis=-1), "p99": np.quantile(latency, 0.99, axis=-1)}
        if limits := self.config.limits:
            seen = metrics.requests(instance, result)
            kept = [getattr(seen, name.removesuffix("_limit")) <= x for name, x in limits.items()]
            kept = np.all([seen.finished, *kept], axis=0)
            found["attainment"] = 1.0 + np.sum(~kept, axis=-1)
        return found

    def _total(self, total: Any, unfinished: Any) -> NDArray[np.float64]:
        return np.asarray(total) + np.asarray(unfinished, float) * self.last_round

    def _batch(self, purpose: int, lanes: int, first_lane: int = 0) -> Batch:
        instance = self._instances(purpose, lanes, first_lane)
        yardstick = policies.policy(self.config.against[0])
        return Batch(instance, self.measured_of(instance, yardstick))

    def _instances(self, purpose: int, lanes: int, first_lane: int = 0) -> Instance:
        """The instances of all settings, which share their draws."""
        config = self.config
        key = jax.random.fold_in(jax.random.key(config.seed), purpose)
        drawn = []
        for setting in self.settings:
            source = read_prediction(setting.prediction).source
            intervals = None if source is None else source(config.memory)
            rate = setting.load * (self.sustained if config.loads else 1.0)
            if config.arrivals == "trace":
                keys = draws.lane_keys(key, lanes, first_lane)
                drawn.append(self._stretches(purpose, keys, intervals, rate))
                continue
            arrivals = None
            if config.arrivals == "poisson":
                in_seconds = workloads.arrivals.poisson_seconds
                arrivals = (in_seconds if config.clock else workloads.arrivals.poisson)(rate)
            one = workloads.make(
                key, lengths=self._lengths[purpose], intervals=intervals, arrivals=arrivals,
                n=config.num_requests, memory=config.memory, lanes=lanes, first_lane=first_lane,
            )  # fmt: skip
            drawn.append(one)
        return concatenate(drawn)

    def _stretches(
        self, purpose: int, keys: jax.Array, intervals: IntervalSource | None, rate: float
    ) -> Instance:
        """Requests of a part of the trace in a row, at this rate on the whole; 0 is its own."""
        part = self._parts[purpose]
        drawn, times = stretches(part, keys, self.config.num_requests)
        lower, upper = generate.predict(draws.purpose(keys, generate.INTERVALS), intervals, drawn)
        return Instance(
            prompt=drawn.prompt, output=drawn.output, lower=lower, upper=upper,
            arrival=times / (rate or part.rate), memory=self.config.memory,
        )  # fmt: skip


def _requests(config: TuneConfig) -> Trace:
    """The requests of the trace that are taken."""
    interval = config.predictions[0]
    trace = check_fit(read_requests(config.trace, config.memory, interval=interval), config.memory)
    if "columns" in config.predictions and trace.lower is None:
        raise ValueError(
            f"{trace.source}: has no predictions of the output lengths; expected other predictions"
        )
    return trace


def _parts(config: TuneConfig, trace: Trace) -> list[Trace]:
    """Rows for tuning, validation and test: at random, or one after the other for stretches."""
    if len(trace) < len(SHARES) + 1:
        raise ValueError(
            f"{trace.source}: got {len(trace)} requests; expected at least {len(SHARES) + 1}, for "
            "tuning, validation and test have rows of their own"
        )
    rows = np.arange(len(trace))
    if config.arrivals != "trace":
        rows = np.asarray(jax.random.permutation(jax.random.key(config.seed), len(trace)))
    ends = np.rint(np.cumsum(SHARES) * len(trace)).astype(int)
    parts = [trace.select(np.sort(part)) for part in np.split(rows, ends[:-1])]
    if config.arrivals == "trace":
        shortest = min(map(len, parts))
        if trace.arrival_seconds is None or shortest < config.num_requests:
            raise ValueError(
                f"{trace.source}: has {len(trace)} requests, a quarter each for validation and "
                f"test; expected arrival times, and num_requests = {config.num_requests} of them "
                "in each part"
            )
    return parts


@functools.cache
def _latencies(
    policy: Callable[[Any], policies.Policy], max_rounds: int
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Total latency and unfinished requests of rules of shape [P] on L instances: [P, L] each."""

    def of_one(instance: Instance, params: Any) -> tuple[jax.Array, jax.Array]:
        result = simulate(instance, policy(params), max_rounds=max_rounds)
        return result.total_latency, jnp.sum(result.completion < 0, axis=-1, dtype=jnp.int32)

    return jax.jit(jax.vmap(of_one, in_axes=(None, 0)))
