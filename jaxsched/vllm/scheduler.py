"""vLLM's own scheduler with another order, another victim and a look-ahead test; imports vLLM.

Beside a queue of one's own there are two hooks, and neither costs anything while memory suffices.
Where memory is short vLLM asks for `policy`: then the policy's victim gets the largest `priority`,
until it is preempted, which vLLM's priority policy does by itself. And the first request for blocks
after a look at the head of the queue, which is the one that would admit it, goes through the
look-ahead test.
"""

from __future__ import annotations

import heapq
import importlib.metadata
import inspect
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from jaxsched import predict
from jaxsched.policies import policy as policy_named
from jaxsched.vllm.decisions import Decisions, Seen, log
from jaxsched.vllm.settings import ServingSettings, prediction_of, serving_settings

try:
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.core.sched import async_scheduler, request_queue
    from vllm.v1.core.sched import scheduler as vllm_scheduler
    from vllm.v1.request import RequestStatus
except ImportError as error:
    raise ImportError(
        f"jaxsched.vllm needs vLLM (pip install '.[vllm]'): {error}", name=error.name
    ) from error

TRIED = ("0.33.0",)
"""The versions of vLLM with which every test of tests/served_by_vllm.py passes."""

FIRST_OUT = sys.maxsize
"""The priority of a victim, for the moment in which vLLM looks for one."""

LEANS_ON = (
    "self.kv_cache_manager.allocate_slots(",
    "if self.policy == SchedulingPolicy.PRIORITY:",
    "key=lambda r: (r.priority, r.arrival_time)",
    "self._preempt_request(",
    ".peek_request()",
    ".pop_request()",
)
"""What stands in vLLM's `Scheduler.schedule`, and must."""

QUEUE = {
    "__bool__", "__iter__", "__len__", "add_request", "peek_request", "pop_request",
    "prepend_request", "prepend_requests", "remove_request", "remove_requests",
}  # fmt: skip
"""What vLLM asks of a queue."""


def moved() -> list[str]:
    """What of vLLM is not as the classes here expect it; nothing, if they can work."""
    schedule = inspect.getsource(vllm_scheduler.Scheduler.schedule)
    found = [f"Scheduler.schedule has no {step!r}" for step in LEANS_ON if step not in schedule]
    firsts = {
        vllm_scheduler.Scheduler._preempt_request: ["self", "request"],
        KVCacheManager.allocate_slots: ["self", "request", "num_new_tokens"],
    }
    for function, first in firsts.items():
        names = list(inspect.signature(function).parameters)
        if names[: len(first)] != first:
            found.append(f"{function.__qualname__} takes {names}; expected {first} first")
    if set(request_queue.RequestQueue.__abstractmethods__) != QUEUE:
        asked = sorted(request_queue.RequestQueue.__abstractmethods__)
        found.append(f"RequestQueue asks for {asked}")
    return found


VERSION = importlib.metadata.version("vllm")
if _moved := moved():
    raise ImportError(
        f"jaxsched.vllm does not fit vLLM {VERSION} (tried with {', '.join(TRIED)}): "
        + "; ".join(_moved)
    )


