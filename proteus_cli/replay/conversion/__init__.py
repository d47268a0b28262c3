"""Traces of others, and in other forms, made into our arrivals: in one stream, sorted outside of memory."""
