"""The controller against its oracle, on many kinds of arrivals: run by ``python -m benchmarks.arrivals``."""