class PolicyQueue(request_queue.RequestQueue):  # type: ignore[misc, unused-ignore]
    """Waiting requests in the order of a policy, those that have waited too long before them."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self._heap: list[tuple[int, int, Any]] = []

    def add_request(self, request: Any) -> None:
        """Adds one, at the place that its key gives it."""
        seen = self.owner.seen(request)
        seen.since = self.owner.now() - seen.waited
        key = self.owner.decisions.admission_key(seen)
        heapq.heappush(self._heap, (key, seen.index, request))

    prepend_request = add_request

    def prepend_requests(self, requests: Iterable[Any]) -> None:
        """Adds several; there is no front but what their keys say."""
        for request in requests:
            self.add_request(request)

    def pop_request(self) -> Any:
        """Takes the first."""
        request = heapq.heappop(self._heap)[2]
        seen = self.owner.seen(request)
        seen.waited = self.owner.now() - seen.since
        seen.admitted = self.owner.rounds
        return request

    def peek_request(self) -> Any:
        """The first, which is now about to be admitted."""
        self.owner.test_next_allocation()
        return self._heap[0][2]

    def remove_request(self, request: Any) -> None:
        """Takes one out."""
        self.remove_requests({request})

    def remove_requests(self, requests: Iterable[Any]) -> None:
        """Takes several out; those that are not in it are none."""
        leaving = set(requests)
        self._heap = [entry for entry in self._heap if entry[2] not in leaving]
        heapq.heapify(self._heap)

    def reorder(self) -> None:
        """Asks for all keys again."""
        decisions, seen = self.owner.decisions, self.owner.seen
        before, key = decisions.failed, decisions.admission_key
        heap = [(key(seen(request)), index, request) for _, index, request in self._heap]
        if decisions.failed == before:  # else one of them failed, and all were asked for anew
            self._heap = heap
            heapq.heapify(self._heap)

    def __bool__(self) -> bool:
        return bool(self._heap)

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Any]:
        return (request for _, _, request in sorted(self._heap))


class _Chosen:
    """What is different from vLLM's scheduler, its asynchronous one too."""

    # Of vLLM's:
    kv_cache_manager: Any
    kv_cache_config: Any
    vllm_config: Any
    block_size: int
    running: list[Any]

    now: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.running = []
        self._marked: tuple[Any, int] | None = None  # a victim, and its own priority
        super().__init__(*args, **kwargs)
        if VERSION not in TRIED:
            log.warning(
                "jaxsched.vllm was tried with vLLM %s, and this is %s", ", ".join(TRIED), VERSION
            )
        jax.config.update("jax_platforms", "cpu")  # the accelerators are vLLM's
        self.settings: ServingSettings = serving_settings(self.vllm_config.additional_config)
        chosen = policy_named(self.settings.policy)
        self.decisions = Decisions(
            chosen, self.kv_cache_config.num_blocks - 1, self.block_size, self._reorder
        )
        groups = len(self.kv_cache_config.kv_cache_groups)
        if groups != 1 and (self.decisions.looks_ahead or "memory" in chosen.reads):
            raise ValueError(
                f"policy {chosen.name!r} counts memory, and the model has {groups} groups of KV "
                "cache; expected 1, or a policy that does not, such as lcf"
            )
        self.predictor: Any = predictor_of(self.settings)
        self.waiting = PolicyQueue(self)
        self.kv_holding_waiting = PolicyQueue(self)
        self.rounds = 0  # that have computed something
        self._requests = self._turn = 0  # that have arrived; different times of arrival, less one
        self._last_arrival: float | None = None
        self._said: set[str] = set()
        self._look_again = 0.0
        log.info("policy %s, nobody waits for more than %g s", chosen.name, self.settings.max_wait)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """As vLLM's, after a look at who has waited too long."""
        if self.settings.max_wait and self.now() >= self._look_again:
            self._look_for_overdue()
        output = super().schedule(*args, **kwargs)  # type: ignore[misc]
        self._unmark()
        self.rounds += output.total_num_scheduled_tokens > 0
        return output

    def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> None:
        marked = self._unmark()
        if marked is not None and marked is not request:
            self.say_once("vLLM preempted another request than the policy's; see docs/vllm.md")
        self.decisions.preempt(self.seen(request))
        super()._preempt_request(request, *args, **kwargs)  # type: ignore[misc]

    def seen(self, request: Any) -> Seen:
        """What the policy sees of a request, with the tokens that it has now."""
        seen: Seen | None = getattr(request, "jaxsched", None)
        if seen is None:
            seen = self._arrive(request)
        # With those that a step still computes; none, unless scheduling is asynchronous.
        seen.generated = request.num_output_tokens + request.num_output_placeholders
        return seen

    def _arrive(self, request: Any) -> Seen:
        if self._last_arrival not in (None, request.arrival_time):
            self._turn += 1
        self._last_arrival = request.arrival_time
        prompt, most = request.num_prompt_tokens, request.max_tokens
        seen = Seen(self._requests, self._turn, prompt, self._prediction(request, most))
        self._requests += 1
        self.decisions.arrive(seen)
        request.jaxsched = seen
        return seen

    def _prediction(self, request: Any, most: int) -> tuple[int, int, int]:
        sampling = request.sampling_params
        try:
            own = prediction_of(None if sampling is None else sampling.extra_args, most)
            if own is not None:
                return own
            if self.predictor is not None:
                return self.predictor(request.num_prompt_tokens, most)
        except Exception as error:
            self.say_once(f"a request's prediction cannot be used, it counts as none: {error}")
        return 1, max(1, most), max(1, most)

    @property
    def policy(self) -> Any:
        """vLLM's policy, by which it orders victims; it asks where memory is short."""
        if self._marked is None and self.running:
            victim = self.running[self.decisions.victim([self.seen(x) for x in self.running])]
            self._marked = victim, victim.priority
            victim.priority = FIRST_OUT
        return request_queue.SchedulingPolicy.PRIORITY

    @policy.setter
    def policy(self, told: Any) -> None:
        """What vLLM's own setting says, of which nothing is used."""

    def _unmark(self) -> Any:
        if self._marked is None:
            return None
        victim, own = self._marked
        victim.priority, self._marked = own, None
        return victim

    def test_next_allocation(self) -> None:
        """Has the next request for blocks pass the look-ahead test."""
        if self.decisions.looks_ahead:
            self.kv_cache_manager.allocate_slots = self._allocate_slots

    def _allocate_slots(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        del self.kv_cache_manager.allocate_slots
        if request.status is not RequestStatus.RUNNING and not self.decisions.fits(
            self.seen(request), [self.seen(other) for other in self.running]
        ):
            return None
        return self.kv_cache_manager.allocate_slots(request, *args, **kwargs)

    def _look_for_overdue(self) -> None:
        now, most = self.now(), self.settings.max_wait
        self._look_again = now + min(1.0, most / 10)
        late = [
            seen
            for seen in map(self.seen, (*self.waiting, *self.kv_holding_waiting))
            if not seen.overdue and now - seen.since >= most
        ]
        for seen in late:
            seen.overdue = True
        if late:
            self.say_once(
                f"a request has waited for {most:g} s and goes first; from here on the schedule is "
                "not the one that was simulated"
            )
            self._reorder()

    def _reorder(self) -> None:
        self.waiting.reorder()
        self.kv_holding_waiting.reorder()

    def say_once(self, text: str) -> None:
        """Logs a warning, one of each kind."""
        kind = text.partition(":")[0]
        if kind not in self._said:
            self._said.add(kind)
            log.warning("%s", text)


def predictor_of(settings: ServingSettings) -> Callable[[int, int], tuple[int, int, int]] | None:
    """From a prompt's tokens and the most that may be generated to a prediction; None without.

    Raises:
      ValueError: If the predictor has seen texts only.
      OSError: If there is none in the folder.
    """
    if not settings.predictor:
        return None
    kept = predict.load(settings.predictor)
    if "length" not in kept.params:
        raise ValueError(
            f"predictor {settings.predictor} was trained on texts alone; expected one that takes "
            "token counts, since a scheduler sees no text"
        )

    def predicted(prompt: int, most: int) -> tuple[int, int, int]:
        counts = np.array([prompt])
        lower = int(kept.lower(counts, settings.level)[0])
        upper = max(lower, most)
        if settings.coverage:
            upper = max(lower, int(kept.interval(counts, settings.coverage)[1][0]))
        return lower, upper, max(1, round(float(kept.quantile(counts, [0.5])[0, 0])))

    return predicted


class Scheduler(_Chosen, vllm_scheduler.Scheduler):  # type: ignore[misc, unused-ignore]
    """vLLM's scheduler under a policy of jaxsched; the one that is compared with the simulator."""


class AsyncScheduler(_Chosen, async_scheduler.AsyncScheduler):  # type: ignore[misc, unused-ignore]
    """The same one step ahead, as vLLM does by default; it learns a step later who is done."""
