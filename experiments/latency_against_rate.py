"""Mean and P99 end-to-end latency against the rate of arrivals, under real predictions.

Usage:

    jaxsched run configs/serving.toml --out out/serving
    python -m experiments.latency_against_rate out/serving
"""

import sys
from pathlib import Path

from jaxsched.report import plots
from jaxsched.report.figures import latency_against_rate
from jaxsched.studies import store


def main(folder: str) -> None:
    """Draws the figure from `folder`/results.parquet into `folder`/figures."""
    frame = store.read_results(folder)
    figure = latency_against_rate(frame, "real", ("mean_e2el", "p99_e2el"))
    print(plots.save(figure, Path(folder, "figures", "latency_against_rate")))


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) == 2 else sys.exit(__doc__)
