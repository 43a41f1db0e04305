"""Predictions of output lengths from prompts: `jaxsched predict` (see docs/predict.md).

config.py      what a configuration file may say
data.py        requests to learn from, and their split
features.py    what is seen of a prompt
network.py     from that to quantiles and classes, in JAX and in numpy
training.py    pinball loss with optax, checkpoints by orbax
conformal.py   bounds that hold as often as they say, also from requests that still run
predictor.py   a trained predictor, and its file
evaluation.py  how good it is
pipeline.py    all of it
"""

from jaxsched.predict.config import PredictConfig
from jaxsched.predict.data import Examples
from jaxsched.predict.pipeline import train
from jaxsched.predict.predictor import Predictor, load

__all__ = ["Examples", "PredictConfig", "Predictor", "load", "train"]
