"""What `proteus serve` runs: a plan, its devices and models, and what a running server takes from the workspace."""
