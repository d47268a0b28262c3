"""What the peers run, each in its own environment: nothing here may import from this project but `models`."""
