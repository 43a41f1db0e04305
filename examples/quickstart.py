"""Compares policies on random backlogs: mean latency, over hindsight and over a proved bound.

python examples/quickstart.py
"""

import jax
import numpy as np

import jaxsched as js


def main() -> None:
    """64 backlogs of 500 requests, told only a class of 100 tokens for each output length."""
    instances = js.workloads.make(
        jax.random.key(0),
        n=500,
        lanes=64,
        memory=16_492,
        lengths=js.workloads.embedded.lmsys().truncated(max_output=1000),
        intervals=js.workloads.intervals.classes(width=100, count=10),
    )
    bound = js.mean_busy_time_bound(instances.prompt, instances.output, instances.memory) / 500
    hindsight = js.simulate(instances, js.h_sf()).mean_latency
    policies = (js.h_sf(), js.a_max(), js.a_min(), js.a_min(refine="every_round"), js.fcfs())
    print(f"{'policy':20} {'rounds':>7} {'/ h_sf':>7} {'/ bound':>8} {'evictions':>10}")
    for policy in policies:
        result = js.simulate(instances, policy)
        latency = result.mean_latency
        print(
            f"{policy.name:20} {np.mean(latency):7.1f} {np.mean(latency / hindsight):7.2f}"
            f" {np.mean(latency / bound):8.2f} {np.mean(result.evictions):10.1f}"
        )


if __name__ == "__main__":
    main()
