"""First come first served here and in NVIDIA DynoSim: where they differ, rule by rule.

Both serve the same requests (ShareGPT lengths, Poisson arrivals) with the same KV cache, an
iteration lasting 60 ms. Between the two stand four rules, which are changed one after another in a
small simulator of its own (`serve`); its first line has to agree with `jaxsched.simulate`, its last
with DynoSim, in every time of every request. docs/serving.md says what comes out.

Usage:

    python -m venv peer && peer/bin/pip install ai-dynamo-runtime
    python -m experiments.fidelity --peer-python peer/bin/python
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from scipy import stats

import jaxsched as js
from jaxsched.report.tables import markdown
from jaxsched.studies.config import LengthsConfig

MEMORY = 16_496
"""Tokens of KV cache: 1,031 blocks of 16."""
ROUND_MS = 60.0
LONGEST = 4030
"""Prompt and output together have at most so many tokens."""


@dataclasses.dataclass(frozen=True)
class Rules:
    """What a serving engine may do differently; the defaults are those of `jaxsched.fcfs`.

    Attributes:
      lag: Tokens of a request that hold no cache yet: 1 if the token of an iteration takes its
        place in the next one.
      keep: A preempted request keeps its tokens, and only computes their cache again.
      free_prompts: An iteration in which nobody decodes takes no time.
      block: Cache is given out in blocks of so many tokens.
    """

    lag: int = 0
    keep: bool = False
    free_prompts: bool = False
    block: int = 1


LADDER = {
    "jaxsched fcfs": Rules(),
    "… a token's cache is needed one iteration later": Rules(lag=1),
    "… a preempted request keeps its tokens": Rules(lag=1, keep=True),
    "… prompts alone take no time": Rules(lag=1, keep=True, free_prompts=True),
    "… cache in blocks of 16": Rules(lag=1, keep=True, free_prompts=True, block=16),
}


@dataclasses.dataclass(frozen=True)
class Served:
    """When each request was first admitted, had its first and last token (in ms); preemptions."""

    admitted: np.ndarray
    first: np.ndarray
    last: np.ndarray
    preemptions: np.ndarray


def draw(n: int, rate: float, seed: int) -> js.Instance:
    """One stream of n requests, the first at 0, arrivals in whole microseconds."""
    stream = js.workloads.make(
        jax.random.key(seed),
        lengths=LengthsConfig("sharegpt", max_total=LONGEST).law,
        intervals=js.workloads.intervals.one_for_all(1, LONGEST),
        arrivals=js.workloads.arrivals.poisson_seconds(rate),
        n=n,
        memory=MEMORY,
    )
    return stream.replace(arrival=np.round(stream.arrival - stream.arrival[0], 6))


class _Engine:
    """A serving engine in plain Python: first come first served, preempting the latest."""

    def __init__(self, stream: js.Instance, rules: Rules) -> None:
        self.arrival = (stream.arrival * 1e3).tolist()
        self.prompt, self.output = stream.prompt.tolist(), stream.output.tolist()
        n, self.rules = len(self.prompt), rules
        self.free, self.now = MEMORY // rules.block, 0.0
        self.coming, self.waiting, self.running = list(range(n)), [], []
        self.tokens, self.held, self.preemptions = [0] * n, [0] * n, [0] * n
        self.times = {name: [-1.0] * n for name in ("admitted", "first", "last")}

    def wants(self, i: int) -> int:
        """Blocks that it lacks for its next token."""
        tokens = self.prompt[i] + self.tokens[i] + 1 - self.rules.lag
        return -(-tokens // self.rules.block) - self.held[i]

    def take(self, i: int) -> bool:
        """Gives it the blocks for its next token, if there are so many."""
        blocks = self.wants(i)
        if blocks > self.free:
            return False
        self.held[i], self.free = self.held[i] + blocks, self.free - blocks
        return True

    def release(self, i: int) -> None:
        self.held[i], self.free = 0, self.free + self.held[i]

    def arrive(self) -> None:
        if not (self.waiting or self.running):
            self.now = max(self.now, self.arrival[self.coming[0]])
        while self.coming and self.arrival[self.coming[0]] <= self.now:
            self.waiting.append(self.coming.pop(0))

    def preempt(self) -> None:
        """Makes room for the running requests, the earliest first."""
        place = 0
        while place < len(self.running):
            if self.take(self.running[place]):
                place += 1
                continue
            victim = self.running.pop()
            self.release(victim)
            self.tokens[victim] *= self.rules.keep
            self.preemptions[victim] += 1
            self.waiting.insert(0, victim)

    def admit(self) -> None:
        while self.waiting and self.take(self.waiting[0]):
            self.running.append(self.waiting.pop(0))
            self.note("admitted", self.running[-1])

    def iterate(self, lasts: float) -> None:
        self.now += lasts
        for i in list(self.running):
            self.tokens[i] += 1
            self.note("first", i)
            if self.tokens[i] == self.output[i]:
                self.note("last", i)
                self.running.remove(i)
                self.release(i)

    def note(self, name: str, i: int) -> None:
        """Writes the time down, if it is the first of its kind."""
        if self.times[name][i] < 0:
            self.times[name][i] = self.now


def serve(stream: js.Instance, rules: Rules) -> Served:
    """First come first served, by these rules."""
    engine = _Engine(stream, rules)
    while engine.coming or engine.waiting or engine.running:
        engine.arrive()
        engine.preempt()
        decodes = bool(engine.running)
        engine.admit()
        engine.iterate(ROUND_MS if decodes or not rules.free_prompts else 0.0)
    times = {name: np.asarray(values) for name, values in engine.times.items()}
    return Served(**times, preemptions=np.asarray(engine.preemptions))


def by_jaxsched(stream: js.Instance) -> Served:
    """The same by `jaxsched.simulate`."""
    found = js.simulate(stream, js.fcfs(), clock=js.Clock(fixed=ROUND_MS / 1e3))
    seconds = (found.admission_seconds, found.first_token_seconds, found.completion_seconds)
    times = [np.asarray(value) * 1e3 for value in seconds]
    return Served(*times, preemptions=np.asarray(found.preemptions))


def by_dynosim(stream: js.Instance, python: str) -> tuple[Served, str]:
    """The same by DynoSim, in blocks of 16, and its version."""
    columns = (stream.arrival * 1e3, stream.prompt, stream.output)
    block = LADDER[list(LADDER)[-1]].block
    problem = {
        "requests": list(zip(*(column.tolist() for column in columns), strict=True)),
        "blocks": MEMORY // block,
        "block_size": block,
        "round_ms": ROUND_MS,
    }
    script = Path(__file__).with_name("fidelity_dynosim.py")
    done = subprocess.run(
        [python, str(script)], input=json.dumps(problem), capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr.strip().splitlines()[-1])
    found = json.loads(done.stdout)
    names = ("first_admit_ms", "first_token_ms", "last_token_ms", "readmission_count")
    return Served(*(np.asarray(found[name]) for name in names)), found["version"]


def figures(stream: js.Instance, served: Served, judge: Served) -> dict[str, float]:
    """What the table has of one line; `judge` is DynoSim."""
    latency = served.last / 1e3 - stream.arrival
    return {
        "preempted": int(served.preemptions.sum()),
        "iterations": round(busy_ms(served) / ROUND_MS),
        "mean TTFT": float(np.mean(served.first / 1e3 - stream.arrival)),
        "mean E2E": float(np.mean(latency)),
        "P99 E2E": float(np.percentile(latency, 99)),
        "order": float(stats.kendalltau(served.last, judge.last)[0]),
        "same": float(np.mean(np.isclose(served.last, judge.last, rtol=0, atol=1e-3))),
    }


def busy_ms(served: Served) -> float:
    """Length of the union of the times in which some request was on the worker, or pushed off."""
    order = np.argsort(served.admitted, kind="stable")
    start, end = served.admitted[order], np.maximum.accumulate(served.last[order])
    return float(end[-1] - start[0] - np.sum(np.maximum(0, start[1:] - end[:-1])))


def lines(stream: js.Instance, judge: Served, version: str) -> dict[str, dict[str, Any]]:
    """The table for one stream: the ladder, then DynoSim."""
    served = {name: serve(stream, rules) for name, rules in LADDER.items()}
    first = served["jaxsched fcfs"]
    for name, values in vars(by_jaxsched(stream)).items():
        if not np.allclose(values, getattr(first, name), rtol=0, atol=1e-3):
            raise AssertionError(f"{name}: jaxsched and the ladder's first line differ")
    named = {**served, f"DynoSim {version}": judge}
    return {name: figures(stream, found, judge) for name, found in named.items()}


def main() -> None:
    """Prints a table in Markdown for each rate of arrivals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", required=True, help="a Python that can import DynoSim")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.5, 1.3, 1.6])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for rate in args.rates:
        stream = draw(args.requests, rate, args.seed)
        table = lines(stream, *by_dynosim(stream, args.peer_python))
        cells = [
            {"": name}
            | {key: f"{x:,}" if isinstance(x, int) else f"{x:.4g}" for key, x in row.items()}
            for name, row in table.items()
        ]
        print(f"\n{args.requests:,} requests, {rate:g} per second\n")
        print(markdown(pd.DataFrame(cells)))


if __name__ == "__main__":
    main()
