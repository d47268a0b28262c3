"""Admission: whether a request can be answered in time."""

import math


def fits(rows: int, capacity_qps: float, budget_s: float) -> bool:
    """Whether ``rows``, a request's own and those before it, can be answered in ``budget_s`` at that rate."""
    return rows <= capacity_qps * budget_s


def retry_after_s(rows: int, capacity_qps: float) -> float:
    """Whole seconds, at least one, until ``rows`` are answered at that rate."""
    return float(max(1, math.ceil(rows / capacity_qps))) if capacity_qps > 0 else 1.0
