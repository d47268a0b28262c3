"""Traces of arrivals, and what sends them: read, made, scaled, replayed."""
