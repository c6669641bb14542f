"""Measured comparisons with named peers, on data and checkpoints of your own: `python -m benchmarks.NAME --help`."""
