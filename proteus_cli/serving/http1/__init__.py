"""HTTP/1.1 connections, compressed responses, limits. Knows nothing of inference."""
