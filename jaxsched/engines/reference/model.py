"""The model in plain Python: slow, obvious, and the judge of every faster engine.

One worker holds at most `memory` tokens of KV cache. Time runs in rounds. A request that generates
its k-th token in a round occupies `prompt + k` tokens in it, and its place is free from the round
after its last token on. At round t, in this order:

1. complete  requests that have generated their whole output leave, with completion time t;
2. arrive    requests with `arrival <= t` begin to wait;
3. evict     those that have generated their quantum, if the policy sets one, and then, while the
             coming round would not fit, the request first in the policy's eviction order: it loses
             its tokens, waits again from zero, and the policy refines its estimate;
4. admit     waiting requests enter in the policy's admission order, until the first that fails the
             look-ahead test;
5. run       every active request generates one token.

A `Policy` supplies the choices in this, called on Python's integers; everything else is shared:

>>> from jaxsched.policies import a_min
>>> requests = [Request(2, 4, 2, 5), Request(1, 6, 1, 8), Request(3, 2, 1, 4), Request(1, 3, 3, 3)]
>>> outcome = simulate(requests, memory=9, policy=a_min())
>>> outcome.completion, outcome.total_latency, outcome.evictions, outcome.wasted_tokens
([4, 10, 2, 5], 21, 2, 2)

Under a `Clock` rounds have lengths, and arrivals are times: a request is known in the first round
that starts at or after its arrival; with nobody active or waiting the clock jumps to the next
arrival, and no round passes. All times are whole ticks (picoseconds), so nothing is ever rounded.

Papers: Chen, Ye, Zhou, arXiv 2508.14544; Jaillet et al., arXiv 2502.07115 (the memory model, the
look-ahead test).
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsched.policies import LARGEST, Policy, View
from jaxsched.policies.fixed_point import limited

COMPLETED, EVICTED, CUT = "completed", "evicted", "cut"
FINISHED, ROUND_LIMIT = "finished", "round_limit"

ORDER_WIDTH = 64
"""An order of all requests is asked for a multiple of so many, padding included."""

LAST_TICK = 2**62
"""No round starts at this tick (53 days of picoseconds) or later."""


@dataclass(frozen=True)
class Request:
    """One request; lengths in tokens, arrival in rounds, its index is its place in the list."""

    prompt: int
    output: int  # the true length: only a hindsight policy may read it
    lower: int  # the predicted interval of the output, which may be wrong
    upper: int
    arrival: int = 0  # under a clock in ticks
    point: int | None = None  # a point prediction of the output; mc_sf needs it


@dataclass(frozen=True)
class Clock:
    """How long a round lasts, in ticks.

    fixed + per_prompt_token P + per_request D + per_cache_token K
    + per_token_beyond max(0, P + D - free_tokens), with P the prompt tokens admitted in the round,
    D the requests active in it, and K the memory in use.
    """

    fixed: int
    per_prompt_token: int = 0
    per_request: int = 0
    per_cache_token: int = 0
    per_token_beyond: int = 0
    free_tokens: int = 0  # tokens

    def lasts(self, prompt_tokens: int, active: int, used: int) -> int:
        """Ticks of a round with so many prompt tokens admitted, requests, and memory in use."""
        beyond = max(0, prompt_tokens + active - self.free_tokens)
        return (
            self.fixed
            + self.per_prompt_token * prompt_tokens
            + self.per_request * active
            + self.per_cache_token * used
            + self.per_token_beyond * beyond
        )


@dataclass(frozen=True)
class Blocks:
    """The numbers of a serving engine's worker (see `jaxsched.workers.Worker`)."""

    block: int = 16
    max_num_seqs: int = 256
    budget: int = 2048
    watermark: int = 0


class Run(NamedTuple):
    """One stay on the worker: tokens in the rounds `admitted`, ..., `ended - 1`."""

    admitted: int
    ended: int
    how: str  # COMPLETED, EVICTED, or CUT by the round limit


