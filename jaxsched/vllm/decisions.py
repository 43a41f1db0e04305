"""A policy on live requests: the order of the waiting, the victim, estimates, the look-ahead test.

The same functions on Python's whole numbers as in the reference, and nothing of vLLM: what asks
here says which request, and how many tokens it has generated.
"""

from __future__ import annotations

import functools
import logging
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from jaxsched.policies import LARGEST, Policy, fcfs
from jaxsched.policies.fixed_point import limited
from jaxsched.policies.paper import one

OVERDUE = -LARGEST - 1
"""The key of who has waited too long; before every key of a policy."""

log = logging.getLogger("vllm.jaxsched")  # vLLM prints what is said below its own name

Operation = TypeVar("Operation", bound=Callable[..., Any])


class Seen:
    """What a policy sees of a live request: the fields of `View`, brought up to date in place."""

    __slots__ = (
        "admitted", "arrival", "estimate", "evictions", "generated", "index", "leaves", "lower",
        "memory", "output", "overdue", "params", "point", "prompt", "rank", "reserved", "since",
        "upper", "waited",
    )  # fmt: skip

    def __init__(
        self, index: int, arrival: int, prompt: int, prediction: tuple[int, int, int]
    ) -> None:
        self.index, self.arrival, self.prompt = index, arrival, prompt
        self.memory, self.params = 0, None  # what `Decisions.arrive` says
        self.lower, self.upper, self.point = prediction
        self.output = None  # nobody knows
        self.rank = self.evictions = self.estimate = self.generated = self.admitted = 0
        self.reserved = 0  # tokens for the look-ahead test; 0 until it is asked
        self.leaves: int | None = None  # the key of its eviction, if it stays while it runs
        self.since = self.waited = 0.0  # when it began to wait, seconds that it has waited in all
        self.overdue = False


def unservable(policy: Policy) -> str | None:
    """Why a policy cannot run on a server; None if it can."""
    if policy.planned:
        return "is a schedule made in hindsight, before anything runs"
    if policy.rank is not None:
        return "orders a whole backlog at once (rank=); expected choices that look at one request"
    if policy.quantum is not None:
        return "sends requests back after a quantum; vLLM does so only for want of memory"
    if policy.hindsight:
        return "reads the true output, which no server knows; expected predictions"
    return None


def _else_fcfs(operation: Operation) -> Operation:
    """The operation of `Decisions`; if the policy's functions fail, fcfs from now on."""

    @functools.wraps(operation)
    def guarded(self: Decisions, *args: Any) -> Any:
        try:
            return operation(self, *args)
        except Exception as error:
            if self.failed:
                raise
            self.fall_back(error)
            return operation(self, *args)

    return guarded  # type: ignore[return-value]


