"""Plots, for pages and as files; importing any of its modules loads matplotlib."""
