"""Mean latency against the number of requests, one panel per prediction (arXiv 2508.14544).

Usage:

    jaxsched run configs/paper.toml --out out/paper
    python -m experiments.latency_against_n out/paper
"""

import sys
from pathlib import Path

from jaxsched.report import figures, plots
from jaxsched.studies import store


def main(folder: str) -> None:
    """Draws the figure from `folder`/results.parquet into `folder`/figures."""
    figure = figures.latency_against_n(store.read_results(folder))
    print(plots.save(figure, Path(folder, "figures", "latency_against_n")))


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) == 2 else sys.exit(__doc__)
