"""Sockets, TLS, bearer tokens, and the limits that all connections share. Knows no protocol."""
