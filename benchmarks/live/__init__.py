"""Live servers on this machine while something changes: ``python -m benchmarks.live``."""
