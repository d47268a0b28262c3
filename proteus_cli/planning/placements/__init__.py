"""From a solution to placements: which devices host which variants, and spares on those that are left idle."""