@dataclass(frozen=True)
class Outcome:
    """What `simulate` found; lists have one entry per request."""

    completion: list[int]  # rounds; -1 if it did not complete
    admissions: list[list[int]]  # the rounds of all its admissions
    first_token: list[int]  # end of the round of its first token in its first run; -1 if none
    runs: list[list[Run]]
    total_latency: int  # of completion - arrival over the completed; under a clock in ticks
    evictions: int
    wasted_tokens: int  # tokens lost to evictions
    peak_memory: int  # largest sum over a round, tokens
    memory_time: int  # sum of the memory in use over all rounds, token-rounds
    rounds: int  # the largest completion; 0 if nothing completed
    status: str  # FINISHED or ROUND_LIMIT
    # Under a clock, in ticks; empty without.
    starts: list[int]  # of every round
    admission_time: list[int]  # start of the round of the first admission; -1 if none
    first_token_time: list[int]  # end of the round of the first token in the first run; -1 if none
    completion_time: list[int]  # end of the round of the last token; -1 if it did not complete
    # On the worker of a serving engine; empty on the papers'.
    computed: list[int]  # tokens computed in every round that ran
    kept: list[list[int]]  # tokens that each request had at the end of each of its runs


class _NoPointError(Exception):
    """The point prediction was read where there is none."""


class _Pointless(View):
    """A request without a point prediction; reading it tells. Functions by hand do not compile."""

    def __getattribute__(self, name: str) -> Any:
        if name == "point":
            raise _NoPointError
        return super().__getattribute__(name)


