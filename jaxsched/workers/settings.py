"""Workers as data: whose rules hold, and four numbers. docs/model.md says why SGLang has none."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxsched.instance import Instance, any_traced

LARGEST_BLOCK = 2**16
"""Tokens."""

MOST = 2**30
"""Largest number of requests, of a budget and of a watermark."""

SETTINGS = ("block", "max_num_seqs", "budget", "watermark")


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=list(SETTINGS), meta_fields=["name"]
)
@dataclasses.dataclass(frozen=True)
class Worker:
    """The rules of one worker (docs/model.md); `name` "paper" is the papers' and has no numbers.

    Attributes:
      name: What made it.
      block: Tokens in a block of KV cache.
      max_num_seqs: Most requests that run together.
      budget: Most tokens computed in a round, `max_num_batched_tokens` of vLLM; not below
        `max_num_seqs`.
      watermark: Blocks that stay free when a request is admitted beside others.
    """

    name: str = "paper"
    block: Any = None
    max_num_seqs: Any = None
    budget: Any = None
    watermark: Any = None

    @property
    def blocks(self) -> bool:
        """Whether memory is counted in blocks, with the rules of a serving engine."""
        return self.name != "paper"

    @property
    def numbers(self) -> tuple[Any, Any, Any, Any]:
        """Block, max_num_seqs, budget and watermark."""
        return (self.block, self.max_num_seqs, self.budget, self.watermark)

    def __str__(self) -> str:
        if not self.blocks:
            return self.name
        named = zip(SETTINGS, self.numbers, strict=True)
        return f"{self.name}:" + ",".join(
            f"{name}={value}" for name, value in named if name != "watermark" or value
        )


def paper() -> Worker:
    """The papers' worker: memory by the token, evicted tokens are generated again (2502.07115)."""
    return Worker()


def vllm(
    block: Any = 16, max_num_seqs: Any = 256, budget: Any = 2048, watermark: Any = 0
) -> Worker:
    """The worker of vLLM V1: blocks, chunked prefill under a token budget, kept tokens.

    As its scheduler works in version 0.33.0 with the defaults, without prefix caching and
    speculative decoding. Numbers may be traced, and may have an axis for each axis of lanes.

    Args:
      block: Tokens in a block (`--block-size`), 1 to 2^16.
      max_num_seqs: Most requests that run together (`--max-num-seqs`), 1 to 2^30.
      budget: Most tokens computed in a round (`--max-num-batched-tokens`), `max_num_seqs` to 2^30.
      watermark: Blocks that stay free when a request is admitted beside others, 0 to 2^30.

    Raises:
      TypeError: If a number is not whole.
      ValueError: If it is out of range; the text names it.
    """
    return checked(Worker("vllm", block, max_num_seqs, budget, watermark))


def trtllm(block: Any = 32, max_num_seqs: Any = 256, budget: Any = 8192) -> Worker:
    """TensorRT-LLM's batch manager in the rules of `vllm`, with its own numbers.

    `tokens_per_block`, `max_batch_size` and `max_num_tokens`. MAX_UTILIZATION is `fcfs` on it;
    GUARANTEED_NO_EVICT is `no_evict`, which reserves the largest length a request may have.

    Raises:
      TypeError, ValueError: As `vllm`.
    """
    return checked(Worker("trtllm", block, max_num_seqs, budget, 0))


WORKERS: dict[str, Callable[..., Worker]] = {"paper": paper, "vllm": vllm, "trtllm": trtllm}
"""Name -> the function that makes it."""


def worker_named(text: str) -> Worker:
    """Reads the text that names a worker, such as "paper" or "vllm:block=16,budget=4096".

    Raises:
      ValueError: If there is no such worker or number; the text lists the right ones.
    """
    name, _, rest = text.partition(":")
    if name not in WORKERS:
        near = difflib.get_close_matches(name, WORKERS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"worker is {text!r}; expected one of {', '.join(WORKERS)}{hint}")
    numbers: dict[str, int] = {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        if name == "paper" or key not in SETTINGS or key in numbers:
            takes = "no numbers" if name == "paper" else f"each of {', '.join(SETTINGS)} once"
            raise ValueError(f"worker {text!r}: found {part!r}; expected {takes}")
        try:
            numbers[key] = int(value)
        except ValueError:
            raise ValueError(
                f"worker {text!r}: {key} is {value!r}; expected a whole number"
            ) from None
    try:
        return WORKERS[name](**numbers)
    except TypeError:
        raise ValueError(f"worker {text!r}: {name} has no such number") from None


def in_blocks(instance: Instance, worker: Worker) -> Instance:
    """The instance with its memory rounded down to whole blocks.

    ValueError if that leaves none.
    """
    block, memory = worker.block, instance.memory
    if isinstance(block, jax.core.Tracer):
        block = block.clip(1, LARGEST_BLOCK)  # what is out of range marks its lanes later
    elif not any_traced(memory) and np.any(np.less(memory, block)):
        raise ValueError(f"memory is {memory}; expected at least a block of {block} tokens")
    return instance.replace(memory=memory // block * block)


def checked(worker: Worker) -> Worker:
    """The worker, if its numbers can be; those that are traced are not looked at.

    Raises:
      TypeError: If a number is not whole.
      ValueError: If it is out of range.
    """
    bounds = ((1, LARGEST_BLOCK), (1, MOST), (1, MOST), (0, MOST))
    for name, value, (least, most) in zip(SETTINGS, worker.numbers, bounds, strict=True):
        if isinstance(value, jax.core.Tracer):
            continue
        array = np.asarray(value)
        if array.dtype.kind not in "iu":
            raise TypeError(f"worker: {name} is {value!r}; expected a whole number")
        if array.size and not (least <= array.min() and array.max() <= most):
            raise ValueError(f"worker: {name} is {value}; expected {least} to {most}")
    both = (worker.budget, worker.max_num_seqs)
    if not any(isinstance(value, jax.core.Tracer) for value in both) and np.any(
        np.less(worker.budget, worker.max_num_seqs)
    ):
        raise ValueError(
            f"worker: budget is {worker.budget}; expected at least max_num_seqs = "
            f"{worker.max_num_seqs}, so that every running request gets its token"
        )
    return worker
