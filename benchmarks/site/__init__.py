"""A whole Channels site on each layer: `make bench-site`, or ``python -m benchmarks.site``."""
