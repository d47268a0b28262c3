"""Attacks on a live server, and what a well-behaved client beside them notices."""
