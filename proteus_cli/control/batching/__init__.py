"""Batching rules: how large a batch is, and when it starts."""
