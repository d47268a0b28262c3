"""From a solution to placements: which devices host which variants, and spares on idle devices."""
