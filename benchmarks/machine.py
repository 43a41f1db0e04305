"""Where and with what the figures were measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path

import jax

from jaxsched.machine.cores import cores

PACKAGES = ("jaxsched", "jax", "jaxlib", "numba", "llvmlite", "numpy")


def processor() -> str:
    """Model of the CPU, without names of hosts."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def describe() -> dict[str, str]:
    """What belongs above every table."""
    versions = [f"{name} {_version(name)}" for name in PACKAGES]
    devices = {device.device_kind for device in jax.local_devices()}
    facts = {
        "machine": f"{processor()}, {cores()} cores, {_memory()}",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": ", ".join(versions),
        "devices": f"{jax.local_device_count()} × {', '.join(sorted(devices))}",
    }
    if hasattr(os, "getloadavg"):
        facts["load before"] = f"{os.getloadavg()[0]:.2f} (1 minute average)"
    return facts


def slug() -> str:
    """The machine in a file name."""
    name = re.sub(r"[^a-z0-9]+", "-", processor().lower()).strip("-")
    if jax.default_backend() != "cpu":
        name = re.sub(r"[^a-z0-9]+", "-", jax.devices()[0].device_kind.lower()).strip("-")
    return f"{name}-{cores()}-cores"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed as a package"


def _memory() -> str:
    if not hasattr(os, "sysconf"):
        return "memory unknown"
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
