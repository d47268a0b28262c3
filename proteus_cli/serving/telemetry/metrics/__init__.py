"""``/metrics``: what is exported to Prometheus, a module for each subject, and how it is written."""
