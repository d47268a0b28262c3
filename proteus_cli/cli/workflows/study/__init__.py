"""Studies from the command line: run, written, shown."""
