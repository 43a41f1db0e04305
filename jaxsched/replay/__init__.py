"""What each policy would have done with the requests of a trace: `jaxsched simulate`."""

from jaxsched.replay.config import FORMATS, ReplayConfig, digest
from jaxsched.replay.load import Loaded, load
from jaxsched.replay.run import latency_figures, run

__all__ = ["FORMATS", "Loaded", "ReplayConfig", "digest", "latency_figures", "load", "run"]
