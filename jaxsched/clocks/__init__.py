"""How long a round lasts, and what energy it takes: coefficients, and presets named by hardware.

In a round let P be the prompt tokens admitted in it, D the active requests, and K the tokens of KV
cache in use. It lasts, in seconds,

    fixed + per_prompt_token·P + per_request·D + per_cache_token·K
          + per_token_beyond·max(0, P + D - free_tokens),

an iteration of a serving engine that batches whole prompts with decodes. The hinge is the knee
between a memory-bound and a compute-bound iteration: so many tokens ride along with the weights.

Every entry of `PRESETS` is a function here: `jaxsched.clocks.llama2_70b_2xa100()`.

>>> decode = clock("llama2_70b_2xa100").seconds(prompt_tokens=0, requests=1, cache_tokens=1)
>>> print(f"{decode:.5f} s")
0.05979 s
"""

from jaxsched.clocks.formula import (
    LONGEST_ROUND,
    TICKS_PER_SECOND,
    Clock,
    Energy,
    Ticks,
    check_clock,
    is_traced,
    round_ticks,
    ticks,
    to_ticks,
    valid_clock,
)
from jaxsched.clocks.presets import PRESETS, Preset
from jaxsched.clocks.texts import clock, clock_file, energy, read_clock

__all__ = [
    "LONGEST_ROUND", "PRESETS", "TICKS_PER_SECOND", "Clock", "Energy", "Preset", "Ticks",
    "check_clock", "clock", "clock_file", "energy", "is_traced", "read_clock", "round_ticks",
    "ticks", "to_ticks", "valid_clock",
]  # fmt: skip


def __getattr__(name: str) -> Preset:
    if name in PRESETS:
        return PRESETS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *PRESETS]
