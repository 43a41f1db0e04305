"""Metrics of serving, under the names of vLLM's benchmark; docs/metrics.md defines them."""

from jaxsched.metrics.distribution import PERCENTILES, Distribution
from jaxsched.metrics.registry import MEANS, METRICS, SWEPT, Lanes, Metric, Value
from jaxsched.metrics.samples import Requests, requests
from jaxsched.metrics.serving import STATISTICS, Serving, figures, serving
from jaxsched.metrics.timeline import Timeline, timeline

__all__ = [
    "MEANS",
    "METRICS",
    "PERCENTILES",
    "STATISTICS",
    "SWEPT",
    "Distribution",
    "Lanes",
    "Metric",
    "Requests",
    "Serving",
    "Timeline",
    "Value",
    "figures",
    "requests",
    "serving",
    "timeline",
]
