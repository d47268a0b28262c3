"""The data plane: every request enters through `DataPlane.submit` and ends there, exactly once. Knows no protocol."""
