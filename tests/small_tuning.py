"""A small trace, and a folder to tune in, for the tests of tuning."""

from __future__ import annotations

from pathlib import Path

from jaxsched import toml
from jaxsched.tuning.config import TuneConfig

TRACE = "arrived_at,num_prefill_tokens,num_decode_tokens\n" + "".join(
    f"{i},{1 + 37 * i % 101},{1 + 53 * i % 97}\n" for i in range(400)
)


def fill(folder: Path, configuration: str) -> Path:
    """Writes requests.csv and tune_small.toml into a folder; returns it."""
    (folder / "requests.csv").write_text(TRACE)
    (folder / "tune_small.toml").write_text(configuration)
    return folder


def configured(folder: Path) -> TuneConfig:
    """The configuration of such a folder."""
    given = {"trace.path": str(folder / "requests.csv")}
    return toml.load(folder / "tune_small.toml", TuneConfig, given)
