"""Live serving: policies under a stream of arrivals, in seconds; docs/serving.md."""
