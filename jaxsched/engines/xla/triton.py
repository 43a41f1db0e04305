"""How Pallas compiles a kernel for a GPU: through Triton. All that depends on it is here.

Pallas is to drop Triton for Mosaic GPU, which does not take the kernel as it is
(docs/performance.md); another way would be exchanged here.
"""

from __future__ import annotations

from jax.experimental.pallas import triton

WARP_SLOTS = 512
"""Slots that a warp of 32 threads takes, the most that fit in its registers for A_min; with one
warp a lane no reduction needs a barrier."""


def compiler_params(slots: int) -> triton.CompilerParams:
    """What the compiler is told of a kernel with so many slots a lane."""
    return triton.CompilerParams(num_warps=max(1, slots // WARP_SLOTS), num_stages=1)