class Decisions:
    """The choices of one policy for the requests of a server.

    Args:
      policy: Which.
      blocks, block: The KV cache: blocks, and tokens in one.
      reorder: Called when all keys have changed.

    Raises:
      ValueError: If the policy needs what a server does not know.
    """

    def __init__(
        self, policy: Policy, blocks: int, block: int, reorder: Callable[[], None] = lambda: None
    ) -> None:
        reason = unservable(policy)
        if reason is not None:
            raise ValueError(f"policy {policy.name!r} {reason}")
        self.blocks, self.block, self.reorder = blocks, block, reorder
        self.failed = False
        self._hint = 1  # in how many rounds a look-ahead test found the most blocks
        self._take(policy)

    def _take(self, policy: Policy) -> None:
        self.policy = policy
        numbers = limited(policy.params, policy.limit)
        self.params = jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), numbers)
        # Of one token more each vLLM's own test is the whole of it.
        self.looks_ahead = policy.reserve is not one or policy.headroom is not None
        self.keys_move = self.failed or policy.choices.keys_move

    def fall_back(self, error: Exception) -> None:
        """From now on fcfs; said once."""
        self.failed = True
        log.error(
            "policy %s failed; requests are served by fcfs from now on", self.policy.name,
            exc_info=error,
        )  # fmt: skip
        self._take(fcfs())
        self.reorder()

    def ask(self, choice: Callable[[Any], Any], seen: Seen) -> int:
        """What a function of the policy says of a request, as engines take it."""
        found = choice(seen)
        if type(found) is not int:
            with jax.enable_x64(True):  # for policies written in `jax.numpy`
                found = operator.index(choice(seen))
        return found if -LARGEST <= found <= LARGEST else max(-LARGEST, min(found, LARGEST))

    @_else_fcfs
    def arrive(self, seen: Seen) -> None:
        """A request is there, with nothing generated."""
        seen.memory, seen.params = self.blocks * self.block, self.params
        seen.estimate = max(1, self.ask(self.policy.estimate, seen))

    @_else_fcfs
    def admission_key(self, seen: Seen) -> int:
        """The smallest (key, index) is admitted first; it stays while the request waits."""
        return OVERDUE if seen.overdue else self.ask(self.policy.admission_key, seen)

    @_else_fcfs
    def preempt(self, seen: Seen) -> None:
        """It has been preempted, with its tokens kept."""
        seen.estimate = max(1, self.ask(self.policy.refine, seen))
        seen.evictions += 1
        seen.reserved, seen.leaves = 0, None

    @_else_fcfs
    def victim(self, running: Sequence[Seen]) -> int:
        """Place in `running` of the request that is preempted first.

        Who has waited too long is taken last, and of these the latest arrived.
        """
        places = [place for place, seen in enumerate(running) if not seen.overdue]
        if not places:
            return max(range(len(running)), key=lambda place: running[place].index)
        first = max if self.policy.evict_largest else min
        return first(places, key=lambda place: self._eviction_key(running[place]))

    def _eviction_key(self, seen: Seen) -> tuple[int, int]:
        if self.keys_move:
            return self.ask(self.policy.eviction_key, seen), seen.index
        if seen.leaves is None:
            seen.leaves = self.ask(self.policy.eviction_key, seen)
        return seen.leaves, seen.index

    @_else_fcfs
    def fits(self, candidate: Seen, running: Sequence[Seen]) -> bool:
        """Whether memory suffices until all reservations have run out, as in `_BlockWorker.fits`.

        Every prompt is taken to be computed at once.
        """
        if candidate.overdue or not self.looks_ahead:
            return True
        most = self.blocks
        if self.policy.headroom is not None and running:
            most -= -(-max(0, self.ask(self.policy.headroom, candidate)) // self.block)
        block, hint = self.block, self._hint
        left, held = [], []  # rounds until it ends, tokens in the coming one
        now = at_ends = at_hint = 0  # blocks: in the coming round, if all ended at once, then
        for seen in (*running, candidate):
            rounds = (seen.reserved or self._reserve(seen)) - seen.generated
            if rounds < 1:
                rounds = 1
            tokens = seen.prompt + seen.generated
            now += -(-tokens // block)
            at_ends += -(-(tokens + rounds - 1) // block)
            if rounds >= hint:
                at_hint += -(-(tokens + hint - 1) // block)
            left.append(rounds)
            held.append(tokens)
        if now > most:
            return False
        if at_ends <= most:
            return True
        if at_hint > most:  # where it was too much the last time, a round ago
            self._hint = max(1, hint - 1)
            return False
        peak, self._hint = _peak(held, left, block)
        return peak <= most

    def _reserve(self, seen: Seen) -> int:
        if not seen.reserved:
            reserve = self.ask(self.policy.reserve, seen)
            seen.reserved = max(1, min(reserve, self.blocks * self.block - seen.prompt))
        return seen.reserved


def _peak(held: Iterable[int], left: Iterable[int], block: int) -> tuple[int, int]:
    """Most blocks in any round, of requests that hold so many tokens and end in so many rounds.

    And in how many rounds that is.
    """
    tokens, ends = np.fromiter(held, np.int64), np.fromiter(left, np.int64)
    rounds = np.unique(ends)  # between two ends the memory only grows
    need = (tokens + (block - 2) + rounds[:, None]) // block
    blocks = (need * (ends >= rounds[:, None])).sum(1)
    most = int(blocks.argmax())
    return int(blocks[most]), int(rounds[most])
