"""Speed of every policy beside that of another checkout, in one run.

    python -m benchmarks.against ../other [--policies a_max,fcfs] [--n 2000] [--lanes 64]

Two processes, one in each checkout with this Python, simulate the same instances in turn on the
engine that `simulate` takes, ShareGPT lengths and M = 16,492; latencies and evictions must agree.
Printed are medians in milliseconds of processor time and their ratio; above 1 this checkout is
faster. Policies that the other checkout does not know, such as one's own, have this one's `a_max`
beside them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

PREDICTIONS = ("relative", "one")
REPEATS = 8

WORKER = """
import json, sys, time
import jax, numpy as np
import jaxsched as js
n, lanes = map(int, sys.argv[1:])
source = {"relative": js.workloads.intervals.relative(0.5),
          "one": js.workloads.intervals.one_for_all(1, 1000)}
def draw(intervals):
    made = js.workloads.make(
        jax.random.key(0), n=n, lanes=lanes, memory=16_492, intervals=intervals,
        lengths=js.workloads.embedded.sharegpt().truncated(max_total=16_492))
    made = jax.tree.map(np.asarray, made)
    return made.replace(point=(made.lower + made.upper) // 2)
instances = {name: draw(intervals) for name, intervals in source.items()}
for line in sys.stdin:
    text, name = line.split()
    begun = time.perf_counter()
    try:
        policy = js.policy(text)
    except (OSError, ValueError) as error:
        print(json.dumps(str(error)), flush=True)
        continue
    result = js.simulate(instances[name], policy)
    first = time.perf_counter() - begun
    begun = time.process_time()
    result = js.simulate(instances[name], policy)
    spent = time.process_time() - begun
    answer = [spent, int(np.sum(result.total_latency)), int(np.sum(result.evictions)), first]
    print(json.dumps(answer), flush=True)
"""


class Worker:
    """A process in a checkout."""

    def __init__(self, checkout: Path, n: int, lanes: int) -> None:
        command = [sys.executable, "-c", WORKER, str(n), str(lanes)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, cwd=checkout, stdin=pipe, stdout=pipe, text=True, bufsize=1
        )

    def __call__(self, policy: str, prediction: str) -> list[float] | str:
        """Seconds, total latency, evictions, seconds to the first result; or why it is unknown."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(policy, prediction, file=self._process.stdin, flush=True)
        answer: list[float] | str = json.loads(self._process.stdout.readline())
        return answer


def main(argv: list[str] | None = None) -> None:
    """Prints the table."""
    from jaxsched.policies import SHIPPED

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help="folder of the other commit")
    slow = ("sorted_f", "gsa_spec")  # on the JAX engine in older commits
    known = ",".join(name for name in SHIPPED if not name.startswith(slow) and name != "a_min")
    parser.add_argument("--policies", default=known + ",tuned:sharegpt_relative")
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--lanes", type=int, default=64)
    args = parser.parse_args(argv)
    here, there = (Worker(p, args.n, args.lanes) for p in (Path.cwd(), args.checkout))
    for policy in args.policies.split(","):
        for prediction in PREDICTIONS:
            print(_row(here, there, policy, prediction), flush=True)


def _row(here: Worker, there: Worker, policy: str, prediction: str) -> str:
    mine, others = here(policy, prediction), there(policy, prediction)
    if isinstance(mine, str):
        raise SystemExit(mine)
    known = not isinstance(others, str)
    assert not known or mine[1:3] == others[1:3], f"{policy}: {mine} here, {others} there"
    other = (there, policy) if known else (here, "a_max")
    pairs = [(here(policy, prediction), other[0](other[1], prediction)) for _ in range(REPEATS)]
    ours, theirs = (
        statistics.median(1e3 * found[0] for found in part) for part in zip(*pairs, strict=True)
    )
    beside = "there" if known else "a_max"
    return (
        f"{policy:28} {prediction:9} {ours:8.1f} ms here {theirs:8.1f} ms {beside}"
        f"  {theirs / ours:5.2f}  first result {mine[3]:.2f} s"
    )


if __name__ == "__main__":
    main()
