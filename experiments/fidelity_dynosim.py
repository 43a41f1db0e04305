"""Replays requests with NVIDIA DynoSim's vLLM scheduler; needs only `ai-dynamo-runtime`.

    python experiments/fidelity_dynosim.py < PROBLEM.json > ANSWER.json

Run by `python -m experiments.fidelity`. The problem has `requests`, a list of [arrival in ms,
prompt, output] with different arrivals from 0 on, `blocks`, `block_size`, and `round_ms`, what an
iteration takes in which a request decodes; prompts take no time. Without prefix cache, chunked
prefill, or a cap on running requests. The answer has the times and readmissions of the requests.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import tempfile
from pathlib import Path
from typing import Any


def main(problem: dict[str, Any]) -> dict[str, Any]:
    """Replays the requests and tabulates what each saw."""
    from dynamo._core import run_mocker_trace_replay

    size = problem["block_size"]
    engine = {
        "num_gpu_blocks": problem["blocks"],
        "block_size": size,
        "max_num_seqs": len(problem["requests"]),
        "max_num_batched_tokens": sum(prompt + output for _, prompt, output in problem["requests"]),
        "enable_prefix_caching": False,
        "timing_model": {"type": "fixed", "prefill_ms": 0.0, "decode_ms": problem["round_ms"]},
    }
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.jsonl")
        trace.write_text("".join(_lines(problem["requests"], size)))
        result = run_mocker_trace_replay(
            [str(trace)],
            extra_engine_args={"engine": engine},
            trace_block_size=size,
            capture_per_request=True,
        )
    found = sorted(result.per_request, key=lambda request: request["arrival_time_ms"])
    names = ("first_admit_ms", "first_token_ms", "last_token_ms", "readmission_count")
    return {
        "version": importlib.metadata.version("ai-dynamo-runtime"),
        **{name: [request[name] for request in found] for name in names},
    }


def _lines(requests: list[list[float]], size: int) -> list[str]:
    """The requests in Mooncake's format; no two share a block of their prompts."""
    lines, block = [], 0
    for arrival, prompt, output in requests:
        count = -(-int(prompt) // size)
        row = {"timestamp": arrival, "input_length": int(prompt), "output_length": int(output)}
        lines.append(json.dumps({**row, "hash_ids": list(range(block, block + count))}) + "\n")
        block += count
    return lines


if __name__ == "__main__":
    try:
        json.dump(main(json.load(sys.stdin)), sys.stdout)
    except ImportError as error:
        sys.exit(f"DynoSim is not there: {error} (pip install ai-dynamo-runtime)")
