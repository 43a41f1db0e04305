"""The configuration file of `jaxsched tune`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import optax

from jaxsched.policies.family import FIELDS
from jaxsched.studies.config import LengthsConfig, all_predictions
from jaxsched.studies.replay import FORMATS
from jaxsched.toml import at_least, one_of, several

MEMBERS = ("family", "network")
METHODS = ("descent", "cma_es", "random", "grid")
ESTIMATORS = ("es", "relaxation", "combined")
OPTIMIZERS = (
    "adabelief", "adam", "adamw", "amsgrad", "lion", "nadam", "rmsprop", "sgd", "yogi",
)  # fmt: skip
"""Optimizers of optax that need a learning rate and nothing else."""

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
class TraceConfig:
    """The table [trace]: requests to draw from, instead of [lengths].

    Attributes:
      path: Of the file; the option --trace of `jaxsched tune` replaces it.
      format: One of `FORMATS`; "auto" goes by the file's header.
      columns: FIELD=COLUMN for a file of no known format.
      prompt: Prompt length of every request, for a trace without prompts.
      skip_too_large: Leave out requests that need more than the memory.
      skip_zero_output: Leave out requests without output.
      sha256: Of the file's bytes, so that results say which trace they are of; `jaxsched tune`
        fills it in.
    """

    path: str
    format: str = "auto"
    columns: tuple[str, ...] = ()
    prompt: int | None = at_least(1, default=None)
    skip_too_large: bool = False
    skip_zero_output: bool = False
    sha256: str = ""

    def __post_init__(self) -> None:
        one_of("format", self.format, FORMATS)


@dataclasses.dataclass(frozen=True)
class DescentConfig:
    """The table [descent]. Pairs of numbers are the first and the last value of a schedule.

    Attributes:
      estimator: Of the gradient, one of `ESTIMATORS`.
      optimizer: One of `OPTIMIZERS`.
      steps: Gradient steps.
      starts: Random candidates beside A_min itself that are tried first.
      chains: Descents side by side, from the best of them; the score has several valleys.
      learning_rate, schedule: Its first and last value, and one of `SCHEDULES`.
      pairs: Antithetic pairs of candidates around a chain in a step, for "es" and "combined".
      sigma, sigma_schedule: Spread of the candidates around the current one.
      temperature, temperature_schedule: Of the relaxation, for "relaxation" and "combined".
      soft_steps: Steps of time that the relaxation takes, for the same two.
      guidance: Share of the spread that "combined" puts along the gradient of the relaxation.
    """

    estimator: str = "es"
    optimizer: str = "adam"
    steps: int = at_least(1, default=100)
    starts: int = at_least(0, default=95)
    chains: int = at_least(1, default=2)
    learning_rate: tuple[float, ...] = at_least(0, default=(0.6, 0.03))
    schedule: str = "cosine"
    pairs: int = at_least(1, default=24)
    sigma: tuple[float, ...] = at_least(0, default=(1.0, 0.1))
    sigma_schedule: str = "exponential"
    temperature: tuple[float, ...] = at_least(0, default=(1.0, 0.1))
    temperature_schedule: str = "exponential"
    soft_steps: int = at_least(2, default=128)
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
        return SCHEDULES[kind](*getattr(self, name), self.steps)


@dataclasses.dataclass(frozen=True)
class TuneConfig:
    """A tuning: which rule for which requests, and how it is searched.

    Attributes:
      memory: KV cache of the worker in tokens.
      num_requests: Requests of an instance, a backlog.
      predictions: Interval specifications; the score is the mean over them.
      lanes: Fresh instances in a step, under each prediction.
      validation_lanes: Instances on which the best candidate is chosen.
      test_lanes: Instances for the scores in the rule's file; nothing is chosen on them.
      validate_every: Steps between validations (and checkpoints).
      methods: What searches: "descent" and baselines, each with the same work.
      baseline_work: Work of a baseline over that of the descent.
      member: What a rule is: "family", ten numbers, or "network" (see `jaxsched.policies.network`).
      free: Numbers of the family that are searched; the others stay as in A_min. By default all but
        `start`, so that no upper bound is read, and `run_growth`, which `evict_progress` makes up
        for.
      seed: Of everything random.
      lengths: Where lengths come from, if there is no trace.
      trace: Requests to draw from instead: half of them for tuning, a quarter each for validation
        and test.
      descent: How the descent goes.
    """

    memory: int = at_least(2)
    num_requests: int = at_least(1)
    predictions: tuple[str, ...]
    lanes: int = at_least(1, default=8)
    validation_lanes: int = at_least(2, default=64)
    test_lanes: int = at_least(2, default=256)
    validate_every: int = at_least(1, default=10)
    methods: tuple[str, ...] = METHODS
    baseline_work: float = at_least(0.01, default=1.0)
    member: str = "family"
    free: tuple[str, ...] = tuple(name for name in FIELDS if name not in ("start", "run_growth"))
    seed: int = at_least(0, default=0)
    lengths: LengthsConfig | None = None
    trace: TraceConfig | None = None
    descent: DescentConfig = DescentConfig()

    def __post_init__(self) -> None:
        one_of("member", self.member, MEMBERS)
        if self.member == "network":
            if "grid" in self.methods:
                raise ValueError('methods: "grid" is for the family; expected others')
            if self.free != type(self).free:
                raise ValueError("free: is for the family; of the network all weights are searched")
        for name, known in (("methods", METHODS), ("free", FIELDS)):
            several(name, getattr(self, name))
            for value in getattr(self, name):
                one_of(name, value, known)
        if (self.lengths is None) == (self.trace is None):
            raise ValueError("lengths, trace: expected one of the tables [lengths] and [trace]")
        all_predictions(self.predictions, self.memory, trace=self.trace is not None)
