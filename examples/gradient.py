"""Follows a gradient through the relaxation, and lets the exact simulator judge the way.

python examples/gradient.py
"""

import jax
import jax.numpy as jnp
import numpy as np

import jaxsched as js

STEPS, RATE, TEMPERATURE = 4, 0.1, 1.0


def main() -> None:
    """Sign descent on the numbers of the A_min family, from A_min itself."""
    instances = js.workloads.make(
        jax.random.key(0),
        n=60,
        lanes=4,
        memory=1_000,
        lengths=js.workloads.embedded.lmsys().truncated(max_output=500, max_total=1000),
        intervals=js.workloads.intervals.classes(width=100, count=5),
    )

    @jax.jit
    @jax.grad
    def gradient(rule: js.FamilyParams, timeline: js.relaxation.Timeline) -> jax.Array:
        soft = js.relaxation.soft_simulate(instances, rule, TEMPERATURE, timeline)
        return jnp.mean(jnp.log(soft.mean_latency))

    rule = js.FamilyParams()
    for step in range(STEPS + 1):
        result = js.simulate(instances, js.a_min_family(rule))
        print(f"step {step}: {np.mean(result.mean_latency):6.1f} rounds, exactly")
        slope = gradient(rule, js.relaxation.event_timeline(result, steps=64))
        rule = jax.tree.map(lambda value, by: value - RATE * jnp.sign(by), rule, slope)


if __name__ == "__main__":
    main()