class _PaperWorker:
    """The worker between two steps of a round; requests are known by their index."""

    def __init__(
        self,
        requests: Sequence[Request],
        memory: int,
        policy: Policy,
        max_batch: int | None,
        clocked: bool = False,
    ) -> None:
        self.requests, self.memory, self.policy = requests, memory, policy
        self.max_batch = max_batch
        numbers = limited(policy.params, policy.limit)
        self.params = jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), numbers)
        arrivals = sorted({request.arrival for request in requests})
        # What a policy sees of an arrival: the round, under a clock what compares like it.
        self.turns = {
            arrival: turn if clocked else arrival for turn, arrival in enumerate(arrivals)
        }
        self.rank = [0] * len(requests)
        self.evictions = [0] * len(requests)
        self.estimate = [0] * len(requests)
        for i in range(len(requests)):
            self.estimate[i] = max(1, self.ask(policy.estimate, i))
        if policy.rank is not None and requests:
            self.rank = self.ranks()
        # By request, since it was last evicted: neither changes before that.
        self.keys: dict[int, int] = {}
        self.reserved: dict[int, int] = {}
        self.coming = set(range(len(requests)))
        self.waiting: set[int] = set()
        self.active: dict[int, int] = {}  # index -> round of admission
        self.runs: list[list[Run]] = [[] for _ in requests]
        self.first_token = [-1] * len(requests)
        self.used: list[int] = []  # memory in use, one entry per round that ran
        self.computed: list[int] = []
        self.kept: list[list[int]] = []
        self.wasted = 0

    def ask(self, choice: Callable[[View], Any], i: int, tokens: int = 0, admitted: int = 0) -> int:
        """What a function of the policy says of request i, within what engines compare."""
        request = self.requests[i]
        record = View if request.point is not None else _Pointless
        view = record(
            prompt=request.prompt,
            output=request.output,
            lower=request.lower,
            upper=request.upper,
            point=request.point,
            arrival=self.turns[request.arrival],
            memory=self.memory,
            rank=self.rank[i],
            evictions=self.evictions[i],
            estimate=self.estimate[i],
            generated=tokens,
            admitted=admitted,
            params=self.params,
        )
        try:
            found = choice(view)
        except _NoPointError:
            raise ValueError(
                f"request {i}: point is None; expected an int >= 1, {self.policy.name} reads it"
            ) from None
        try:
            return max(-LARGEST, min(operator.index(found), LARGEST))
        except TypeError:
            raise TypeError(
                f"request {i}: {self.policy.name} gives {found!r}; expected an int"
            ) from None

    def ranks(self) -> list[int]:
        """Places of all requests by an order of the whole backlog."""
        names = ("prompt", "output", "lower", "upper")
        columns = {name: [getattr(r, name) for r in self.requests] for name in names}
        columns["point"] = [r.point or 0 for r in self.requests]
        columns["arrival"] = [self.turns[r.arrival] for r in self.requests]
        columns["estimate"] = self.estimate
        n = len(self.requests)
        try:  # of one width, so that little is compiled
            width = -(-n // ORDER_WIDTH) * ORDER_WIDTH
            places = _compiled_rank(self.policy.rank)(*self.lane(columns, width))
        except jax.errors.JAXTypeError:  # an order in plain Python
            places = self.policy.rank(*self.lane(columns, n))
        return [int(place) for place in places[:n]]

    def lane(self, columns: dict[str, list[int]], width: int) -> tuple[View, jax.Array]:
        """The requests as a record of arrays, with padding, and which of them are requests."""
        padded = {
            name: jnp.asarray(column + [1] * (width - len(column)), jnp.int64)
            for name, column in columns.items()
        }
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.int64), self.policy.params)
        view = View(**padded, memory=jnp.int64(self.memory), params=params)
        return view, jnp.arange(width) < len(self.requests)

    def complete(self, t: int) -> None:
        for i, admitted in list(self.active.items()):
            if t - admitted == self.requests[i].output:
                self.end(i, t, COMPLETED)

    def arrive(self, now: int) -> None:
        arrived = {i for i in self.coming if self.requests[i].arrival <= now}
        self.coming -= arrived
        self.waiting |= arrived

    def evict(self, t: int) -> None:
        for i, admitted in list(self.active.items()):
            quantum = self.policy.quantum
            if quantum is not None and t - admitted >= max(1, self.ask(quantum, i)):
                self.send_back(i, t)
        first = max if self.policy.evict_largest else min
        while self.needed(t) > self.memory:
            self.send_back(first(self.active, key=lambda i: self.eviction_key(i, t)), t)

    def admit(self, t: int) -> None:
        for i in sorted(self.waiting, key=self.admission_key):
            if len(self.active) == self.max_batch or not self.fits(i, t):
                break
            self.waiting.remove(i)
            self.active[i] = t

    def run(self, t: int) -> None:
        self.used.append(self.needed(t))
        for i in self.active:
            if self.first_token[i] < 0:
                self.first_token[i] = t + 1

    def end(self, i: int, t: int, how: str) -> None:
        self.runs[i].append(Run(self.active.pop(i), t, how))

    def send_back(self, i: int, t: int) -> None:
        self.estimate[i] = max(1, self.ask(self.policy.refine, i, self.tokens(i, t)))
        self.evictions[i] += 1
        self.wasted += self.lost(i, t)
        self.keys.pop(i, None)
        self.reserved.pop(i, None)
        self.end(i, t, EVICTED)
        self.waiting.add(i)

    def tokens(self, i: int, t: int) -> int:
        """Tokens that request i has generated, and still has."""
        return t - self.active[i] if i in self.active else 0

    def lost(self, i: int, t: int) -> int:
        """Tokens that an eviction throws away."""
        return t - self.active[i]

    def needed(self, t: int) -> int:
        """Memory that round t takes if everything now active runs in it."""
        return sum(self.requests[i].prompt + t - p + 1 for i, p in self.active.items())

    def fits(self, candidate: int, t: int) -> bool:
        """The look-ahead test: does memory suffice until all reservations have run out?"""
        admitted = {**self.active, candidate: t}
        ends = {j: max(p + self.reserve(j), t + 1) for j, p in admitted.items()}
        headroom = self.policy.headroom if self.active else None
        free = 0 if headroom is None else max(0, self.ask(headroom, candidate))

        def expected(then: int) -> int:
            running = [j for j in admitted if ends[j] >= then]
            return sum(self.requests[j].prompt + then - admitted[j] for j in running)

        # Between two ends the expected memory only grows, so its peaks are at the ends.
        return all(expected(end) <= self.memory - free for end in set(ends.values()))

    def reserve(self, i: int) -> int:
        if i not in self.reserved:
            # No request can use more; one that reserved more would wait for ever.
            most = self.memory - self.requests[i].prompt
            reserve = self.ask(self.policy.reserve, i, self.tokens(i, 0))
            self.reserved[i] = max(1, min(reserve, most))
        return self.reserved[i]

    def admission_key(self, i: int) -> tuple[int, int]:
        if i not in self.keys:
            self.keys[i] = self.ask(self.policy.admission_key, i, self.tokens(i, 0))
        return self.keys[i], i

    def eviction_key(self, i: int, t: int) -> tuple[int, int]:
        admitted = self.active[i]
        return self.ask(self.policy.eviction_key, i, self.tokens(i, t), admitted), i

    def lasts(self, t: int, clock: Clock) -> int:
        """Ticks of round t, which has just run."""
        admitted = [i for i, p in self.active.items() if p == t]
        prompt_tokens = sum(self.requests[i].prompt for i in admitted)
        return clock.lasts(prompt_tokens, len(self.active), self.used[-1])


