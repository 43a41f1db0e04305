"""Searches a rule among thousands at once: `jax.vmap` over numbers of the A_min family.

python examples/tune_by_vmap.py
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jaxsched as js

CANDIDATES = 1_000


def main() -> None:
    """Random rules on 4 backlogs; the best is judged on 64 others, beside A_min."""
    lengths = js.workloads.embedded.sharegpt().truncated(max_output=1000, max_total=2000)
    blind = js.workloads.intervals.one_for_all(1, 1000)
    make = partial(js.workloads.make, n=100, memory=4_000, lengths=lengths, intervals=blind)
    few, many = make(jax.random.key(0), lanes=4), make(jax.random.key(1), lanes=64)

    @jax.vmap
    def score(numbers: jax.Array) -> jax.Array:
        names = ("admit_prompt", "evict_prompt", "evict_progress")
        rule = js.a_min_family(js.FamilyParams(**dict(zip(names, numbers, strict=True))))
        return jnp.mean(js.simulate(few, rule).mean_latency)

    rules = jax.random.uniform(jax.random.key(2), (CANDIDATES, 3), minval=0, maxval=4)
    admit, evict, progress = (float(number) for number in rules[jnp.argmin(score(rules))])
    found = js.FamilyParams(admit_prompt=admit, evict_prompt=evict, evict_progress=progress)
    for name, params in (("A_min", js.FamilyParams()), (f"best of {CANDIDATES:,}", found)):
        latency = js.simulate(many, js.a_min_family(params)).mean_latency
        print(f"{name:14} {np.mean(latency):7.1f} rounds")
    print(f"which is {found}")


if __name__ == "__main__":
    main()
