"""Versions of variants that are rolled out while the server serves; `version_rollouts` has the theory of operation."""
