"""Speed of every policy beside that of another checkout, in one run.

    python -m benchmarks.against ../other [--policies a_max,fcfs] [--n 2000] [--lanes 64]
        [--engine jax] [--lengths lmsys] [--plan scan=128,pool=32]

Two processes, one in each checkout with this Python, simulate the same instances in turn, M =
16,492; latencies and evictions must agree. Printed are medians in milliseconds of processor time
and of time that passed, and the ratio of both; above 1 this checkout is faster. Policies that the
other checkout does not know, such as one's own, have this one's `a_max` beside them.

`--plan` gives the JAX engine of this checkout other sizes (`plan` of `jaxsched.simulate`);
the other checkout may be this one, `.`.
"""

from __future__ import annotations

import argparse
import json
import re
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
n, lanes = map(int, sys.argv[1:3])
engine, lengths, sizes = *sys.argv[3:5], json.loads(sys.argv[5])
options = {"engine": engine} | ({"plan": sizes} if sizes else {})
source = {"relative": js.workloads.intervals.relative(0.5),
          "one": js.workloads.intervals.one_for_all(1, 1000)}
def draw(intervals):
    made = js.workloads.make(
        jax.random.key(0), n=n, lanes=lanes, memory=16_492, intervals=intervals,
        lengths=getattr(js.workloads.embedded, lengths)().truncated(max_total=16_492))
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
    run = lambda: jax.block_until_ready(js.simulate(instances[name], policy, **options))
    result = run()
    first = time.perf_counter() - begun
    begun = time.perf_counter(), time.process_time()
    result = run()
    passed, spent = time.perf_counter() - begun[0], time.process_time() - begun[1]
    outcome = [int(np.sum(result.total_latency)), int(np.sum(result.evictions))]
    print(json.dumps([*outcome, spent, passed, first]), flush=True)
"""


class Worker:
    """A process in a checkout."""

    def __init__(self, checkout: Path, args: argparse.Namespace, sizes: dict[str, int]) -> None:
        words = str(args.n), str(args.lanes), args.engine, args.lengths, json.dumps(sizes)
        command = [sys.executable, "-c", WORKER, *words]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, cwd=checkout, stdin=pipe, stdout=pipe, text=True, bufsize=1
        )

    def __call__(self, policy: str, prediction: str) -> list[float] | str:
        """Total latency, evictions, seconds of processor time, that passed, to the first result.

        Or why the policy is unknown.
        """
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
    parser.add_argument("--engine", default="auto", help="that of both")
    parser.add_argument("--lengths", default="sharegpt", help="sharegpt or lmsys")
    parser.add_argument("--plan", default="", help="sizes of this checkout's plan, name=number,...")
    args = parser.parse_args(argv)
    sizes = {name: int(size) for name, size in re.findall(r"(\w+)=(\d+)", args.plan)}
    here, there = Worker(Path.cwd(), args, sizes), Worker(args.checkout, args, {})
    for policy in args.policies.split(","):
        for prediction in PREDICTIONS:
            print(_row(here, there, policy, prediction), flush=True)


def _row(here: Worker, there: Worker, policy: str, prediction: str) -> str:
    mine, others = here(policy, prediction), there(policy, prediction)
    if isinstance(mine, str):
        raise SystemExit(mine)
    known = not isinstance(others, str)
    assert not known or mine[:2] == others[:2], f"{policy}: {mine} here, {others} there"
    other = (there, policy) if known else (here, "a_max")
    pairs = [(here(policy, prediction), other[0](other[1], prediction)) for _ in range(REPEATS)]
    beside = "there" if known else "a_max"
    times = []
    for place, name in ((2, "ms"), (3, "passed")):
        ours, theirs = (
            statistics.median(1e3 * found[place] for found in part)
            for part in zip(*pairs, strict=True)
        )
        times.append(f"{ours:8.1f} {name} here {theirs:8.1f} {beside}  {theirs / ours:5.2f}")
    return f"{policy:28} {prediction:9} {'  '.join(times)}  first result {mine[4]:.2f} s"


if __name__ == "__main__":
    main()
