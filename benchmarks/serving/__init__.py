"""`proteus serve` and other servers, side by side on this machine: ``python -m benchmarks.serving``."""
