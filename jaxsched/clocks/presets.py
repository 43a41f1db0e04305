"""Presets: fits to public measurements, named by model and hardware; `PRESETS` has them all.

The fit (R², and MAPE where known) says how well the formula reproduces the measurements or the
composed operator model named, not how well it predicts another engine or version. Nothing refuses a
simulation outside of a preset's range.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from jaxsched.clocks.formula import Clock, Energy


@dataclasses.dataclass(frozen=True)
class EnergyFit:
    """The energy of a round on some hardware."""

    energy: Energy
    source: str  # whose numbers it is fitted to, and how well


@dataclasses.dataclass(frozen=True)
class Preset:
    """A clock with a name; calling it gives the `Clock`.

    Attributes:
      about: Model, hardware and what its rounds hold, in a line.
      clock: The coefficients.
      fit: How well they reproduce what they are fitted to.
      source: Whose numbers that is.
      note: What else there is to know.
      energy: The energy of the same hardware; None if none was published.
    """

    about: str
    clock: Clock
    fit: str
    source: str
    note: str = ""
    energy: EnergyFit | None = None

    def __call__(self) -> Clock:
        """The clock."""
        return self.clock


COMPOSED = "Vidur's A100 operators (MIT), composed"
COMPOSED_TOO = "Vidur (MIT), AIConfigurator's attention tables (Apache-2.0), composed"
STEADY = "ML.ENERGY leaderboard v3 (Apache-2.0), steady state"

# A decode's power, 0.735 of 400 W on each board, times the time of a decode.
LLAMA2_70B_2XA100 = EnergyFit(
    Energy(fixed=34.3, per_prompt_token=0.30, per_request=0.0714, per_cache_token=3.6e-5),
    "0.735 of 400 W a board (splitwise-sim's table, MIT), ±10 % or more",
)

PRESETS: dict[str, Preset] = {
    "llama2_70b_2xa100": Preset(
        "Llama2-70B on two A100 (tensor parallel), prompts and decodes mixed; the hinge.",
        Clock(fixed=59.79e-3, per_cache_token=1.27e-7, per_token_beyond=0.3401e-3, free_tokens=56),
        fit="R² 0.997, MAPE 3.6 %",
        source=COMPOSED,
        note="""Against hardware: a prefill of 512 tokens takes 195 to 197 ms measured, 194.5
        composed, 215 here; of 4,096 tokens 1,485, 1,503 and 1,435; one decode 54.9 to 60.0, 59.4
        and 59.8. An older engine took 0.4 to 0.56 ms for each decoding request where the
        composition has 0.12: a known disagreement. The papers' worker has M = 16,492 (2502.07115).
        """,
        energy=LLAMA2_70B_2XA100,
    ),
    "llama2_70b_2xa100_affine": Preset(
        "Llama2-70B on two A100, prompts and decodes mixed, without the hinge.",
        Clock(53.58e-3, per_prompt_token=0.3168e-3, per_request=0.1726e-3, per_cache_token=9.60e-8),
        fit="R² 0.987, MAPE 6.7 %",
        source=COMPOSED,
        note="For comparisons with theory that wants a line; limits as of the hinge.",
        energy=LLAMA2_70B_2XA100,
    ),
    "llama2_70b_2xa100_decode": Preset(
        "Llama2-70B on two A100, decoding only: prompts cost nothing.",
        Clock(fixed=58.26e-3, per_request=0.1214e-3, per_cache_token=6.12e-8),
        fit="MAPE 2.4 %, K ≤ 16,492",
        source=COMPOSED,
        note="For a worker whose prefills run elsewhere.",
        energy=LLAMA2_70B_2XA100,
    ),
    "llama2_70b_4xa100": Preset(
        "Llama2-70B on four A100, prompts and decodes mixed.",
        Clock(fixed=39.36e-3, per_cache_token=6.54e-8, per_token_beyond=0.1862e-3, free_tokens=64),
        fit="R² 0.999, MAPE 4.2 %",
        source=COMPOSED_TOO,
    ),
    "llama2_7b_a100": Preset(
        "Llama2-7B on one A100, prompts and decodes mixed.",
        Clock(fixed=9.81e-3, per_cache_token=2.85e-7, per_token_beyond=0.0640e-3, free_tokens=48),
        fit="R² 0.989, MAPE 5.5 %",
        source=COMPOSED_TOO,
    ),
    "llama31_8b_h100": Preset(
        "Llama-3.1-8B on one H100, in a steady state.",
        Clock(fixed=6.67e-3, per_request=0.0758e-3),
        fit="R² 0.999, D ≤ 256",
        source=STEADY,
        note="""Means of a steady state, so prefill is spread over the rounds: a long prompt takes
        no longer than a short one, and the cache costs nothing. TTFT is then no more than queueing
        and one mean round.""",
        energy=EnergyFit(Energy(fixed=3.32, per_request=0.0654), f"R² 0.997, {STEADY}"),
    ),
    "llama31_70b_4xh100": Preset(
        "Llama-3.1-70B on four H100, in a steady state.",
        Clock(fixed=16.42e-3, per_request=0.0914e-3),
        fit="R² 0.998, D ≤ 256",
        source=STEADY,
        note="With the limits of `llama31_8b_h100`.",
        energy=EnergyFit(Energy(fixed=26.73, per_request=0.3716), f"R² 0.999, {STEADY}"),
    ),
}
"""Clocks by name: an entry is all that a new one takes."""


def clock_rows() -> Iterator[tuple[str, ...]]:
    """Rows of the documentation's table: preset, milliseconds of a round, fit, source."""
    for name, preset in PRESETS.items():
        yield f"`{name}`", formula(preset.clock, 1e3), preset.fit, preset.source


def energy_rows() -> Iterator[tuple[str, ...]]:
    """Rows of the documentation's table: preset, joules of a round, source."""
    for name, preset in PRESETS.items():
        if preset.energy is not None:
            yield f"`{name}`", formula(preset.energy.energy, 1), preset.energy.source


def formula(law: Clock | Energy, scale: float) -> str:
    """A law of a round as text, in P, D and K; its coefficients times `scale`."""
    terms = {"": law.fixed, " P": law.per_prompt_token, " D": law.per_request}
    if isinstance(law, Clock):
        terms[f" max(0, P + D − {law.free_tokens})"] = law.per_token_beyond
    terms[" K"] = law.per_cache_token
    return " + ".join(_short(scale * value) + of for of, value in terms.items() if value)


def _short(value: float) -> str:
    return f"{value:.4g}" if value >= 1e-3 else f"{value:.2e}".replace("e-0", "e-")
