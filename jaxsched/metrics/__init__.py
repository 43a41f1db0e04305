"""Metrics of serving, under the names of vLLM's benchmark; docs/metrics.md defines them."""

from jaxsched.metrics.registry import (
    LIMITED_COLUMNS,
    MEANS,
    METRICS,
    STATISTICS,
    SWEPT,
    Lanes,
    Metric,
    Serving,
    Value,
    figures,
    read_slo,
    serving,
)  # fmt: skip
from jaxsched.metrics.samples import PERCENTILES, Distribution, Requests, requests
from jaxsched.metrics.timeline import Timeline, timeline

__all__ = [
    "LIMITED_COLUMNS", "MEANS", "METRICS", "PERCENTILES", "STATISTICS", "SWEPT", "Distribution",
    "Lanes", "Metric", "Requests", "Serving", "Timeline", "Value", "figures", "read_slo",
    "requests", "serving", "timeline",
]  # fmt: skip
