"""Samples: requests that a server has captured, what it answered, and the labels that it was told, in files."""
