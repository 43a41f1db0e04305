"""How much a run of the benchmarks measures."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Scale:
    """Sizes of everything that is measured.

    Attributes:
      n: Requests in an instance.
      memory: KV cache in tokens.
      lanes: Batch sizes of the table of engines.
      wide: Batch size for devices, threads, uneven lanes and peak memory.
      accelerator_lanes: Batch sizes on a GPU or TPU.
      policies: Policies of the table of engines.
      settings: Predictions, keys of `instances.SETTINGS`.
      some: Policies of all other tables.
      repeats: Most repeats of a measurement.
      seconds: A measurement stops repeating (after three) when a contender has used so much.
      growth_n: Numbers of requests, the first for reference.
      growth_lanes: Batch size for growth.
      factors: (outputs, memory) as multiples.
      reference: Whether the plain reference simulates one instance.
      fraction: Share of the rows of a trace.
    """

    n: int = 2000
    memory: int = 16_492
    lanes: tuple[int, ...] = (1, 16, 64, 1024)
    wide: int = 1024
    accelerator_lanes: tuple[int, ...] = (256, 1024, 4096, 16_384, 65_536)
    policies: tuple[str, ...] = ("h_sf", "a_max", "a_min:on_eviction", "a_min:every_round")
    settings: tuple[str, ...] = ("one interval", "ten classes", "(1 ± 0.5)o")
    some: tuple[str, ...] = ("h_sf", "a_min:on_eviction")
    repeats: int = 5
    seconds: float = 3.0
    growth_n: tuple[int, ...] = (2000, 500, 10_000, 100_000)
    growth_lanes: int = 16
    factors: tuple[tuple[int, int], ...] = ((1, 1), (8, 8), (32, 32), (1, 8))
    reference: bool = True
    fraction: float = 1.0

    def rows(self, whole: int) -> int:
        """Rows of an imitation of a trace that has so many."""
        return round(whole * self.fraction)


FULL = Scale()
QUICK = Scale(
    fraction=0.02,
    lanes=(1, 64),
    wide=64,
    accelerator_lanes=(256, 4096),
    policies=("h_sf", "a_min:on_eviction"),
    settings=("one interval", "ten classes"),
    repeats=3,
    seconds=2.0,
    growth_n=(2000, 500, 10_000),
    factors=((1, 1), (8, 8), (1, 8)),
)
