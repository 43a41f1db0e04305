"""Presets: fits to public measurements, named by model and hardware.

The fit (R², and MAPE where known) says how well the formula reproduces the measurements or the
composed operator model named, not how well it predicts another engine or version. Nothing refuses a
simulation outside of a preset's range.
"""

from __future__ import annotations

from collections.abc import Callable

from jaxsched.clocks.formula import Clock, Energy


def llama2_70b_2xa100() -> Clock:
    """Llama2-70B on two A100 (tensor parallel), prompts and decodes mixed; the hinge.

    59.79 + 0.3401·max(0, P + D - 56) + 1.27e-4·K ms. R² 0.997, MAPE 3.6 %, to a composition of
    Vidur's A100 operator profiles (MIT). Against hardware: a prefill of 512 tokens takes 195 to 197
    ms measured, 194.5 composed, 215 here; of 4,096 tokens 1,485, 1,503 and 1,435; one decode 54.9
    to 60.0, 59.4 and 59.8. An older engine took 0.4 to 0.56 ms for each decoding request where the
    composition has 0.12: a known disagreement. The papers' worker has M = 16,492 (2502.07115).
    """
    return Clock(
        fixed=59.79e-3, per_cache_token=1.27e-7, per_token_beyond=0.3401e-3, free_tokens=56
    )


def llama2_70b_2xa100_affine() -> Clock:
    """Llama2-70B on two A100, prompts and decodes mixed, without the hinge.

    53.58 + 0.3168·P + 0.1726·D + 9.60e-5·K ms. R² 0.987, MAPE 6.7 %, to the same composition as
    `llama2_70b_2xa100`, with the same limits; for comparisons with theory that wants a line.
    """
    return Clock(
        fixed=53.58e-3,
        per_prompt_token=0.3168e-3,
        per_request=0.1726e-3,
        per_cache_token=9.60e-8,
    )


def llama2_70b_2xa100_decode() -> Clock:
    """Llama2-70B on two A100, decoding only: prompts cost nothing.

    58.26 + 0.1214·D + 6.12e-5·K ms. MAPE 2.4 % for K up to 16,492, to the same composition as
    `llama2_70b_2xa100`. For a worker whose prefills run elsewhere.
    """
    return Clock(fixed=58.26e-3, per_request=0.1214e-3, per_cache_token=6.12e-8)


def llama2_70b_4xa100() -> Clock:
    """Llama2-70B on four A100, prompts and decodes mixed.

    39.36 + 0.1862·max(0, P + D - 64) + 6.54e-5·K ms. R² 0.999, MAPE 4.2 %, to Vidur's operator
    profiles (MIT) with AIConfigurator's attention tables (Apache-2.0), composed.
    """
    return Clock(
        fixed=39.36e-3, per_cache_token=6.54e-8, per_token_beyond=0.1862e-3, free_tokens=64
    )


def llama2_7b_a100() -> Clock:
    """Llama2-7B on one A100, prompts and decodes mixed.

    9.81 + 0.0640·max(0, P + D - 48) + 2.85e-4·K ms. R² 0.989, MAPE 5.5 %, to Vidur's operator
    profiles (MIT) with AIConfigurator's attention tables (Apache-2.0), composed.
    """
    return Clock(fixed=9.81e-3, per_cache_token=2.85e-7, per_token_beyond=0.0640e-3, free_tokens=48)


def llama31_8b_h100() -> Clock:
    """Llama-3.1-8B on one H100, in a steady state.

    6.67 + 0.0758·D ms. R² 0.999 for D up to 256, to the measurements of the ML.ENERGY leaderboard
    v3 (Apache-2.0). They are means of a steady state, so prefill is spread over the rounds: a long
    prompt takes no longer than a short one, and the cache costs nothing. TTFT is then no more than
    queueing and one mean round.
    """
    return Clock(fixed=6.67e-3, per_request=0.0758e-3)


def llama31_70b_4xh100() -> Clock:
    """Llama-3.1-70B on four H100, in a steady state.

    16.42 + 0.0914·D ms. R² 0.998 for D up to 256, to the measurements of the ML.ENERGY leaderboard
    v3 (Apache-2.0), with the limits of `llama31_8b_h100`.
    """
    return Clock(fixed=16.42e-3, per_request=0.0914e-3)


def llama2_70b_2xa100_energy() -> Energy:
    """34.3 + 0.0714·D + 3.6e-5·K + 0.30·P joules a round, for the three clocks of that hardware.

    A decode's power, 0.735 of 400 W on each board (splitwise-sim's measured table, MIT), times the
    time of a decode; ±10 % or more.
    """
    return Energy(fixed=34.3, per_prompt_token=0.30, per_request=0.0714, per_cache_token=3.6e-5)


def llama31_8b_h100_energy() -> Energy:
    """3.32 + 0.0654·D joules a round; R² 0.997, ML.ENERGY leaderboard v3 (Apache-2.0)."""
    return Energy(fixed=3.32, per_request=0.0654)


def llama31_70b_4xh100_energy() -> Energy:
    """26.73 + 0.3716·D joules a round; R² 0.999, ML.ENERGY leaderboard v3 (Apache-2.0)."""
    return Energy(fixed=26.73, per_request=0.3716)


PRESETS: dict[str, Callable[[], Clock]] = {
    function.__name__: function
    for function in (
        llama2_70b_2xa100,
        llama2_70b_2xa100_affine,
        llama2_70b_2xa100_decode,
        llama2_70b_4xa100,
        llama2_7b_a100,
        llama31_8b_h100,
        llama31_70b_4xh100,
    )
}
"""Clocks by name."""

ENERGY: dict[str, Callable[[], Energy]] = {
    "llama2_70b_2xa100": llama2_70b_2xa100_energy,
    "llama2_70b_2xa100_affine": llama2_70b_2xa100_energy,
    "llama2_70b_2xa100_decode": llama2_70b_2xa100_energy,
    "llama31_8b_h100": llama31_8b_h100_energy,
    "llama31_70b_4xh100": llama31_70b_4xh100_energy,
}
"""Energy by the name of the clock that it belongs to; the other presets have none."""


def clock(name: str) -> Clock:
    """Looks a preset up by name.

    Raises:
      ValueError: If there is no such preset; the text lists the right names.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"clock {name!r} is unknown; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]()


def energy(name: str) -> Energy | None:
    """The energy that goes with the clock of this name; None if none was published.

    Raises:
      ValueError: If there is no such clock.
    """
    clock(name)
    return ENERGY[name]() if name in ENERGY else None
