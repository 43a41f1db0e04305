"""Compiles a relaxed gradient for an H100 where there is none; prints JSON. Runs nothing.

python -m benchmarks.compile_relaxed LANES N STEPS
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from typing import Any

from benchmarks.compile_for import NEEDS, _cuda, _topology, on_device


def main() -> None:
    """Compiles and prints."""
    module, packages = NEEDS["gpu"]
    if importlib.util.find_spec(module) is None:
        print(json.dumps({"missing": f"not compiled: needs {packages}"}))
        return
    os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_gpu_cuda_data_dir={_cuda()}"}
    print(json.dumps(_compile(*map(int, sys.argv[1:4]))))


def _compile(lanes: int, n: int, steps: int) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    import jaxsched as js
    from benchmarks.hlo import loops
    from benchmarks.relaxation import MEMORY, relaxed_gradient

    jax.default_backend = lambda: "gpu"  # type: ignore[assignment] - all lanes side by side
    mesh = jax.sharding.Mesh(np.array(_topology("gpu").devices[:1]), ("device",))
    there = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=there)

    lengths = (array(jnp.int32, lanes, n),) * 4
    instance = js.Instance(*lengths, memory=np.full(lanes, MEMORY, np.int32))
    timeline = js.relaxation.Timeline(*(array(jnp.float32, lanes, steps),) * 2)
    number = array(jnp.float32)
    rule = jax.tree.map(lambda _: number, js.FamilyParams())
    with on_device("gpu"):
        traced = relaxed_gradient.trace(rule, number, instance, timeline)
        compiled = traced.lower(lowering_platforms=("cuda",)).compile()
    memory = compiled.memory_analysis()
    found = sorted(
        (body.kernels + condition.kernels for body, condition in loops(compiled.as_text())),
        reverse=True,
    )
    return {
        # Back and forth through the steps; then the loops of searches, a pass of them.
        "kernels": sum(found[:2]),
        "searches": found[2:],
        "gigabytes": (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 1e9,
    }


if __name__ == "__main__":
    main()
