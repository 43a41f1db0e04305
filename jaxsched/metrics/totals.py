"""Sums over the requests of a lane, and the rates made of them: throughput, KV use, energy."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxsched.clocks import TICKS_PER_SECOND, Energy
from jaxsched.instance import Instance
from jaxsched.metrics.distribution import Floats, Integers
from jaxsched.metrics.samples import Requests, arrival_ticks
from jaxsched.metrics.timeline import finished_lanes
from jaxsched.result import Result


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number per lane and whether it means anything; where it does not, the value is 0.

    Attributes:
      value: Of shape [...].
      valid: Of the same shape.
    """

    value: Floats
    valid: NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Totals:
    """Sums of every lane, or of all; each of shape [...], integers unless said otherwise.

    Attributes:
      whole: Whether all requests completed.
      count: Requests.
      completed: Those that completed.
      tokens: Their output tokens.
      makespan: Seconds from the first arrival to the last completion.
      preemptions: Evictions.
      wasted: Tokens lost to them.
      used: KV cache in use, in token-rounds.
      room: KV cache there was, in token-rounds.
      peak: Largest share of it that was in use in a round.
      good: Requests within all limits; None without limits.
      joules: Energy; None without coefficients.
    """

    whole: NDArray[np.bool_]
    count: Integers
    completed: Integers
    tokens: Integers
    makespan: Floats
    preemptions: Integers
    wasted: Integers
    used: Integers
    room: Integers
    peak: Floats
    good: Integers | None
    joules: Floats | None


def totals(
    instance: Instance,
    result: Result,
    samples: Requests,
    good: NDArray[np.bool_] | None,
    energy: Energy | None,
) -> Totals:
    """The sums of each lane.

    Args:
      instance: What was simulated.
      result: What came of it.
      samples: `samples.requests` of these.
      good: Requests within the limits, of shape [..., n], or None.
      energy: Coefficients, or None.
    """
    output, rounds = np.asarray(instance.output, np.int64), np.asarray(result.rounds, np.int64)
    memory = np.broadcast_to(np.asarray(instance.memory, np.int64), rounds.shape)
    return Totals(
        whole=finished_lanes(result),
        count=np.asarray(result.num_requests, np.int64),
        completed=np.sum(samples.finished, axis=-1),
        tokens=np.sum(output * samples.finished, axis=-1),
        makespan=_makespan(instance, result, samples.finished),
        preemptions=np.asarray(result.evictions, np.int64),
        wasted=np.asarray(result.wasted_tokens),
        used=np.asarray(result.memory_time),
        room=rounds * memory,
        peak=np.asarray(result.peak_memory) / np.maximum(memory, 1),
        good=None if good is None else np.sum(good, axis=-1),
        joules=None if energy is None else _joules(instance, result, samples.finished, energy),
    )


def _makespan(instance: Instance, result: Result, finished: NDArray[np.bool_]) -> Floats:
    largest = np.iinfo(np.int64).max
    first = np.min(np.where(finished, arrival_ticks(instance), largest), axis=-1)
    last = np.max(np.where(finished, result.ticks[..., 2], 0), axis=-1)
    return np.where(np.any(finished, axis=-1), last - first, 0) / TICKS_PER_SECOND


def _joules(
    instance: Instance, result: Result, finished: NDArray[np.bool_], energy: Energy
) -> Floats:
    """Of lanes that finished: every admission is the final run's or was ended by an eviction."""
    output, prompt = (np.asarray(x, np.int64) for x in (instance.output, instance.prompt))
    admissions = 1 + np.asarray(result.preemptions, np.int64)
    prompt_tokens = np.sum(prompt * admissions * finished, axis=-1)
    generated = np.sum(output * finished, axis=-1) + np.asarray(result.wasted_tokens)
    rounds, used = np.asarray(result.rounds, np.int64), np.asarray(result.memory_time)
    return np.asarray(energy.joules(rounds, prompt_tokens, generated, used), np.float64)


def together(each: Totals) -> Totals:
    """The sums over all lanes; the largest peak, and whole if all are."""
    values: dict[str, Any] = {
        field.name: None if (value := getattr(each, field.name)) is None else np.sum(value)
        for field in dataclasses.fields(each)
    }
    values["whole"], values["peak"] = np.all(each.whole), np.max(each.peak, initial=0.0)
    return Totals(**values)


def rates(sums: Totals) -> dict[str, Any]:
    """The fields of `Serving` that are made of sums."""

    def rate(value: Any, over: Any) -> Metric | None:
        if value is None:
            return None
        valid = np.asarray(sums.whole & (np.asarray(over) > 0))
        return Metric(np.where(valid, value / np.where(valid, over, 1), 0.0), valid)

    return {
        "completed": sums.completed,
        "unfinished": sums.count - sums.completed,
        "makespan": rate(sums.makespan, 1),
        "request_throughput": rate(sums.completed, sums.makespan),
        "output_throughput": rate(sums.tokens, sums.makespan),
        "goodput": rate(sums.good, sums.makespan),
        "preemptions": sums.preemptions,
        "wasted_tokens": sums.wasted,
        "kv_mean": rate(sums.used, sums.room),
        "kv_peak": rate(sums.peak, 1),
        "energy": rate(sums.joules, 1),
        "energy_per_token": rate(sums.joules, sums.tokens),
    }
