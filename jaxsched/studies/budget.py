"""How many simulations run at a time: as many as fit into memory, fewer once they did not."""

from __future__ import annotations

import os
import re
from pathlib import Path

import jax

AVAILABLE = re.compile(r"MemAvailable:\s+(\d+)")

HOST_BYTES, DEVICE_BYTES = 120, 220
"""Memory per request of a batch, at most: on the host, and for the JAX engine on its device."""

MOST_BYTES = 2**29
"""Memory of a batch, at most; larger batches are not faster on any CPU."""

MOST_ROWS = {"cpu": 2**9}
"""Simulations in a batch of the JAX engine for each local device, at most."""

PLENTY = 2**16
"""The same for devices that want many, such as a GPU."""

MOST_CHUNK = 2**18
"""Rows in a chunk, at most."""


class Budget:
    """Sizes of batches.

    Args:
      pads: Whether batches are padded to a few shapes, as the JAX engine needs.
      largest: Simulations that there will ever be for one batch.
      width: Requests that all batches are padded to; 0 for the next power of two.
    """

    def __init__(self, pads: bool, largest: int, width: int = 0) -> None:
        self.pads = pads
        self._largest, self._width = largest, width
        self._host = min(MOST_BYTES, free_memory() // 8)
        devices = len(jax.local_devices())
        self._most = MOST_ROWS.get(jax.default_backend(), PLENTY) * devices
        self._device = device_memory() // 4 * devices if pads else None
        self._parts = 1

    def width(self, n: int) -> int:
        """Requests that a batch of n requests is padded to: with few widths few programs."""
        return (self._width or power_of_two(n)) if self.pads else n

    def rows(self, n: int) -> int:
        """Simulations of n requests that run at a time."""
        width = self.width(n)
        rows = self._host // (HOST_BYTES * width)
        if self._device is not None:
            rows = min(rows, self._most, self._device // (DEVICE_BYTES * width))
        rows = max(1, rows // self._parts)
        return min(1 << (rows.bit_length() - 1), power_of_two(self._largest)) if self.pads else rows

    def shrink(self, n: int) -> bool:
        """Halves what runs at a time, after memory ran out; False if that is one simulation."""
        if self.rows(n) == 1:
            return False
        self._parts *= 2
        return True

    def bytes(self, n: int) -> int:
        """Memory of a batch on the host, at most."""
        return self.rows(n) * self.width(n) * (HOST_BYTES + (DEVICE_BYTES if self.pads else 0))


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that host or device had no memory left."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()
    return isinstance(error, MemoryError)


def power_of_two(number: int) -> int:
    """The smallest power of two that is at least `number`."""
    return 1 << max(0, number - 1).bit_length()


def free_memory() -> int:
    """Bytes that this process may still use, as far as the system says."""
    limits = [1024 * int(kilobytes) for kilobytes in AVAILABLE.findall(_text("/proc/meminfo"))]
    # What the control group of a container or a cluster's job leaves.
    limit, used = (_text(f"/sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    if limit.isdecimal() and used.isdecimal():
        limits.append(max(0, int(limit) - int(used)))
    return min(limits, default=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def device_memory() -> int:
    """Bytes of a local device that programs may use; those of the host for a CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return int(stats.get("bytes_limit", free_memory()))


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
