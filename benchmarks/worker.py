"""A process of its own, for what is fixed or counted per process: devices, caches, peak memory.

    python -m benchmarks.worker '{"engine": "jax", "policy": "h_sf", ...}'

It simulates once, says how long that took, and then once more for every line on its input.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parent.parent


@dataclasses.dataclass(frozen=True)
class Task:
    """What a worker simulates, and with what.

    Attributes:
      engine: "jax" or "native".
      policy: Name of the policy.
      setting: A key of `instances.SETTINGS`.
      lanes: Instances.
      n: Requests in each.
      memory: KV cache in tokens.
      cores: Cores that the process may use; 0 for all.
      devices: CPU devices of JAX.
      cache: Folder for compiled programs; empty for none kept.
    """

    engine: str
    policy: str
    setting: str
    lanes: int
    n: int
    memory: int
    cores: int = 0
    devices: int = 1
    cache: str = ""


class Worker:
    """A running worker; `start` says what its first simulation took, `again` times one more.

    Attributes:
      start: "import", "first": seconds until `jaxsched` was imported and of the first run.
      seconds: From the start of the process to its first result.
    """

    def __init__(self, task: Task) -> None:
        begun = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", json.dumps(dataclasses.asdict(task))],
            cwd=ROOT,
            env=_environment(task),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.start = self._answer()
        self.seconds = time.perf_counter() - begun

    def again(self) -> float:
        """Seconds of one more run."""
        self._ask("run")
        return self._answer()["seconds"]

    def grown(self) -> int:
        """Bytes by which one more run raises the memory of the process above what it had."""
        self._ask("memory")
        return self._answer()["bytes"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _ask(self, what: str) -> None:
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, float]:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with status {self._process.wait()}")
        return json.loads(line)


def _environment(task: Task) -> dict[str, str]:
    own = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(task.devices)}
    if task.cache:
        own |= {
            "JAX_COMPILATION_CACHE_DIR": f"{task.cache}/jax",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
            "NUMBA_CACHE_DIR": f"{task.cache}/numba",
        }
    return os.environ | own


def main(task: Task) -> None:
    """Serves one parent process."""
    if task.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task.cores])
    begun = time.perf_counter()
    import jaxsched  # noqa: F401, PLC0415 - its import is timed

    imported = time.perf_counter() - begun
    from benchmarks.instances import draw  # noqa: PLC0415
    from benchmarks.timing import simulation  # noqa: PLC0415

    instance = draw(task.setting, task.lanes, task.n, task.memory)
    run = simulation(instance, task.policy, task.engine)
    begun = time.perf_counter()
    run()
    _say({"import": imported, "first": time.perf_counter() - begun})
    for line in sys.stdin:
        before, begun = _forget_peak(), time.perf_counter()
        run()
        seconds = time.perf_counter() - begun
        _say({"bytes": _peak() - before} if line.strip() == "memory" else {"seconds": seconds})


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def _forget_peak() -> int:
    """Lets the peak of the memory start again from now (Linux); returns the memory in use."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _peak() -> int:
    return _memory("VmHWM")


def _memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {name}")


if __name__ == "__main__":
    main(Task(**json.loads(sys.argv[1])))
