"""What is tuned for: instances drawn afresh, and scores of candidates on them.

The score of a rule on an instance is ln(mean latency / mean latency of h_sf), by the hard
simulator. All candidates of a step meet the same instances, so that their differences are paired.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxsched import policies, workloads
from jaxsched.instance import Instance
from jaxsched.policies.family import a_min_family
from jaxsched.policies.network import a_min_network
from jaxsched.simulate import simulate
from jaxsched.studies.draw import concatenate
from jaxsched.studies.trace import check_fit, read_requests
from jaxsched.tuning.config import TuneConfig
from jaxsched.workloads import Lengths, Trace
from jaxsched.workloads.texts import read_prediction

TUNING, VALIDATION, TEST = range(3)
"""What instances are for; each draws with a key of its own."""

SHARES = (0.5, 0.25, 0.25)
"""Of the rows of a trace, in the same order."""


class Batch(NamedTuple):
    """Instances to score candidates on."""

    instance: Instance  # of lane shape [L], the lanes of the first prediction first
    yardstick: NDArray[np.float64]  # total latency of h_sf, of shape [L]


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
        self._lengths = _laws(config, self.trace)
        self.validation = self._batch(VALIDATION, config.validation_lanes)
        rounds = simulate(self.validation.instance, policies.h_sf()).rounds
        # A candidate is stopped after twice the rounds of h_sf; of a power of two, so that few
        # programs are compiled.
        self.max_rounds = 1 << int(2 * np.max(rounds)).bit_length()
        self.policy = a_min_family if config.member == "family" else a_min_network
        self._latencies = _latencies(self.policy, self.max_rounds)

    def fresh(self, step: int) -> Batch:
        """The instances of a step."""
        return self._batch(TUNING, self.config.lanes, first_lane=step * self.config.lanes)

    @functools.cached_property
    def test(self) -> Batch:
        """Instances that nothing is chosen on."""
        return self._batch(TEST, self.config.test_lanes)

    def work(self, candidates: int) -> int:
        """Requests simulated when so many candidates are scored on the instances of a step."""
        lanes = self.config.lanes * len(self.config.predictions)
        return candidates * lanes * self.config.num_requests

    def scores(self, batch: Batch, params: Any) -> NDArray[np.float64]:
        """Scores of rules with fields of shape [P, ...], of shape [P, L]; smaller is better."""
        return np.log(self.latencies(batch, params) / batch.yardstick)

    def latencies(self, batch: Batch, params: Any) -> NDArray[np.float64]:
        """Total latencies in rounds, [P, L], of rules with fields of shape [P, ...]."""
        return self.counted(*self._latencies(batch.instance, params))

    def counted(self, total: Any, unfinished: Any) -> NDArray[np.float64]:
        """Total latencies with the requests that a rule left unfinished when it was stopped early.

        They count as if they ended there, which is too good for them and bad enough.
        """
        return np.asarray(total) + np.asarray(unfinished, float) * self.max_rounds

    def _batch(self, purpose: int, lanes: int, first_lane: int = 0) -> Batch:
        config = self.config
        drawn = [
            workloads.make(
                jax.random.fold_in(jax.random.key(config.seed), purpose),
                lengths=self._lengths[purpose],
                intervals=None if source is None else source(config.memory),
                n=config.num_requests,
                memory=config.memory,
                lanes=lanes,
                first_lane=first_lane,
            )
            for source in (read_prediction(text).source for text in config.predictions)
        ]
        instance = concatenate(drawn)
        yardstick = simulate(instance, policies.h_sf()).total_latency.astype(float)
        return Batch(instance, yardstick)


def _requests(config: TuneConfig) -> Trace:
    """The requests of the trace that are taken."""
    interval = config.predictions[0]
    trace = check_fit(read_requests(config.trace, config.memory, interval=interval), config.memory)
    if "columns" in config.predictions and trace.lower is None:
        raise ValueError(
            f"{trace.source}: has no predictions of the output lengths; expected other predictions"
        )
    return trace


def _laws(config: TuneConfig, trace: Trace | None) -> list[Lengths]:
    """Lengths for tuning, validation and test; of a trace each has rows of its own."""
    if trace is None:
        return [config.lengths.law] * 3
    if len(trace) < len(SHARES) + 1:
        raise ValueError(
            f"{trace.source}: got {len(trace)} requests; expected at least {len(SHARES) + 1}, for "
            "tuning, validation and test have rows of their own"
        )
    rows = np.asarray(jax.random.permutation(jax.random.key(config.seed), len(trace)))
    ends = np.rint(np.cumsum(SHARES) * len(trace)).astype(int)
    parts = np.split(rows, ends[:-1])
    return [trace.select(np.sort(part)).lengths() for part in parts]


@functools.cache
def _latencies(
    policy: Callable[[Any], policies.Policy], max_rounds: int
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Total latency and unfinished requests of rules of shape [P] on L instances: [P, L] each."""

    def of_one(instance: Instance, params: Any) -> tuple[jax.Array, jax.Array]:
        result = simulate(instance, policy(params), max_rounds=max_rounds)
        return result.total_latency, jnp.sum(result.completion < 0, axis=-1, dtype=jnp.int32)

    return jax.jit(jax.vmap(of_one, in_axes=(None, 0)))
