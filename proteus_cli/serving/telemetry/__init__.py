"""Metrics, samples, status and traces: reads what the other planes count, and changes nothing."""
