"""What needs numba, which is not everywhere and slow to import."""

import functools
import importlib


@functools.cache
def can_import(module: str) -> bool:
    """Whether the module can be imported, and with it all that it needs."""
    try:
        importlib.import_module(module)
    except Exception:  # a numba that does not fit the numpy at hand raises what it likes
        return False
    return True
