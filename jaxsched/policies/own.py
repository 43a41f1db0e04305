"""Policies of one's own, from a file of Python: "mine.py:halfway"."""

from __future__ import annotations

import dataclasses
import functools
import sys
from pathlib import Path
from types import ModuleType

from jaxsched.policies.files import digest
from jaxsched.policies.interface import Policy

USAGE = "FILE.py:NAME"


def is_own(text: str) -> bool:
    """Whether a text names something in a file of Python."""
    return own_path(text).suffix == ".py"


def own_path(text: str) -> Path:
    """The file that it names."""
    return Path(text.rpartition(":")[0])


def load_own(text: str) -> Policy:
    """The policy of that name, or one around the function of that name, as its estimate.

    Raises:
      ValueError: If the file has nothing of that name, or no policy or function.
      OSError: If the file cannot be read.
    """
    path, name = own_path(text), text.rpartition(":")[2]
    if not path.exists():
        raise FileNotFoundError(f"policy {text!r}: there is no file {path}")
    found = getattr(_module(path.resolve(), digest(path)), name, None)
    if isinstance(found, Policy):
        return dataclasses.replace(found, name=text)
    if callable(found):
        return Policy(text, estimate=found)
    known = "nothing" if found is None else type(found).__name__
    raise ValueError(
        f"policy {text!r}: {path} has {known} of the name {name!r}; expected a Policy, or a "
        "function that estimates an output"
    )


@functools.cache
def _module(path: Path, contents: str) -> ModuleType:
    """The file as a module, read once for what stands in it, so that its functions stay equal."""
    name = f"jaxsched_own_{path.stem}_{contents[:12]}"
    source = path.read_bytes()
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        # Not by an import: Python's cache of compiled files knows one by its size and second.
        exec(compile(source, path, "exec"), vars(module))
    except Exception as error:
        del sys.modules[name]
        if isinstance(error, OSError):
            raise
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    return module
