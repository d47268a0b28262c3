"""The live view of `proteus serve` in a terminal."""
