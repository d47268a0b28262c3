"""The paper's experiments, and ours beside them: ``python -m benchmarks.paper``."""
