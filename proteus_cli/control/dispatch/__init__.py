"""Requests: who is let in, which worker takes which rows, and when a batch starts."""
