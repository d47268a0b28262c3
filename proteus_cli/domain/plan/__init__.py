"""Which device hosts which variant, and the rules of plans. `domain/plan_changes/` has what lies between two plans."""
