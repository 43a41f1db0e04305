"""Metrics of serving, under the names of vLLM's benchmark; docs/metrics.md defines them."""

from jaxsched.metrics.distribution import PERCENTILES, Distribution
from jaxsched.metrics.samples import Requests, requests
from jaxsched.metrics.serving import Serving, figures, serving
from jaxsched.metrics.timeline import Timeline, timeline
from jaxsched.metrics.totals import Metric

__all__ = [
    "PERCENTILES",
    "Distribution",
    "Metric",
    "Requests",
    "Serving",
    "Timeline",
    "figures",
    "requests",
    "serving",
    "timeline",
]
