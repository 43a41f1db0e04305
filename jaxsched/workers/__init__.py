"""What a worker does with memory, prompts and preempted requests: the papers' and real engines'.

>>> worker = vllm(block=16, max_num_seqs=256, budget=2048)
>>> print(worker)
vllm:block=16,max_num_seqs=256,budget=2048
>>> worker_named("vllm:block=16") == worker
True
"""

from jaxsched.workers.settings import (
    WORKERS,
    Worker,
    paper,
    trtllm,
    vllm,
    worker_named,
)

__all__ = ["WORKERS", "Worker", "paper", "trtllm", "vllm", "worker_named"]
