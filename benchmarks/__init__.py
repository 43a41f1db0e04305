"""Speed of jaxsched, measured: `python -m benchmarks --help`, and README.md beside this file."""
