"""Questions about plans, answered by planning again: what limits one, why there is none, accuracy by demand."""
