"""Traces of arrivals: read, written, scaled, synthesised, converted, and replayed against a server."""
