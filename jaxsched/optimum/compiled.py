"""How the functions of this room are compiled: once per machine, and free of Python's lock."""

from __future__ import annotations

import functools

try:
    from numba import njit
except ImportError as error:
    raise ImportError(
        f"bounds by prices and searches need numba, which cannot be imported ({error}); "
        "pip install numba"
    ) from error

compiled = functools.partial(njit, cache=True, nogil=True, error_model="numpy")

borrowing = functools.partial(compiled, _nrt=False)
"""The same for a function that makes no arrays (numba raises where one does) and calls only such.
Of numpy it calls types of numbers alone: whether a function of numpy's compiles so depends on what
was compiled before. References to arrays are not counted then, which took more than half of the
time of a search, at every call of a small function."""
