"""Which variants to host where, and how to share the queries: formulate, solve, read back, check."""
