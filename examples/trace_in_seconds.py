"""Replays a trace on a clock: TTFT, TPOT and end-to-end latency of a machine, in seconds.

python examples/trace_in_seconds.py [TRACE]    (a file that `jaxsched simulate` reads, too)
"""

import sys

import jaxsched as js


def main(path: str) -> None:
    """The requests of the trace at their own times, on Llama2-70B served by two A100."""
    trace = js.workloads.read_trace(path)
    clock = js.clocks.llama2_70b_2xa100()
    half = js.workloads.intervals.relative(0.5)
    stream = trace.instance(memory=5_000, intervals=half, speed=1.0)
    print(f"{len(trace)} requests, seconds   TTFT p50    p99  TPOT p50  E2E p99")
    for policy in (js.fcfs(), js.h_sf(), js.a_max(), js.a_min(), js.svf("lower")):
        result = js.simulate(stream, policy, clock=clock)
        found = js.metrics.serving(stream, result, clock)
        print(
            f"{policy.name:22} {found.ttft.p50:10.2f} {found.ttft.p99:6.2f}"
            f" {found.tpot.p50:9.3f} {found.e2el.p99:8.1f}"
        )


if __name__ == "__main__":
    main(sys.argv[1] if sys.argv[1:] else "sample")
