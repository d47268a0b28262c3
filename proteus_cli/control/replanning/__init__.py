"""When a new plan is needed, for which demand, and when to try again after a failure."""
