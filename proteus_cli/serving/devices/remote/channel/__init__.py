"""Frames with messages and tensors, over TLS: what server and agent have in common."""
