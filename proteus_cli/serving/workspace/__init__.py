"""A server and its workspace: the deployment that `proteus serve` runs, and the plans, profiles and models it reads."""
