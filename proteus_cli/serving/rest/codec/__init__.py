"""Inference requests and answers over REST, read and written: JSON, and binary tensors behind it."""
