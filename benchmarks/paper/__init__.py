"""The paper's experiments, and ours beside them: a module for each figure, run by ``python -m benchmarks.paper``."""
