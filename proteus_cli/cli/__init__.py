"""The command line: parse, load, call a stage, save, print. Stages are imported inside command bodies."""
