"""Colors, markers, lines and names: of policies, of what tunes them, of bounds, and the style.

Colors are Okabe and Ito's, which color-blind readers can tell apart; every policy also has a
marker and a line style of its own, so that the figures survive a black-and-white printer.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from matplotlib import rc_context

Line = str | tuple[int, tuple[float, ...]]


@dataclasses.dataclass(frozen=True)
class Look:
    """How a policy is drawn, and what it is called in a legend."""

    label: str
    color: str
    marker: str = ""
    line: Line = "-"


DASHES, DOTS, DASH_DOTS = (0, (4, 1)), (0, (1, 1)), (0, (3, 1, 1, 1))
LINES: tuple[Line, ...] = ("-", DASHES, DOTS, DASH_DOTS)

LOOKS = {
    "h_sf": Look("H-SF (hindsight)", "#000000", "o"),
    "a_max": Look("Aₘₐₓ", "#D55E00", "^"),
    "a_min:on_eviction": Look("Aₘᵢₙ, refined on eviction", "#0072B2", "s"),
    "a_min:every_round": Look("Aₘᵢₙ, refined every round", "#56B4E9", "D", DASHES),
    "mc_sf": Look("MC-SF (midpoint)", "#009E73", "v", DOTS),
    "fcfs": Look("FCFS", "#CC79A7", "P", DASH_DOTS),
    "tuned:lmsys_one": Look("tuned for one interval", "#A50F15", "*"),
    "tuned:lmsys_classes": Look("tuned for classes of 100", "#A50F15", "X", DASHES),
    "tuned:lmsys_relative": Look("tuned for (1 ± 0.5)o", "#A50F15", "h", DOTS),
    "svf:output": Look("SVF (hindsight)", "#E69F00", "p"),
    "svf:point": Look("SVF (midpoint)", "#7B3294", "X", DASHES),
    "svf:lower": Look("SVF (lower bound)", "#E69F00", ">", DASHES),
    "svf:upper": Look("SVF (upper bound)", "#E69F00", "<", DASH_DOTS),
    "sorted_f:output": Look("Sorted-F (hindsight)", "#882255", "*"),
    "sorted_f:point": Look("Sorted-F (midpoint)", "#882255", "X", DOTS),
    "sorted_f:lower": Look("Sorted-F (lower bound)", "#882255", ">", DASHES),
    "sorted_f:upper": Look("Sorted-F (upper bound)", "#882255", "<", DASH_DOTS),
    "gsa_spec": Look("GSA-Spec", "#999933", "h"),
    "gsa_spec:patience=1": Look("GSA, slices enforced", "#999933", "H", DASHES),
    "lcf": Look("fewest computed leaves", "#117733", "v", DASHES),
    "mcf": Look("most computed leaves", "#D55E00", "^", DOTS),
    "random_victim": Look("a random one leaves", "#737373", "x", DASH_DOTS),
    "remaining_volume": Look("remaining volume, no prediction", "#AA1E22", "o"),
    "remaining_volume:age=100": Look("the same, with ageing", "#AA1E22", "s", DOTS),
    "remaining_volume:lower": Look("remaining volume (lower bound)", "#7A3B99", ">", DASHES),
    "remaining_volume:point": Look("remaining volume (midpoint)", "#7A3B99", "v", DOTS),
    "remaining_volume:upper": Look("remaining volume (upper bound)", "#7A3B99", "<", DASH_DOTS),
    "remaining_volume:output": Look("remaining volume (hindsight)", "#7A3B99", "p"),
    "priority": Look("by priority", "#117733", "P", DASH_DOTS),
    "no_evict": Look("FCFS, upper bound reserved", "#117733", "s", DOTS),
    "past_future": Look("Past-Future", "#44AA99", "D"),
    "tie": Look("TIE", "#44AA99", "^", DASHES),
    "trail": Look("TRAIL", "#44AA99", "o", DOTS),
    "a_min:random_ties": Look("Aₘᵢₙ, ties drawn", "#0072B2", "x", DASH_DOTS),
}
"""Looks of the policies that are drawn in papers; `look_of` finds one for every other."""

METHOD_LOOKS = {
    "descent": Look("", "#0072B2"),
    "cma_es": Look("", "#D55E00", line=DASHES),
    "random": Look("", "#009E73", line=DOTS),
    "grid": Look("", "#CC79A7", line=DASH_DOTS),
}
"""Looks of the methods that tune a rule."""

SPARE_COLORS = ("#737373", "#A6761D", "#B2182B", "#4D9221")
SPARE_MARKERS = ("X", "*", "<", "p")
BOUND = Look("proved lower bound", "#777777", "", ":")
FAINT = "#555555"
"""The color of subtitles and remarks."""

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.which": "major",
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "legend.frameon": False,
    # Text stays text in the PDF, and names with a dollar are no formulas.
    "pdf.fonttype": 42,
    "text.parse_math": False,
}

in_house_style = rc_context(STYLE)
"""Decorates a function that makes a figure."""


def look_of(name: str) -> Look:
    """The look of a policy or method; those not drawn in the papers get a spare color."""
    if name in LOOKS:
        return LOOKS[name]
    if name in METHOD_LOOKS:
        return METHOD_LOOKS[name]
    color, marker = divmod(sum(name.encode()) % 16, 4)
    return Look(name, SPARE_COLORS[color], SPARE_MARKERS[marker], "--")
