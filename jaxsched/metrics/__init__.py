"""Metrics of serving, under the names of vLLM's benchmark; docs/metrics.md defines them."""

from jaxsched.metrics.registry import (
    MEANS,
    METRICS,
    STATISTICS,
    SWEPT,
    Lanes,
    Metric,
    Serving,
    Value,
    figures,
    serving,
)  # fmt: skip
from jaxsched.metrics.samples import PERCENTILES, Distribution, Requests, requests
from jaxsched.metrics.timeline import Timeline, timeline

__all__ = [
    "MEANS", "METRICS", "PERCENTILES", "STATISTICS", "SWEPT", "Distribution", "Lanes", "Metric",
    "Requests", "Serving", "Timeline", "Value", "figures", "requests", "serving", "timeline",
]  # fmt: skip
