"""Lower bounds that every policy obeys, from the memory-time that requests must take.

A request in its k-th round holds s + k tokens, so it takes the volume

    v = (s + 1) + (s + 2) + ... + (s + o) = s o + o (o + 1) / 2        [token-rounds]

of a worker that gives out at most M token-rounds per round. On the worker of an engine a token
is in the cache only from the round after it is generated, so there s - 1 stands for s in v and D;
blocks, chunks and preemptions only add to what is held. All functions work on the host in numpy
(float64 or exact int64), over any leading lane axes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxsched.clocks import Clock
from jaxsched.instance import Instance, check_instance
from jaxsched.workers.settings import Worker

MOST_ROUNDS = 2**27
"""Rounds of a schedule that `lower_bound` looks at one by one, at most."""


def volume(prompt: ArrayLike, output: ArrayLike) -> NDArray[np.int64]:
    """Memory-time of one request, s o + o (o + 1) / 2, in token-rounds; shapes broadcast."""
    s, o = np.asarray(prompt, np.int64), np.asarray(output, np.int64)
    return s * o + o * (o + 1) // 2


def mean_busy_time_bound(
    prompt: ArrayLike,
    output: ArrayLike,
    memory: ArrayLike,
    num_requests: ArrayLike | None = None,
    worker: Worker | None = None,
) -> NDArray[np.float64]:
    """Lower bound on the total latency of a backlog, under every policy.

        sum c_j  >=  sum_j (V_j - v_j / 2) / M  +  sum_j D_j,     v ascending, V its running sum
        D_j = o_j - sum_{k=1..o_j} (k - 1/2) (s_j + k) / v_j

    Why: call the mean time of a request the centre of gravity of the memory-time of its last run.
    (1) The run has a fixed shape, so it ends D_j after its mean time, whenever it starts. (2) Pour
    the volumes as fluid at rate M: the sum of the mean times is least when they are poured one by
    one, smallest first, and then request j has the mean time (V_j - v_j / 2) / M. A real schedule
    gives no more than M a round, and runs lost to evictions only take memory away, so its mean
    times sum to at least as much; add (1). Where a preempted request keeps its tokens, its
    memory-time is that of the rounds that generate them, and gaps between those only end it later.

    It holds for a backlog (all arrivals 0), with or without evictions, hindsight included. With
    later arrivals it still bounds the sum of the completion rounds, but not the sum of latencies.

    Args:
        prompt: s, tokens, of shape [..., n].
        output: o, the true lengths, tokens, of shape [..., n].
        memory: M, tokens, a scalar or of shape [...].
        num_requests: of shape [...]; requests at positions >= num_requests are padding.
        worker: of `jaxsched.workers`; the papers' by default.

    Returns:
        The bound in request-rounds, float64 of shape [...]; divide by n for the mean latency.

    Raises:
        TypeError, ValueError: as `check_instance`, for anything but integers, wrong shapes, lengths
            below 1, and requests that do not fit in the memory.

    The idea is the mean busy time relaxation of single-machine scheduling (Goemans et al., SIAM J.
    Discrete Math. 15, 2002), here with memory as the machine.
    """
    s, o, m, real = _checked(prompt, output, memory, num_requests)
    s = _held(s, worker)
    # A volume of 0 for padding goes first in the order and adds nothing anywhere.
    v = np.where(real, volume(s, o), 0)
    v.sort(axis=-1)
    ascending = v.astype(np.float64)
    mean_times = (ascending.cumsum(axis=-1) - ascending / 2) / m[..., None]
    return np.asarray(mean_times.sum(axis=-1) + _tails(s, o, real).sum(axis=-1))


def _tails(
    s: NDArray[np.int64], o: NDArray[np.int64], real: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """D: from the mean time of a run to its end, with the sum over k in closed form."""
    whole, s, o = volume(s, o), s.astype(np.float64), o.astype(np.float64)
    moment = s * o**2 / 2 + o * (o + 1) * (2 * o + 1) / 6 - o * (o + 1) / 4
    return np.where(real, o - moment / np.maximum(whole, 1), 0.0)


def latency_bound(
    prompt: ArrayLike,
    output: ArrayLike,
    memory: ArrayLike,
    num_requests: ArrayLike | None = None,
    worker: Worker | None = None,
) -> NDArray[np.float64]:
    """The best of these lower bounds on the total latency of a backlog, under every policy.

    `mean_busy_time_bound`, which is the best for many requests, and two for few of them:

    1. The k-th completion is no earlier than the k-th shortest output, nor than the round in which
       the worker can have given out the k smallest volumes: sum_k max(o_(k), ceil(V_k / M)).
    2. For any weights w_j in [0, 1], sum c_j = sum w_j c_j + sum (1 - w_j) c_j, where c_j >= o_j in
       the second sum. The first is at least sum w_j (V_j - v_j / 2) / M + sum w_j D_j, with volumes
       poured in ascending v_j / w_j, by the argument of `mean_busy_time_bound` and Smith's rule.
       Requests that would be poured long before their own length lets them end get weights that
       put them where they do no harm to the others.

    All that is proved is a bound for every choice of weights; they are chosen by one sort.
    Arguments, errors and result as of `mean_busy_time_bound`.
    """
    s, o, m, real = _checked(prompt, output, memory, num_requests)
    v = np.where(real, volume(_held(s, worker), o), 0)
    o = np.where(real, o, 0)
    per_round = m[..., None]
    ranked = np.maximum(np.sort(o, axis=-1), -(-np.sort(v, axis=-1).cumsum(axis=-1) // per_round))
    weighted = _weighted_bound(
        v.astype(np.float64), o, _tails(_held(s, worker), o, real), per_round
    )
    several = mean_busy_time_bound(prompt, output, memory, num_requests, worker)
    return np.maximum(np.maximum(ranked.sum(axis=-1), weighted), several)


def _weighted_bound(v: Any, o: Any, tails: Any, m: NDArray[np.int64]) -> NDArray[np.float64]:
    """The second bound of `latency_bound`, of shape [...]; volume and output are 0 for padding."""
    order = np.argsort(v, axis=-1)
    v, o, tails = (np.take_along_axis(x, order, axis=-1) for x in (v, o, tails))
    own = o - tails  # the mean time of a run that starts at once
    poured = (v.cumsum(axis=-1) - v / 2) / m
    order = np.argsort(np.maximum(poured, own), axis=-1, kind="stable")
    v, o, tails, own = (np.take_along_axis(x, order, axis=-1) for x in (v, o, tails, own))
    best = o.sum(axis=-1, dtype=np.float64)
    held = np.ones(v.shape, bool)
    for _ in range(2):
        # Weights that make this very order ascending in v / w; those no longer held have 0.
        highest = np.maximum.accumulate(np.where(held, v, 0), axis=-1)
        w = np.where(held & (highest > 0), v / np.maximum(highest, 1), 0.0)
        counted = np.where(w > 0, v, 0)
        poured = (counted.cumsum(axis=-1) - counted / 2) / m
        found = w * (poured + tails) + (1 - w) * o
        best = np.maximum(best, found.sum(axis=-1))
        held &= poured >= own
    return best


def lower_bound(instance: Instance) -> NDArray[np.int64]:
    """The strongest lower bound that we have on the total latency of each lane, any arrivals.

    The larger of the mean busy time bound (with arrivals: memory is poured over the requests that
    are there, smallest volume first) and of one from prices: everybody pays lambda_t for a token
    of memory in round t, and mu_t for being one of those of whom no two can run side by side,

        sum of latencies >= sum_i min_p cost_i(p) - sum a - M sum lambda - sum mu,

    for whatever prices, which are searched for by subgradients and then rounded to integers: the
    bound is exact. Where requests need a good part of the memory, prices of paths follow, which
    know that memory cannot be full in every round. docs/optimum.md has the proofs and how strong it
    is. Up to two or three seconds a lane in the latter case, else milliseconds.

    Args:
      instance: Instances in rounds, with request arrays of shape [..., n].

    Returns:
      Of shape [...], in request-rounds: no schedule has a smaller total latency.

    Raises:
      TypeError, ValueError: As `check_instance`; for arrivals in seconds, and for a lane whose
        last arrival and outputs together are beyond round `MOST_ROUNDS`.
      ImportError: If numba cannot be imported.
    """
    from jaxsched.optimum import bounds_of  # noqa: PLC0415 - numba is optional and slow to import

    return bounds_of(instance)


def rounds_bound(
    prompt: ArrayLike,
    output: ArrayLike,
    memory: ArrayLike,
    num_requests: ArrayLike | None = None,
    worker: Worker | None = None,
) -> NDArray[np.int64]:
    """Lower bound on the number of rounds (makespan): ceil(sum_j v_j / M), for any arrivals.

    Arguments and errors as in `mean_busy_time_bound`. Exact, int64 of shape [...].
    See Jaillet et al., arXiv 2502.07115, for the volume argument.
    """
    s, o, m, real = _checked(prompt, output, memory, num_requests)
    # Quotients and remainders apart: the plain sum of volumes can leave int64.
    whole, rest = np.divmod(np.where(real, volume(_held(s, worker), o), 0), m[..., None])
    return np.asarray(whole.sum(axis=-1) - (-rest.sum(axis=-1) // m))


def busy_seconds_bound(
    prompt: ArrayLike,
    output: ArrayLike,
    memory: ArrayLike,
    clock: Clock,
    num_requests: ArrayLike | None = None,
    max_batch: int | None = None,
    worker: Worker | None = None,
) -> NDArray[np.float64]:
    """Lower bound on the seconds that a worker is busy with these requests, under every policy.

    The number of requests over it bounds the throughput, hence the rate of arrivals that any policy
    can sustain. Over the R rounds that run, let W = sum of s + o. They last at least

        fixed R + per_prompt_token sum s + per_request sum o + per_cache_token sum v
                + per_token_beyond max(0, W - free_tokens R),

    since evictions only add to the sums, and a sum of positive parts is at least the positive part
    of the sum. R is at least `rounds_bound`, and sum o / max_batch; on the worker of an engine
    also sum o / max_num_seqs and sum (s + o - 1) / budget. The expression is convex in R,
    so it is least at that number or at the knee R = W / free_tokens.

    Arguments and errors as in `mean_busy_time_bound`, with `clock` for how long a round lasts, and
    `max_batch` for the most requests that run together (None for no cap). In float64 of shape
    [...].
    """
    s, o, _, real = _checked(prompt, output, memory, num_requests)
    prompts, outputs = np.where(real, s, 0).sum(axis=-1), np.where(real, o, 0).sum(axis=-1)
    least = rounds_bound(prompt, output, memory, num_requests, worker).astype(np.float64)
    if worker is not None and worker.blocks:
        computed = np.where(real, s + o - 1, 0).sum(axis=-1)
        least = np.maximum(least, outputs / np.asarray(worker.max_num_seqs))
        least = np.maximum(least, computed / np.asarray(worker.budget))
    if max_batch is not None:
        least = np.maximum(least, outputs / max_batch)
    work = prompts + outputs
    knee = np.maximum(least, work / max(clock.free_tokens, 1))

    def hinged(rounds: NDArray[np.float64]) -> NDArray[np.float64]:
        beyond = np.maximum(0, work - clock.free_tokens * rounds)
        return clock.fixed * rounds + clock.per_token_beyond * beyond

    volumes = np.where(real, volume(_held(s, worker), o).astype(np.float64), 0.0).sum(axis=-1)
    line = clock.per_prompt_token * prompts + clock.per_request * outputs
    line = line + clock.per_cache_token * volumes
    return np.asarray(line + np.minimum(hinged(least), hinged(knee)))


def _held(prompt: NDArray[np.int64], worker: Worker | None) -> NDArray[np.int64]:
    """Tokens of the prompt to count, where the k-th token of output counts as k."""
    return prompt - 1 if worker is not None and worker.blocks else prompt


def _checked(
    prompt: ArrayLike, output: ArrayLike, memory: ArrayLike, num_requests: ArrayLike | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """The arguments in int64, memory of shape [...], and which requests [..., n] are no padding.

    Padding comes back as prompt = output = 1, so that no formula divides by zero.
    """
    # Its own prediction, exact, makes an instance of the arguments, so that its checks serve here.
    given = Instance(
        prompt=prompt, output=output, lower=output, upper=output,
        memory=memory, num_requests=num_requests,
    )  # fmt: skip
    check_instance(given)
    s, o = np.asarray(prompt, np.int64), np.asarray(output, np.int64)
    m = np.broadcast_to(np.asarray(memory, np.int64), given.lanes)
    count = np.broadcast_to(given.n if num_requests is None else num_requests, given.lanes)
    real = np.arange(given.n) < count[..., None]
    return np.where(real, s, 1), np.where(real, o, 1), m, real
