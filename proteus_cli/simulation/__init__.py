"""The simulator: drives the controller on a virtual clock."""
