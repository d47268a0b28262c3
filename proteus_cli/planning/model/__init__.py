"""From catalog, profiles and rules to a mixed-integer program: their arrays, and the model over them."""
