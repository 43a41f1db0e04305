"""Does length prediction help? What policies gain over fcfs, against the memory pressure.

Usage:

    jaxsched run configs/serving.toml --out out/serving
    python -m experiments.gain_from_prediction out/serving
"""

import sys
from pathlib import Path

from jaxsched.report import plots
from jaxsched.report.figures import gain_from_prediction
from jaxsched.studies import store


def main(folder: str) -> None:
    """Draws the figure from `folder`/results.parquet into `folder`/figures."""
    figure = gain_from_prediction(store.read_results(folder))
    print(plots.save(figure, Path(folder, "figures", "gain_from_prediction")))


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) == 2 else sys.exit(__doc__)
