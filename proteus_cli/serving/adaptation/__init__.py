"""The control loop: asks whether the plan still fits, has the solver make another, and puts it in force."""
