"""What studies found: the artefact that all kinds have in common, telemetry, and the results of each kind."""
