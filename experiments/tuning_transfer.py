"""The shipped rules away from home: other numbers of requests, other memory, other traces.

Usage:

    python -m experiments.tuning_transfer
    python -m experiments.tuning_transfer --trace NAME=FILE --trace …

Every cell is a mean ratio of mean latencies on the same random instances, backlogs, with half a
95 % confidence interval. The formats of traces are recognized; requests that can never fit are
left out, and said so.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import jax
import numpy as np
import pandas as pd

import jaxsched as js
from jaxsched import specs, workloads
from jaxsched.frames import half_width
from jaxsched.workloads import Lengths

HOME = {
    "sharegpt_one": ("sharegpt", None, "one:1:1500"),
    "sharegpt_classes": ("sharegpt", None, "classes:100:18"),
    "sharegpt_relative": ("sharegpt", None, "relative:0.5"),
    "lmsys_one": ("lmsys", 1000, "one:1:1000"),
    "lmsys_classes": ("lmsys", 1000, "classes:100:10"),
    "lmsys_relative": ("lmsys", 1000, "relative:0.5"),
    "lmsys_real": ("lmsys_tokens", None, "real"),
}
"""Rule -> lengths, longest output, prediction that it was tuned on (n = 1,000, M = 16,492)."""

SETTINGS = ((1000, 16_492), (250, 16_492), (2000, 16_492), (1000, 8_192), (1000, 32_768))
"""(n, M); the first is home. Those with a smaller memory leave out what can never fit."""

PREDICTED = {"one": "one:1:1000", "relative": "relative:0.5"}
"""Predictions that make sense for any trace, by the end of a rule's name."""

READINGS = ("a_min:on_eviction", "a_min:every_round")


def main(argv: list[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trace", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--lanes", type=int, default=64, metavar="N")
    args = parser.parse_args(argv)
    show("other sizes and memories", pd.DataFrame(sizes(args.lanes)))
    for text in args.trace:
        name, _, path = text.partition("=")
        trace = workloads.read_trace(path, zero_output="skip")
        show(name, pd.DataFrame(on_trace(trace, args.lanes)))


def sizes(lanes: int) -> Iterator[dict[str, object]]:
    """Each rule on its own lengths and prediction, at every setting."""
    for rule, (source, longest, prediction) in HOME.items():
        for n, memory in SETTINGS:
            lengths = specs.LENGTHS[source]().truncated(max_output=longest, max_total=memory)
            yield {"rule": rule, "n": n, "M": memory} | ratios(
                lengths, prediction, rule, n, memory, lanes
            )


def on_trace(trace: workloads.Trace, lanes: int) -> Iterator[dict[str, object]]:
    """The rules for predictions that any trace can have, on a trace at two memories."""
    for memory in (16_492, 65_536):
        fits = trace.prompt + trace.output.astype(np.int64) <= memory
        lengths = trace.select(fits).lengths()
        for rule in (name for name in HOME if name.partition("_")[2] in PREDICTED):
            prediction = PREDICTED[rule.partition("_")[2]]
            yield {"rule": rule, "n": 1000, "M": memory, "fit": f"{fits.mean():.0%}"} | ratios(
                lengths, prediction, rule, 1000, memory, lanes
            )


def ratios(
    lengths: Lengths, prediction: str, rule: str, n: int, memory: int, lanes: int
) -> dict[str, str]:
    """The rule against h_sf and the better reading of A_min, on fresh instances."""
    source, key = specs.interval(prediction).source(memory), jax.random.key(20_000)
    instance = workloads.make(
        key, lengths=lengths, intervals=source, n=n, memory=memory, lanes=lanes
    )

    def latency(policy: js.Policy) -> np.ndarray:
        result = js.simulate(instance, policy, max_rounds=2**22)
        if np.any(np.asarray(result.status) != js.Status.FINISHED):
            raise ValueError(f"{policy.name}: a lane did not finish; expected all to")
        return np.asarray(result.total_latency, float)

    total = latency(js.load_policy(rule))
    better = min((latency(js.policy(name)) for name in READINGS), key=np.sum)
    compared = {"/ h_sf": latency(js.h_sf()), "/ a_min": better}
    values = {name: pd.Series(total / other) for name, other in compared.items()}
    return {name: f"{ratio.mean():.3f} ±{half_width(ratio):.3f}" for name, ratio in values.items()}


def show(title: str, table: pd.DataFrame) -> None:
    """Prints a table as Markdown."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    print(f"\n{title}\n")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")


if __name__ == "__main__":
    main()