class _BlockWorker(_PaperWorker):
    """The worker of a serving engine, docs/model.md: the scheduler of vLLM V1 in plain Python.

    A preempted request keeps its tokens and computes its cache again; memory is in blocks; a round
    computes at most `budget` tokens, prompts in chunks.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        memory: int,
        policy: Policy,
        max_batch: int | None,
        clocked: bool,
        numbers: Blocks,
    ) -> None:
        self.numbers, self.blocks = numbers, memory // numbers.block
        super().__init__(requests, self.blocks * numbers.block, policy, max_batch, clocked)
        self.cap = min(numbers.max_num_seqs, max_batch or numbers.max_num_seqs)
        self.kept = [[] for _ in requests]
        self.generated = [0] * len(requests)  # kept through preemptions
        self.cached = [0] * len(requests)  # tokens that have been computed
        self.entered_with = [0] * len(requests)  # generated at the last admission
        self.grants: dict[int, int] = {}  # tokens to compute in this round
        self.preempted = False  # whether anybody was in this round, for want of memory
        self.prompt_tokens = 0  # computed in the last round

    def end(self, i: int, t: int, how: str) -> None:
        super().end(i, t, how)
        self.kept[i].append(self.generated[i])

    def held(self, i: int) -> int:
        """Blocks of request i, with what it has been granted in this round."""
        return -(-(self.cached[i] + self.grants.get(i, 0)) // self.numbers.block)

    def free(self) -> int:
        return self.blocks - sum(self.held(i) for i in self.active)

    def left(self) -> int:
        """What is left of the round's budget."""
        return self.numbers.budget - sum(self.grants.values())

    def lacks(self, i: int) -> int:
        return self.requests[i].prompt + self.generated[i] - self.cached[i]

    def tokens(self, i: int, t: int) -> int:
        return self.generated[i]

    def lost(self, i: int, t: int) -> int:
        return self.cached[i]

    def complete(self, t: int) -> None:
        for i in list(self.active):
            if self.generated[i] == self.requests[i].output:
                self.end(i, t, COMPLETED)

    def evict(self, t: int) -> None:
        """Those that run go on, in the order in which they were admitted."""
        self.grants = {}
        for i in list(self.active):
            quantum, own = self.policy.quantum, self.generated[i] - self.entered_with[i]
            if quantum is not None and own >= max(1, self.ask(quantum, i)):
                self.send_back(i, t)
        self.preempted = False  # for want of memory, that is
        for i in list(self.active):
            if i in self.active:
                self.go_on(i, t)

    def go_on(self, i: int, t: int) -> None:
        grant, first = min(self.lacks(i), self.left()), max if self.policy.evict_largest else min
        needed = -(-(self.cached[i] + grant) // self.numbers.block) - self.held(i)
        while needed > self.free():
            victim = first(self.active, key=lambda j: self.eviction_key(j, t))
            self.send_back(victim, t)
            if victim == i:
                return
        self.grants[i] = grant

    def send_back(self, i: int, t: int) -> None:
        super().send_back(i, t)
        self.grants.pop(i, None)
        self.cached[i], self.preempted = 0, True

    def admit(self, t: int) -> None:
        if self.preempted:
            return
        for i in sorted(self.waiting, key=self.admission_key):
            if self.left() == 0 or len(self.active) >= self.cap or not self.fits(i, t):
                break
            self.waiting.remove(i)
            self.active[i], self.entered_with[i] = t, self.generated[i]
            self.grants[i] = min(self.lacks(i), self.left())

    def fits(self, candidate: int, t: int) -> bool:
        """Whether all its tokens fit now, and the look-ahead test passes, both in blocks.

        As though every prompt were computed in the round of its admission.
        """
        block, headroom = self.numbers.block, self.policy.headroom if self.active else None
        aside = self.numbers.watermark if self.active else 0
        if -(-self.lacks(candidate) // block) > self.free() - aside:
            return False
        free = 0
        if headroom is not None:
            free = max(0, self.ask(headroom, candidate, self.generated[candidate]))
        admitted = [*self.active, candidate]
        ends = {j: t + max(self.reserve(j) - self.generated[j], 1) for j in admitted}

        def expected(then: int) -> int:
            """Blocks in the round before `then`."""
            running = [j for j in admitted if ends[j] >= then]
            tokens = (self.requests[j].prompt + self.generated[j] + then - 1 - t for j in running)
            return sum(-(-held // block) for held in tokens)

        most = self.blocks - -(-free // block)
        return all(expected(end) <= most for end in set(ends.values()))

    def run(self, t: int) -> None:
        self.used.append(sum(self.held(i) for i in self.active) * self.numbers.block)
        self.computed.append(sum(self.grants.values()))
        self.prompt_tokens = 0
        for i, grant in self.grants.items():
            if self.cached[i] < self.requests[i].prompt + self.entered_with[i]:
                self.prompt_tokens += grant
            self.cached[i] += grant
            if self.lacks(i) == 0:
                self.generated[i] += 1
                if self.generated[i] == 1:
                    self.first_token[i] = t + 1

    def lasts(self, t: int, clock: Clock) -> int:
        cache = sum(self.cached[i] for i in self.active)
        return clock.lasts(self.prompt_tokens, len(self.active), cache)


@functools.lru_cache(maxsize=64)
def _compiled_rank(rank: Callable[[View, jax.Array], jax.Array]) -> Callable[..., Any]:
    names = [field.name for field in dataclasses.fields(View)]

    @jax.jit
    def on_fields(fields: dict[str, Any], real: jax.Array) -> jax.Array:
        return rank(View(**fields), real)

    return lambda view, real: on_fields({name: getattr(view, name) for name in names}, real)


def simulate(
    requests: Sequence[Request],
    memory: int,
    policy: Policy,
    max_rounds: int = 2**30,
    max_batch: int | None = None,
    clock: Clock | None = None,
    worker: Blocks | None = None,
) -> Outcome:
    """Serve the requests round by round.

    Rounds t >= max_rounds are not run: what completes by then counts, the rest is cut short, and
    cut tokens are not wasted ones. `max_batch` caps the requests that run together. Without a
    clock arrivals are rounds, and rounds pass while nobody is there. `worker` has the numbers of a
    serving engine's worker (see `_BlockWorker`); None is the papers'.

    Raises TypeError or ValueError, naming request, field and value, for what the model refuses:
    lengths below 1, lower > upper, arrivals below 0, anything but a plain int, a request that
    needs more than the memory, a missing point prediction where the policy reads it, a clock that
    does not advance.
    """
    _check(requests, memory, policy, max_rounds, max_batch, clock, worker)
    with jax.enable_x64(True):  # for policies written in `jax.numpy`
        args = (requests, memory, policy, max_batch, clock is not None)
        serving = _PaperWorker(*args) if worker is None else _BlockWorker(*args, worker)
        return _simulate(serving, max_rounds, clock)


def _simulate(worker: _PaperWorker, max_rounds: int, clock: Clock | None) -> Outcome:
    requests = worker.requests
    rounds: list[tuple[int, int]] = []  # start and end of every round that ran
    t = now = 0
    while True:
        worker.complete(t)
        done = not (worker.coming or worker.waiting or worker.active)
        if done or t >= max_rounds or (clock and now >= LAST_TICK):
            break
        worker.arrive(now)
        worker.evict(t)
        worker.admit(t)
        if worker.active:
            worker.run(t)
            start, now = now, now + (worker.lasts(t, clock) if clock else 1)
            rounds.append((start, now))
            t += 1
        else:
            now = min(requests[i].arrival for i in worker.coming)
            t = t if clock else min(max_rounds, now)
    for i in list(worker.active):
        worker.end(i, t, CUT)
    outcome = _outcome(worker)
    return _with_times(outcome, requests, rounds) if clock else outcome


def _outcome(worker: _PaperWorker) -> Outcome:
    requests, runs, used = worker.requests, worker.runs, worker.used
    completion = [own[-1].ended if own and own[-1].how == COMPLETED else -1 for own in runs]
    latency = [c - r.arrival for c, r in zip(completion, requests, strict=True) if c >= 0]
    return Outcome(
        completion=completion,
        admissions=[[run.admitted for run in own] for own in runs],
        first_token=worker.first_token,
        runs=runs,
        total_latency=sum(latency),
        evictions=sum(run.how == EVICTED for own in runs for run in own),
        wasted_tokens=worker.wasted,
        peak_memory=max(used, default=0),
        memory_time=sum(used),
        rounds=max([0, *completion]),
        status=ROUND_LIMIT if -1 in completion else FINISHED,
        starts=[],
        admission_time=[],
        first_token_time=[],
        completion_time=[],
        computed=worker.computed,
        kept=worker.kept,
    )


def _with_times(
    outcome: Outcome, requests: Sequence[Request], rounds: list[tuple[int, int]]
) -> Outcome:
    completed = [rounds[c - 1][1] if c >= 0 else -1 for c in outcome.completion]
    latency = [c - r.arrival for c, r in zip(completed, requests, strict=True) if c >= 0]
    return replace(
        outcome,
        total_latency=sum(latency),
        starts=[start for start, _ in rounds],
        admission_time=[rounds[own[0]][0] if own else -1 for own in outcome.admissions],
        first_token_time=[rounds[f - 1][1] if f >= 0 else -1 for f in outcome.first_token],
        completion_time=completed,
    )


def _check(
    requests: Sequence[Request],
    memory: int,
    policy: Policy,
    max_rounds: int,
    max_batch: int | None,
    clock: Clock | None,
    worker: Blocks | None,
) -> None:
    _check_int("memory", memory, least=1)
    _check_int("max_rounds", max_rounds, least=0)
    if max_batch is not None:
        _check_int("max_batch", max_batch, least=1)
    if clock is not None:
        _check_clock(clock)
    if worker is not None:
        for name, value in vars(worker).items():
            _check_int(f"worker: {name}", value, least=int(name != "watermark"))
        if worker.budget < worker.max_num_seqs:
            raise ValueError(
                f"worker: budget is {worker.budget}; expected at least max_num_seqs = "
                f"{worker.max_num_seqs}"
            )
        memory = memory // worker.block * worker.block
    for i, request in enumerate(requests):
        _check_request(f"request {i}: ", request, memory, policy)


def _check_clock(clock: Clock) -> None:
    for name, value in vars(clock).items():
        _check_int(f"clock: {name}", value, least=0)
    if clock.fixed + clock.per_request + clock.per_cache_token < 1:
        raise ValueError("clock: a round may last 0 ticks; expected at least 1")


def _check_request(who: str, request: Request, memory: int, policy: Policy) -> None:
    for name in ("prompt", "output", "lower", "upper"):
        _check_int(who + name, getattr(request, name), least=1)
    _check_int(who + "arrival", request.arrival, least=0)
    if request.point is not None:
        _check_int(who + "point", request.point, least=1)
    if request.lower > request.upper:
        raise ValueError(f"{who}lower is {request.lower}; expected <= upper = {request.upper}")
    if policy.rank is not None and request.arrival > 0:
        raise ValueError(
            f"{who}arrival is {request.arrival}; expected 0, {policy.name} orders a whole backlog"
        )
    if request.prompt + request.output > memory:
        raise ValueError(
            f"{who}prompt + output is {request.prompt} + {request.output}; "
            f"expected <= memory = {memory}, or it can never finish"
        )


def _check_int(what: str, value: Any, least: int) -> None:
    if type(value) is not int:
        found = f"{value!r} ({type(value).__name__})"
        raise TypeError(f"{what} is {found}; expected a plain int >= {least}")
    if value < least:
        raise ValueError(f"{what} is {value}; expected an int >= {least}")
