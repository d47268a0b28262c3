"""What changes plans and profiles while the server runs: the control loop, the solver, people, and recalibration."""
