"""Replays a trace with NVIDIA DynoSim and says how long that took; needs only `ai-dynamo-runtime`.

    python benchmarks/peer_dynosim.py TRACE.jsonl BLOCKS BLOCK_SIZE REPEATS [SETTINGS]

Run by `python -m benchmarks --peer-python PYTHON`, on one core, with a Python that can import it:

    python -m venv peer && peer/bin/pip install ai-dynamo-runtime

The trace has Mooncake's fields: timestamp in ms, input_length, output_length, hash_ids. The engine
is the mocker's vLLM scheduler (first come first served, evicting the latest), without prefix
caching, as the simulator it is compared with has none, and without a cap on running requests.
SETTINGS, as JSON, replace these;
then what became of every request is said too.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import sys
import time
from typing import Any


def main(
    trace: str, blocks: int, block_size: int, repeats: int, settings: dict[str, Any]
) -> dict[str, object]:
    """Replays the trace several times on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from dynamo._core import run_mocker_trace_replay

    engine = {
        "num_gpu_blocks": blocks,
        "block_size": block_size,
        "max_num_seqs": blocks,
        "enable_prefix_caching": False,
    } | settings
    replay = functools.partial(
        run_mocker_trace_replay,
        [trace],
        extra_engine_args={"engine": engine},
        trace_block_size=block_size,
    )
    seconds, own = [], []
    for _ in range(repeats):
        begun = time.perf_counter()
        result = replay()
        seconds.append(time.perf_counter() - begun)
        own.append(result.summary["wall_time_ms"] / 1e3)
    found = _requests(replay(capture_per_request=True)) if settings else {}
    return found | {
        "version": importlib.metadata.version("ai-dynamo-runtime"),
        "seconds": sorted(seconds)[repeats // 2],
        "own_seconds": sorted(own)[repeats // 2],
        "completed": result.summary["completed_requests"],
        "output_tokens": result.summary["total_output_tokens"],
        "prefill_tokens": result.summary["committed_prefill_tokens"],
    }


def _requests(result: Any) -> dict[str, Any]:
    """Prompt, output, ms of the last token of every request, in no order; all preemptions."""
    keys = ("input_length", "output_length", "last_token_ms")
    rows = [[row[key] for key in keys] for row in result.per_request]
    return {
        "done": rows,
        "preemptions": sum(row["readmission_count"] for row in result.per_request),
    }


if __name__ == "__main__":
    try:
        numbers = [int(text) for text in sys.argv[2:5]]
        print(json.dumps(main(sys.argv[1], *numbers, json.loads("".join(sys.argv[5:]) or "{}"))))
    except ImportError as error:
        sys.exit(f"DynoSim is not there: {error} (pip install ai-dynamo-runtime)")
