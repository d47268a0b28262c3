"""HTTP/1.1 connections and their limits. Knows nothing of inference."""
