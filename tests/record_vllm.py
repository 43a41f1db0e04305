"""Records what the scheduler of vLLM does with small random streams: tests/data/vllm_0_33.jsonl.gz.

    pip install vllm==0.33.0                    # into an environment of its own; no GPU, no model
    python tests/record_vllm.py tests/data/vllm_0_33.jsonl.gz

A line is a stream: the numbers of the worker, requests as [arrival, prompt, output, priority] in
order of arrival, and by request the rounds after which its first and last token are there and how
often it was preempted, then the tokens computed in every round that ran.

With --policies the scheduler is `jaxsched.vllm.Scheduler`, `rule` names its policy, and requests
are [arrival, prompt, output, lower, upper, point]: tests/data/vllm_policies_0_33.jsonl.gz.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {"VLLM_TARGET_DEVICE": "cpu", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}

LONGEST = 8192
PREDICTED = ("jaxsched_lower", "jaxsched_upper", "jaxsched_point")
RULES = (
    "fcfs", "priority", "svf:lower", "a_min:on_eviction", "a_min:every_round", "lcf",
    "tuned:sharegpt_relative",
)  # fmt: skip
"""Of the streams with --policies, in turn."""

MODEL = {
    "architectures": ["OPTForCausalLM"],
    "model_type": "opt",
    "hidden_size": 64,
    "ffn_dim": 64,
    "num_attention_heads": 1,
    "num_hidden_layers": 1,
    "word_embed_proj_dim": 64,
    "vocab_size": 512,
    "max_position_embeddings": LONGEST,
    "torch_dtype": "float32",
}
"""Enough of a model for a scheduler to be made; nothing is ever computed."""


seconds: list[float] = []
"""Processor time of every stream that was run, without making its scheduler."""


def stream(rng: random.Random) -> dict[str, Any]:
    """A worker whose memory holds a few of the requests, and some that come at once or apart."""
    block, longest = rng.choice((1, 3, 16)), rng.choice((12, 60, 150))
    seats = rng.choice((3, 6, 40))
    blocks = -(-2 * longest // block) * rng.choice((1, 2, 3)) + rng.randrange(3)
    policy, pause = rng.choice(("fcfs", "priority")), rng.choice((0, 0, 2, 9))
    arrival, requests = 0, []
    for _ in range(rng.randint(4, 24)):
        prompt, output = rng.randint(1, longest), rng.randint(1, longest)
        requests.append([arrival, prompt, output, rng.randint(1, 4)])
        arrival += rng.randint(0, pause)
    worker = {"block": block, "max_num_seqs": seats, "budget": rng.choice((seats, 64, 256))}
    worker["budget"] = max(worker["budget"], seats)
    return {"blocks": blocks, "worker": worker, "policy": policy, "requests": requests}


def ruled_stream(rng: random.Random, rule: str, most: int = 24) -> dict[str, Any]:
    """The same for a policy that sees predictions, some of which are wrong."""
    case = stream(rng)
    worker = case["worker"]
    case["rule"], worker["watermark"] = rule, rng.choice((0, 0, 1, 2))
    del case["requests"][most:]
    # of memory little more than one of them needs
    needed = max(
        -(-(prompt + output) // worker["block"]) for _, prompt, output, _ in case["requests"]
    )
    case["blocks"] = int(needed * rng.choice((1, 1.4, 2))) + rng.randint(0, 3)
    for request in case["requests"]:
        output = request[2]
        lower = rng.choice((1, max(1, output // 2), rng.randint(1, 150)))
        upper = rng.choice((lower, max(lower, output), lower + rng.randint(0, 150)))
        request[3:] = [lower, upper, rng.choice((output, rng.randint(1, 150)))]
    return case


def scheduler_of(case: dict[str, Any], model: Any) -> Any:
    """The scheduler of vLLM with the numbers of a stream; one block more, which it never uses."""
    import torch
    from vllm.config import CacheConfig, SchedulerConfig, VllmConfig
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    worker, blocks = case["worker"], case["blocks"] + 1
    cache = CacheConfig(block_size=worker["block"], enable_prefix_caching=False)
    cache.num_gpu_blocks = blocks
    own = SchedulerConfig(
        max_num_seqs=worker["max_num_seqs"],
        max_num_batched_tokens=worker["budget"],
        max_model_len=LONGEST,
        enable_chunked_prefill=True,
        is_encoder_decoder=False,
        policy=case["policy"],
        watermark=(worker.get("watermark", 0) + 0.5) / blocks,
    )
    told: dict[str, Any] = {}
    if "rule" in case:
        told = {"jaxsched": {"policy": case["rule"], "max_wait": 0.0} | case.get("settings", {})}
    whole = VllmConfig(
        scheduler_config=own, model_config=model, cache_config=cache, additional_config=told
    )
    if told:
        from jaxsched.vllm import Scheduler
    kind = FullAttentionSpec(
        block_size=worker["block"], num_kv_heads=1, head_size=1, dtype=torch.float32
    )
    return Scheduler(
        vllm_config=whole,
        kv_cache_config=KVCacheConfig(
            num_blocks=blocks,
            kv_cache_tensors=[],
            kv_cache_groups=[KVCacheGroupSpec(["layer"], kind)],
        ),
        structured_output_manager=StructuredOutputManager(whole),
        block_size=worker["block"],
    )


def recorded(case: dict[str, Any], model: Any) -> dict[str, Any]:
    """The stream, and what the scheduler did with it."""
    from vllm.sampling_params import SamplingParams
    from vllm.v1.outputs import ModelRunnerOutput
    from vllm.v1.request import Request

    scheduler, waiting = scheduler_of(case, model), list(enumerate(case["requests"]))
    began = time.process_time()
    made: dict[str, Any] = {}
    first, done, computed, now = {}, {}, [], 0
    while waiting or scheduler.has_unfinished_requests():
        if not scheduler.has_unfinished_requests():
            now = max(now, waiting[0][1][0])
        while waiting and waiting[0][1][0] <= now:
            i, (arrival, prompt, output, *told) = waiting.pop(0)
            ruled = "rule" in case
            extra = dict(zip(PREDICTED, told, strict=True)) if ruled else None
            made[str(i)] = Request(
                request_id=str(i),
                prompt_token_ids=[3] * prompt,
                sampling_params=SamplingParams(
                    max_tokens=output, ignore_eos=True, extra_args=extra
                ),
                pooling_params=None,
                arrival_time=float(arrival if ruled else i),
                priority=0 if ruled else told[0],
            )
            scheduler.add_request(made[str(i)])
        plan = scheduler.schedule()
        names = list(plan.num_scheduled_tokens)
        computed.append(plan.total_num_scheduled_tokens)
        whole = [made[x].num_computed_tokens >= made[x].num_tokens for x in names]
        scheduler.update_from_output(
            plan,
            ModelRunnerOutput(
                req_ids=names,
                req_id_to_index={x: place for place, x in enumerate(names)},
                sampled_token_ids=[[5] if is_whole else [] for is_whole in whole],
                logprobs=None,
                prompt_logprobs_dict={},
                pooler_output=[],
            ),
        )
        now += 1
        for x in names:
            if made[x].num_output_tokens:
                first.setdefault(x, now)
            if made[x].is_finished():
                done[x] = now
    seconds.append(time.process_time() - began)
    order = [str(i) for i in range(len(case["requests"]))]
    return case | {
        "first": [first[x] for x in order],
        "done": [done[x] for x in order],
        "preempted": [made[x].num_preemptions for x in order],
        "computed": computed,
    }


def model_in(folder: str) -> Any:
    """The model, from a file that this writes into a folder."""
    from vllm.config import ModelConfig

    Path(folder, "config.json").write_text(json.dumps(MODEL))
    return ModelConfig(
        model=folder, skip_tokenizer_init=True, dtype="float32", max_model_len=LONGEST
    )


def main(path: Path, count: int, seed: int, ruled: bool) -> None:
    """Writes the streams."""
    with tempfile.TemporaryDirectory() as folder:
        model = model_in(folder)
        rng = random.Random(seed)
        cases = [
            ruled_stream(rng, RULES[k % len(RULES)], 10) if ruled else stream(rng)
            for k in range(count)
        ]
        lines = [json.dumps(recorded(case, model)) for case in cases]
    with gzip.GzipFile(path, "wb", mtime=0) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("path", type=Path, help="file to write")
    parser.add_argument("--count", type=int, default=48, help="streams")
    parser.add_argument("--seed", type=int, default=33, help="of the streams")
    parser.add_argument("--policies", action="store_true", help="of jaxsched, inside vLLM")
    given = parser.parse_args()
    main(given.path, given.count, given.seed, given.policies)
