"""Mean latency relative to hindsight against the width of the predicted intervals.

What wide intervals cost A_max and A_min at the largest number of requests (arXiv 2508.14544).

Usage:

    jaxsched run configs/paper.toml --out out/paper
    python -m experiments.ratio_against_width out/paper
"""

import sys
from pathlib import Path

from jaxsched.report import figures, plots
from jaxsched.studies import store


def main(folder: str) -> None:
    """Draws the figure from `folder`/results.parquet into `folder`/figures."""
    figure = figures.ratio_against_width(store.read_results(folder))
    print(plots.save(figure, Path(folder, "figures", "ratio_against_width")))


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) == 2 else sys.exit(__doc__)
