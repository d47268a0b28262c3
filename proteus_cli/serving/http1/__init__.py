"""HTTP/1.1 on a connection: heads, bodies, limits, compression. Knows nothing of inference."""
