"""Compiles a simulation for an H100 or a TPU v5e where there is none; prints JSON. Runs nothing.

python -m benchmarks.compile_for {gpu,tpu} POLICY LANES N [WORKER]
"""

from __future__ import annotations

import dataclasses
import glob
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from typing import Any

NEEDS = {
    "gpu": ("jax_cuda12_plugin", "jax-cuda12-plugin and jax-cuda12-pjrt of jax's version, "
            "nvidia-cuda-nvcc-cu12 and nvidia-cuda-runtime-cu12"),
    "tpu": ("libtpu", "the libtpu that `pip show jax` lists for jax[tpu]"),
}  # fmt: skip
"""Kind -> module of its compiler, and the packages to install without their dependencies."""

NAME = "NVIDIA H100 80GB HBM3"

DEVICE = {
    "threads_per_block_limit": 1024, "threads_per_warp": 32, "shared_memory_per_block": 48 * 2**10,
    "shared_memory_per_core": 228 * 2**10, "shared_memory_per_block_optin": 227 * 2**10,
    "threads_per_core_limit": 2048, "core_count": 132, "fpus_per_core": 128,
    "block_dim_limit_x": 2**31 - 1, "block_dim_limit_y": 2**16 - 1, "block_dim_limit_z": 2**16 - 1,
    "registers_per_core_limit": 2**16, "registers_per_block_limit": 2**16,
    "memory_bandwidth": 3_352 * 10**9, "l2_cache_size": 50 * 2**20, "clock_rate_ghz": 1.98,
    "device_memory_size": 80 * 2**30,
}  # fmt: skip
"""What XLA wants to know of an H100."""


def main() -> None:
    """Compiles and prints."""
    kind, policy, lanes, n = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    module, packages = NEEDS[kind]
    if importlib.util.find_spec(module) is None:
        print(json.dumps({"missing": f"not compiled: needs {packages}"}))
        return
    dump = tempfile.mkdtemp()
    os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    if kind == "gpu":
        os.environ["XLA_FLAGS"] = f"--xla_gpu_cuda_data_dir={_cuda()} --xla_dump_to={dump}"
    worker = sys.argv[5] if len(sys.argv) > 5 else "paper"
    print(json.dumps(_compile(kind, policy, lanes, n, dump, worker)))


def _cuda() -> str:
    import nvidia.cuda_nvcc

    return str(next(iter(nvidia.cuda_nvcc.__path__)))


def _compile(
    kind: str, name: str, lanes: int, n: int, dump: str, worker: str = "paper"
) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    import jaxsched as js
    from benchmarks.hlo import fusions, loops, passes
    from jaxsched.engines.xla.plan import make_plan

    policy, rules = js.policy(name), js.workers.worker_named(worker)

    def totals(prompt: jax.Array, output: jax.Array, lower: jax.Array, upper: jax.Array) -> Any:
        instance = js.Instance(
            prompt=prompt, output=output, lower=lower, upper=upper, memory=16_492
        )
        result = js.simulate(instance, policy, worker=rules, engine="jax")
        return result.completion, result.status, result.evictions

    jax.default_backend = lambda: kind  # type: ignore[assignment] - the plan goes by it
    mesh = jax.sharding.Mesh(np.array(_topology(kind).devices[:1]), ("device",))
    there = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    shape = jax.ShapeDtypeStruct((lanes, n), jnp.int32, sharding=there)
    platform = "cuda" if kind == "gpu" else kind
    with on_device(kind):
        compiled = jax.jit(totals).trace(*(shape,) * 4).lower(lowering_platforms=(platform,))
        compiled = compiled.compile()
    text, memory = compiled.as_text(), compiled.memory_analysis()
    levels = len(make_plan(n, lanes, False, backend=kind).slots)
    return {
        "loops": [[body.kernels, body.copies, condition.kernels]
                  for body, condition in loops(text)],
        "fusions": dataclasses.asdict(fusions(text)) if kind == "tpu" else {},
        "passes": passes(text, lanes * n, levels) if kind == "tpu" else [],
        "kernels": _kernels(dump, re.findall(r"steps_\d+", text)),
        "gigabytes": (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 1e9,
    }  # fmt: skip


def _topology(kind: str) -> Any:
    from jax.experimental import topologies

    if kind == "tpu":
        return topologies.get_topology_desc("v5e:2x2", "tpu")
    about = " ".join(f"{key}: {value}" for key, value in DEVICE.items())
    config = (
        f"gpu_device_info {{ {about} cuda_compute_capability {{ major: 9 }} }} "
        f'platform_name: "CUDA" dnn_version_info {{ major: 9 }} '
        f'runtime_version {{ major: 12 minor: 9 }} device_description_str: "{NAME}"'
    )
    return topologies.get_topology_desc("h100", "cuda", target_config=config, topology="1x1x1")


def on_device(kind: str) -> Any:
    """Newer versions of jax ask which GPU a kernel is for while they lower it."""
    import contextlib

    import jax

    try:
        from jax._src.mesh import AbstractDevice

        device = AbstractDevice(device_kind=NAME, num_cores=DEVICE["core_count"], platform="gpu")
        mesh = jax.sharding.AbstractMesh(
            (1,), ("device",), axis_types=(jax.sharding.AxisType.Auto,), abstract_device=device
        )
    except (ImportError, TypeError):
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh) if kind == "gpu" else contextlib.nullcontext()


def _kernels(dump: str, names: list[str]) -> list[dict[str, Any]]:
    """What ptxas makes of each kernel of ours."""
    from benchmarks.ptx import entry, steps_loop

    found = {}
    for path in sorted(glob.glob(f"{dump}/*.ptx")):
        with open(path) as file:
            text = file.read()
        if not any(f".entry {name}(" in text for name in names):
            continue
        command = [f"{_cuda()}/bin/ptxas", "-v", "-arch=sm_90a", path, "-o", os.devnull]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        for name in {name for name in names if f".entry {name}(" in text}:
            about = re.search(
                rf"properties for {name}\n.*?(\d+) bytes spill stores.*?Used (\d+) regi", said, re.S
            )
            if about is None:
                raise ValueError(f"ptxas says nothing of {name}")
            body = entry(text, name)
            threads = re.search(r"\.reqntid (\d+)", text[text.index(f".entry {name}(") :])
            found[name] = {
                "slots": int(name.split("_")[1]),
                "warps": int(threads[1]) // 32 if threads else 1,
                "registers": int(about[2]),
                "spills": int(about[1]),
                **steps_loop(body),
            }
    return sorted(found.values(), key=lambda row: row["slots"])


if __name__ == "__main__":
    main()
