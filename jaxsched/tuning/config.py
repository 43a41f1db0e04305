"""The configuration file of `jaxsched tune`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import optax

from jaxsched import clocks
from jaxsched.policies import policy
from jaxsched.policies.family import FAMILY_FIELDS, LATER, a_min_family
from jaxsched.studies.config import LARGEST_SEED, LengthsConfig, all_predictions, service_level
from jaxsched.studies.trace import TraceConfig
from jaxsched.toml import at_least, later, one_of, several, with_key
from jaxsched.workers import worker_named

MEMBERS = ("family", "network")
METHODS = ("descent", "cma_es", "random", "grid")
ESTIMATORS = ("es", "relaxation", "combined")
OPTIMIZERS = (
    "adabelief", "adam", "adamw", "amsgrad", "lion", "nadam", "rmsprop", "sgd", "yogi",
)  # fmt: skip
"""Optimizers of optax that need a learning rate and nothing else."""

COMING = ("backlog", "poisson", "trace")
MEASURES = ("mean", "p99", "attainment")

Schedule = Callable[[int], float]
"""step -> value."""

SCHEDULES: dict[str, Callable[[float, float, int], Schedule]] = {
    "constant": lambda first, last, steps: optax.constant_schedule(first),
    "linear": lambda first, last, steps: optax.linear_schedule(first, last, steps),
    "cosine": lambda first, last, steps: optax.cosine_decay_schedule(first, steps, last / first),
    "exponential": lambda first, last, steps: optax.exponential_decay(first, steps, last / first),
}
"""Name -> (first value, last value, steps) -> schedule of optax."""


@dataclasses.dataclass(frozen=True)
class DescentConfig:
    """The table [descent]. Pairs of numbers are the first and the last value of a schedule."""

    estimator: str = "es"  # of the gradient, one of `ESTIMATORS`
    optimizer: str = "adam"  # one of `OPTIMIZERS`
    steps: int = at_least(1, default=100)  # gradient steps
    starts: int = at_least(0, default=95)  # random candidates beside A_min that are tried first
    # Descents side by side, from the best of them; the score has several valleys.
    chains: int = at_least(1, default=2)
    learning_rate: tuple[float, ...] = at_least(0, default=(0.6, 0.03))
    schedule: str = "cosine"  # of the learning rate, one of `SCHEDULES`
    pairs: int = at_least(1, default=24)  # antithetic, around a chain in a step; not "relaxation"
    sigma: tuple[float, ...] = at_least(0, default=(1.0, 0.1))  # spread of these candidates
    sigma_schedule: str = "exponential"
    temperature: tuple[float, ...] = at_least(0, default=(1.0, 0.1))  # of the relaxation; not "es"
    temperature_schedule: str = "exponential"
    soft_steps: int = at_least(2, default=128)  # of time, that the relaxation takes; not "es"
    # Share of the spread that "combined" puts along the gradient of the relaxation.
    guidance: float = at_least(0, default=0.5)

    def __post_init__(self) -> None:
        one_of("estimator", self.estimator, ESTIMATORS)
        one_of("optimizer", self.optimizer, OPTIMIZERS)
        for name in ("schedule", "sigma_schedule", "temperature_schedule"):
            one_of(name, getattr(self, name), SCHEDULES)
        for name in ("learning_rate", "sigma", "temperature"):
            pair = getattr(self, name)
            if len(pair) != 2 or min(pair) <= 0:
                raise ValueError(f"{name}: got {list(pair)}; expected two numbers above 0")
        if self.guidance > 1:
            raise ValueError(f"guidance: got {self.guidance}; expected at most 1")
        if self.chains > self.starts + 1:
            raise ValueError(f"chains: got {self.chains}; expected at most starts + 1")

    @property
    def candidates(self) -> int:
        """Candidates that a step scores."""
        return 2 * self.pairs * self.chains

    def scheduled(self, name: str) -> Schedule:
        """The schedule of "learning_rate", "sigma" or "temperature"."""
        kind = self.schedule if name == "learning_rate" else getattr(self, f"{name}_schedule")
        first, last = getattr(self, name)
        return SCHEDULES[kind](first, last, self.steps)


def read_objective(text: str) -> dict[str, float]:
    """Weights of measures, which add up to 1, from a text such as "mean" or "mean:2,p99:1".

    ValueError if it is none.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.strip().partition(":")
        try:
            weight = float(number or 1)
        except ValueError:
            weight = -1.0
        if name not in MEASURES or name in found or not 0 < weight < float("inf"):
            raise ValueError(
                f"got {part!r} in {text!r}; expected each of {', '.join(MEASURES)} at most once, "
                "with a weight above 0, such as mean:2,p99:1"
            )
        found[name] = weight
    return {name: weight / sum(found.values()) for name, weight in found.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """A tuning: which rule for which requests, and how it is searched."""

    memory: int = at_least(2)  # KV cache of the worker in tokens
    num_requests: int = at_least(1)  # requests of an instance
    # Interval specifications; the score is the mean over them (and over loads or rates)
    predictions: tuple[str, ...]
    lanes: int = at_least(1, default=8)  # fresh instances in a step, under each of them
    # Instances on which the best candidate is chosen
    validation_lanes: int = at_least(2, default=64)
    # Instances for the scores in the rule's file; nothing is chosen on them
    test_lanes: int = at_least(2, default=256)
    validate_every: int = at_least(1, default=10)  # steps between validations (and checkpoints)
    # What searches: "descent" and baselines, each with the same work
    methods: tuple[str, ...] = METHODS
    # Work of a baseline over that of the descent
    baseline_work: float = at_least(0.01, default=1.0)
    # What a rule is: "family", a few numbers, or "network" (see `jaxsched.policies.network`)
    member: str = "family"
    # Numbers of the family that are searched; the others stay as in A_min. By default all but
    # `start`, so that no upper bound is read, `run_growth`, which `evict_progress` makes up for,
    # and those that matter under arrivals and on the worker of an engine.
    free: tuple[str, ...] = tuple(
        name for name in FAMILY_FIELDS if name not in ("start", "run_growth", *LATER)
    )
    seed: int = at_least(0, LARGEST_SEED, default=0)  # of everything random
    lengths: LengthsConfig | None = None  # where lengths come from, if there is no trace
    # Requests to draw from instead: half of them for tuning, a quarter each for validation and test
    trace: TraceConfig | None = None
    descent: DescentConfig = DescentConfig()  # how the descent goes
    # When requests arrive: "backlog", "poisson", or "trace", stretches of its requests in a row
    arrivals: str = later(default="backlog")
    # Rates of arrival, as shares of what `fcfs` sustains on this worker
    loads: tuple[float, ...] = later(0, default=())
    rates: tuple[float, ...] = later(0, default=())  # or in requests per second (round)
    clock: str | None = later(default=None)  # as of `jaxsched.clocks.clock`; None counts rounds
    worker: str | None = later(default=None)  # whose rules hold; None for the papers'
    # What is made small: "mean" latency, "p99", or weights of several (see `read_objective`)
    objective: str = later(default="mean")
    slo: str | None = later(default=None)  # the service level of "attainment"
    begin: tuple[str, ...] = later(default=())  # tuned rules that are tried first, "tuned:NAME"

    def __post_init__(self) -> None:
        self._check_serving()
        one_of("member", self.member, MEMBERS)
        if self.member == "network":
            if "grid" in self.methods:
                raise ValueError('methods: "grid" is for the family; expected others')
            if self.free != type(self).free:
                raise ValueError("free: is for the family; of the network all weights are searched")
        for name, known in (("methods", METHODS), ("free", FAMILY_FIELDS)):
            several(name, getattr(self, name))
            for value in getattr(self, name):
                one_of(name, value, known)
        if (self.lengths is None) == (self.trace is None):
            raise ValueError("lengths, trace: expected one of the tables [lengths] and [trace]")
        if self.trace is not None and not self.trace.path:
            raise ValueError("trace.path: missing; expected the file of requests (--trace FILE)")
        if self.trace is not None and self.trace.warm_up:
            raise ValueError("trace.warm_up: every request counts here; expected none")
        all_predictions(self.predictions, self.memory, trace=self.trace is not None)

    def _check_serving(self) -> None:
        """Arrivals, clock, worker, objective and where to begin."""
        for text in self.begin:
            same = with_key("begin", policy, text).kind == a_min_family().kind
            if not (same and text.startswith("tuned:") and self.member == "family"):
                raise ValueError(f"begin: got {text!r}; expected tuned rules of the family")
        one_of("arrivals", self.arrivals, COMING)
        if self.clock is not None:
            with_key("clock", clocks.clock, self.clock)
        if self.worker is not None:
            with_key("worker", worker_named, self.worker)
        weights, limits = with_key("objective", read_objective, self.objective), self.limits
        if ("attainment" in weights) != bool(limits) or (limits and self.clock is None):
            raise ValueError(
                f"slo, objective: got {self.slo!r}, {self.objective!r}; expected attainment of a "
                "service level, under a clock, or neither"
            )
        given = bool(self.loads) + bool(self.rates)
        allowed = {"backlog": (0,), "poisson": (1,), "trace": (0, 1)}[self.arrivals]
        if given not in allowed or min((*self.loads, *self.rates, 1)) <= 0:
            raise ValueError(
                f"loads, rates: got {list(self.loads)}, {list(self.rates)}; expected numbers above "
                "0 in one of both with poisson arrivals, at most one with those of a trace, and "
                "none with a backlog"
            )
        if self.arrivals == "trace" and (self.trace is None or self.clock is None):
            raise ValueError("arrivals: those of a trace are in seconds; expected [trace], clock")
        if self.serving and self.descent.estimator != "es":
            raise ValueError(
                f"descent.estimator: got {self.descent.estimator!r}, which is for the mean of "
                "backlogs on the papers' worker; expected 'es'"
            )

    @property
    def serving(self) -> bool:
        """Whether it is about more than the mean latency of backlogs on the papers' worker."""
        plain = self.arrivals == "backlog" and self.clock is self.worker is None
        return not plain or self.objective != "mean"

    @property
    def against(self) -> tuple[str, ...]:
        """Policies that a rule is compared with; scores are told over the first."""
        if self.serving:
            return ("fcfs", "lcf", "remaining_volume")
        return ("h_sf", "a_min:on_eviction", "a_min:every_round")

    @property
    def limits(self) -> dict[str, float]:
        """The service level."""
        return service_level(self.slo)
