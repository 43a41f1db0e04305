"""`jaxsched clock fit`: a clock from measured rounds."""

from __future__ import annotations

import argparse

from jaxsched.clocks import fit, presets, texts
from jaxsched.policies.files import digest
from jaxsched.report.terminal import console, say
from jaxsched.studies import store


def run(args: argparse.Namespace) -> None:
    """Fits the clock, says how well it does, and writes it."""
    found = fit.fit_clock(fit.read_measurements(args.measurements))
    path = args.out or args.measurements.with_suffix(".toml")
    if path.suffix != ".toml":
        raise ValueError(f"--out: got {path}; expected a name that ends in .toml")
    remarks = {
        "ms per round": presets.formula(found.clock, 1e3),
        "fit": str(found),
        "from": f"{args.measurements.name}, sha256 {digest(str(args.measurements))}",
    }
    if path.exists():
        texts.read_clock(path)  # no clock is written over something else
    store.write_text(path, texts.clock_text(found.clock, remarks))
    out = console()
    say(out, f"ms per round: {remarks['ms per round']}")
    say(out, f"fit:          {found}")
    for name in found.unseen:
        say(out, f"{name} is not known: what it multiplies is the same in all rounds")
    say(out, f"clock:        {path}; use it as --clock {path}")
