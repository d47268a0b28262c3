"""The catalog of a running server; `live_catalog` has the theory of operation."""
