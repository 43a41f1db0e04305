"""Streams of requests for a serving job: drawn once at one request per second, then stretched."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from jaxsched import job, specs, workloads
from jaxsched.instance import Instance, check_instance
from jaxsched.serving.config import ServingConfig
from jaxsched.workloads import arrivals, draws, generate, intervals
from jaxsched.workloads.lengths import Drawn
from jaxsched.workloads.traces import Trace


def draw(config: ServingConfig, prediction: str) -> Instance:
    """Streams that arrive at one request per second, of lane shape [lanes].

    Requests and arrivals do not depend on the prediction.

    Raises:
      ValueError: If the trace is refused, or a request can never fit or has no prediction.
    """
    source = specs.interval(prediction).source
    intervals_of = None if source is None else source(config.memory)
    try:
        if config.trace is not None:
            return _of_trace(config, workloads.read_trace(config.trace), intervals_of)
        return workloads.make(
            jax.random.key(config.seed),
            lengths=job.lengths_of(config.lengths),
            intervals=intervals_of,
            arrivals=arrivals.poisson_seconds(1.0),
            n=config.num_requests,
            lanes=config.lanes,
            memory=config.memory,
        )
    except ValueError as error:
        text = str(error).replace(intervals.OPEN_ENDED, "lengths.max_output leaves longer ones out")
        raise ValueError(f"prediction {prediction!r}: {text}") from None


def at_rates(streams: Instance, rates: Sequence[float]) -> Instance:
    """The streams at each rate, requests per second: lane shape [lanes] becomes [rates · lanes]."""
    whole = jax.tree.map(lambda leaf: np.concatenate([leaf] * len(rates)), _by_lane(streams))
    factor = np.repeat(np.asarray(rates, np.float64), streams.lanes[0])
    return whole.replace(arrival=whole.arrival / factor[:, None])


def _by_lane(streams: Instance) -> Instance:
    """With the memory of each lane in an array of its own axis."""
    return streams.replace(memory=np.broadcast_to(streams.memory, streams.lanes))


def _of_trace(
    config: ServingConfig, trace: Trace, source: intervals.IntervalSource | None
) -> Instance:
    """Requests of a trace in a row, from a random one on."""
    trace = _usable(config, trace)
    keys = draws.lane_keys(jax.random.key(config.seed), config.lanes)
    starts = len(trace) - config.num_requests + 1
    chosen = draws.uniforms(draws.purpose(keys, generate.ARRIVALS), (config.lanes, 1))
    rows = draws.below(chosen, starts) + np.arange(config.num_requests)
    output, times = trace.output[rows], trace.arrival_seconds[rows]
    own = [None if bound is None else bound[rows] for bound in (trace.lower, trace.upper)]
    key = draws.purpose(keys, generate.INTERVALS)
    lower, upper = generate.predict(key, source, Drawn(trace.prompt[rows], output, *own))
    span = trace.arrival_seconds[-1] - trace.arrival_seconds[0]
    instance = Instance(
        prompt=trace.prompt[rows],
        output=output,
        lower=lower,
        upper=upper,
        point=generate.points(key, None, output, lower, upper),
        memory=np.asarray(config.memory),
        # The rate is that of the whole trace; busy hours stay busy.
        arrival=(times - times[:, :1]) * (len(trace) - 1) / span,
    )
    check_instance(instance)
    return instance


def _usable(config: ServingConfig, trace: Trace) -> Trace:
    """The requests of a trace that can be served; refuses one that lacks what a job needs."""
    for name in ("prompt", "arrival_seconds"):
        if getattr(trace, name) is None:
            raise ValueError(f"{trace.source}: has no {name}; expected a trace that has it")
    if config.skip_too_large:
        total = trace.prompt.astype(np.int64) + trace.output
        trace = trace.select(total <= config.memory)
    if len(trace) < config.num_requests:
        raise ValueError(
            f"num_requests is {config.num_requests}; expected at most {len(trace)}, the requests "
            f"of {trace.source} that fit"
        )
    if not trace.arrival_seconds[-1] > trace.arrival_seconds[0]:
        raise ValueError(f"{trace.source}: all requests arrive at once; expected times that differ")
    return trace
